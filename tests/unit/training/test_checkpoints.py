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


def start(out: Path, *files: Path, resume: bool = False, error: type[BaseException] | None = None) -> None:
    """Begin a run that writes some files, and end it by an error."""
    with checkpoints.run_folder(out, resume=resume):
        assert (out / "checkpoints").is_dir()
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}")
        if error is not None:
            raise error


def test_a_new_or_empty_folder_is_made_ready(tmp_path):
    (tmp_path / "empty").mkdir()
    for resume in (False, True):
        for out in (tmp_path / f"new-{resume}" / "deep", tmp_path / "empty"):
            start(out, resume=resume)
            assert (out / "checkpoints").is_dir()


@pytest.mark.parametrize("error", [ConfigError, KeyboardInterrupt])
def test_a_start_that_fails_leaves_nothing(tmp_path, error):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "new" / "deep", tmp_path / "empty"):
        with pytest.raises(error):
            start(out, out / "checkpoints" / "settings.json", out / "cache" / "frames", error=error)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert not any((tmp_path / "empty").iterdir())


def test_what_a_killed_start_left_is_as_good_as_new(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "cache").mkdir()
    start(tmp_path)
    with pytest.raises(ConfigError):
        start(tmp_path, error=ConfigError)
    assert not any(tmp_path.iterdir())


def test_a_failure_takes_away_nothing_that_was_there_or_trained(tmp_path):
    checkpoint, note = tmp_path / "new" / "run" / "checkpoints" / "checkpoint-1" / "weights", tmp_path / "a" / "note"
    old = tmp_path / "old" / "checkpoints" / "settings.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    for out, files, resume in (
        (tmp_path / "new" / "run", [checkpoint], False),
        (tmp_path / "a" / "run", [note], False),
        (tmp_path / "old", [], True),
    ):
        with pytest.raises(ConfigError):
            start(out, *files, resume=resume, error=ConfigError)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {checkpoint, note, old}


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with raises_exactly(
        ConfigError, f"out ({tmp_path / 'out'}) must be a folder, but it is a file. Choose another --out."
    ):
        start(tmp_path / "out", resume=True)


def test_a_used_folder_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with raises_exactly(
        ConfigError,
        f"out ({tmp_path}) must be new or empty, but it holds thesis.txt. "
        "Choose another --out, or add --resume to go on with the run that is in it.",
    ):
        start(tmp_path, resume=False)
    with raises_exactly(
        ConfigError,
        f"out ({tmp_path}) must hold a run to resume, but it holds thesis.txt and no checkpoints folder. "
        "Choose another --out.",
    ):
        start(tmp_path, resume=True)


def test_another_run_is_told_by_what_differs(tmp_path):
    checkpoints.check_same_run(tmp_path, {"epochs": 2, "mean": (0, 1), "old": 1})
    checkpoints.check_same_run(tmp_path, {"epochs": 2, "mean": [0, 1], "old": 1})
    with raises_exactly(
        ConfigError,
        "resume (True) must go on with the same run, but epochs was 2 and is 3, old was 1 and is None, "
        "new was None and is 'x'. Repeat its settings, or choose another --out.",
    ):
        checkpoints.check_same_run(tmp_path, {"epochs": 3, "mean": [0, 1], "new": "x"})


def test_a_run_begun_before_a_setting_had_a_name_is_the_same_at_its_default(tmp_path):
    checkpoints.check_same_run(tmp_path, {"epochs": 2})
    usual = {"epochs": 20, "mixup": 0.0, "mean": None}
    checkpoints.check_same_run(tmp_path, {"epochs": 2, "mixup": 0.0, "mean": None}, usual)
    with raises_exactly(
        ConfigError,
        "resume (True) must go on with the same run, but mixup was 0.0 and is 0.8. "
        "Repeat its settings, or choose another --out.",
    ):
        checkpoints.check_same_run(tmp_path, {"epochs": 2, "mixup": 0.8}, usual)


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


def test_json_holds_no_bare_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        checkpoints.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())
