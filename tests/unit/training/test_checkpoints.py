"""Whole checkpoints and torn ones, folders that a run may use, and what is moved in last."""

import os
from pathlib import Path

import pytest
from helpers import raises_exactly

from apt_peft import ConfigError
from apt_peft.training import checkpoints


def save(folder: Path, step: int, *, whole: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / "deep").mkdir(parents=True)
    (checkpoint / "weights").write_bytes(b"12345")
    (checkpoint / "deep" / "state").write_bytes(b"1")
    if whole:
        checkpoints.mark_complete(checkpoint, step=step)
    return checkpoint


def test_the_highest_whole_checkpoint_is_chosen_and_torn_ones_are_named(tmp_path):
    assert checkpoints.choose(tmp_path / "nothing") == (None, [])
    save(tmp_path, 9)
    wanted = save(tmp_path, 10)
    save(tmp_path, 20, whole=False)
    (tmp_path / "checkpoint-x").mkdir()
    assert checkpoints.choose(tmp_path) == (wanted, ["checkpoint-20"])


@pytest.mark.parametrize("damage", ["cut", "gone", "marker cut", "marker empty"])
def test_a_damaged_checkpoint_is_not_whole(tmp_path, damage):
    checkpoint = save(tmp_path, 1)
    assert checkpoints.read_marker(checkpoint) == {"step": 1, "files": {"deep/state": 1, "weights": 5}}
    if damage == "cut":
        (checkpoint / "weights").write_bytes(b"123")
    elif damage == "gone":
        (checkpoint / "deep" / "state").unlink()
    elif damage == "marker cut":
        (checkpoint / checkpoints.MARKER).write_text('{"step": 1, "files"')
    else:
        (checkpoint / checkpoints.MARKER).write_text("{}")
    assert checkpoints.read_marker(checkpoint) is None


def test_a_deletion_takes_the_marker_first(tmp_path, monkeypatch):
    checkpoint = save(tmp_path, 1)

    def cut_short(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.shutil, "rmtree", cut_short)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.delete(checkpoint)
    assert (checkpoint / "weights").exists()
    assert checkpoints.read_marker(checkpoint) is None


def test_rotation_keeps_what_it_is_told_to_keep(tmp_path):
    kept = {save(tmp_path, 1), save(tmp_path, 12)}
    save(tmp_path, 2)
    save(tmp_path, 3, whole=False)
    (tmp_path / "settings.json").write_text("{}")
    checkpoints.rotate(tmp_path, kept)
    assert set(checkpoints.numbered(tmp_path)) == kept
    assert (tmp_path / "settings.json").exists()


def test_a_new_or_empty_folder_is_made_ready(tmp_path):
    for resume in (False, True):
        out = tmp_path / f"new-{resume}" / "deep"
        checkpoints.prepare_folder(out, resume=resume)
        assert (out / "checkpoints").is_dir()
    (tmp_path / "empty").mkdir()
    checkpoints.prepare_folder(tmp_path / "empty", resume=False)
    checkpoints.prepare_folder(tmp_path / "empty", resume=True)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with raises_exactly(
        ConfigError, f"out ({tmp_path / 'out'}) must be a folder, but it is a file. Choose another --out."
    ):
        checkpoints.prepare_folder(tmp_path / "out", resume=True)


def test_a_used_folder_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with raises_exactly(
        ConfigError,
        f"out ({tmp_path}) must be new or empty, but it holds thesis.txt. "
        "Choose another --out, or add --resume to go on with the run that is in it.",
    ):
        checkpoints.prepare_folder(tmp_path, resume=False)
    with raises_exactly(
        ConfigError,
        f"out ({tmp_path}) must hold a run to resume, but it holds thesis.txt and no checkpoints folder. "
        "Choose another --out.",
    ):
        checkpoints.prepare_folder(tmp_path, resume=True)


def test_another_run_is_told_by_what_differs(tmp_path):
    checkpoints.check_same_run(tmp_path, {"epochs": 2, "mean": (0, 1), "old": 1})
    checkpoints.check_same_run(tmp_path, {"epochs": 2, "mean": [0, 1], "old": 1})
    with raises_exactly(
        ConfigError,
        "resume (True) must go on with the same run, but epochs was 2 and is 3, old was 1 and is None, "
        "new was None and is 'x'. Repeat its settings, or choose another --out.",
    ):
        checkpoints.check_same_run(tmp_path, {"epochs": 3, "mean": [0, 1], "new": "x"})


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    checkpoints.write_json(tmp_path / "a.json", {"é": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "é": 1\n}\n'

    def cut_short(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.os, "replace", cut_short)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "é": 1\n}\n'


def test_the_file_that_makes_an_adapter_is_moved_last(tmp_path, monkeypatch):
    partial, out = tmp_path / "partial", tmp_path / "out"
    (partial / "evaluation").mkdir(parents=True)
    (partial / "evaluation" / "new").write_text("new")
    (out / "evaluation").mkdir(parents=True)
    (out / "evaluation" / "old").write_text("old")
    for name in ("adapter_config.json", "run.json", "zebra"):
        (partial / name).write_text(name)
    replace, order = os.replace, []

    def recording(source, target):
        order.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(checkpoints.os, "replace", recording)
    assert not checkpoints.is_finished(out)
    checkpoints.move_in(partial, out)
    assert set(order[:-1]) == {"evaluation", "run.json", "zebra"}
    assert order[-1] == "adapter_config.json"
    assert checkpoints.is_finished(out)
    assert [path.name for path in (out / "evaluation").iterdir()] == ["new"]
    assert not partial.exists()
