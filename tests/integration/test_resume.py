"""A run killed at any moment goes on as if nothing had happened."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import flags_of, killed_when, raises_exactly
from safetensors.torch import load_file

from apt_peft import ConfigError
from apt_peft.training import checkpoints
from apt_peft.training import train as train_module
from apt_peft.training.train import train
from apt_peft.training.trainer import PromptTrainer

EPOCHS = 12


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter_model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    for name, tensor in weights(one).items():
        assert torch.equal(weights(other)[name], tensor), name
    runs = [json.loads((out / "run.json").read_text()) for out in (one, other)]
    assert runs[0]["result"] == runs[1]["result"]
    assert runs[0]["chosen_step"] == runs[1]["chosen_step"]
    losses = [[entry["loss"] for entry in run["history"] if "loss" in entry] for run in runs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == runs[0]["settings"]["epochs"]


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_process_resumes_bit_for_bit(quick, tmp_path, after):
    settings = quick(epochs=EPOCHS, augment="crop", out=str(tmp_path / "killed"))
    folder = Path(settings.out) / "checkpoints"
    killed_when(lambda: len(seen(folder)) >= after, "-m", "apt_peft", "train", *flags(settings))
    assert not checkpoints.is_finished(Path(settings.out))

    train(quick(epochs=EPOCHS, augment="crop", out=settings.out, resume=True))
    train(quick(epochs=EPOCHS, augment="crop", out=str(tmp_path / "whole")))
    assert_same_run(tmp_path / "whole", Path(settings.out))


class Stop(Exception):
    """Where a test ends a run."""


def stop_in(monkeypatch, function: str, call: int, place=checkpoints) -> None:
    """End a run inside a save: in place of the given call of a function."""
    original, count = getattr(place, function), 0

    def stopping(*args, **kwargs):
        nonlocal count
        count += 1
        if count == call:
            raise Stop
        return original(*args, **kwargs)

    monkeypatch.setattr(place, function, stopping)


@pytest.mark.parametrize(
    ("function", "call", "torn"),
    [
        ("mark_complete", 1, ["checkpoint-3"]),
        ("mark_complete", 3, ["checkpoint-9"]),
        ("rotate", 2, []),
        ("move_in", 1, []),
    ],
)
def test_a_save_cut_short_is_passed_over_by_name(quick, tmp_path, monkeypatch, caplog, function, call, torn):
    settings = quick(epochs=4, out=str(tmp_path / "cut"))
    with monkeypatch.context() as patch:
        stop_in(patch, function, call)
        with pytest.raises(Stop):
            train(settings)
    assert not checkpoints.is_finished(Path(settings.out))
    assert checkpoints.choose(Path(settings.out) / "checkpoints")[1] == torn
    caplog.clear()
    train(quick(epochs=4, out=settings.out, resume=True))
    passed = [record.message for record in caplog.records if "incomplete" in record.message]
    assert passed == [f"{name} is incomplete (its saving was cut short) and is passed over." for name in torn]
    train(quick(epochs=4, out=str(tmp_path / "whole")))
    assert_same_run(tmp_path / "whole", Path(settings.out))


def test_other_clips_that_cannot_be_read_are_another_run(quick, data, tmp_path, monkeypatch):
    """Which clips are held out depends on which are left: going on would validate on clips that were trained on."""
    place = tmp_path / "data"
    shutil.copytree(data, place)
    settings = quick(data=str(place), on_error="skip", cache="none", out=str(tmp_path / "cut"))
    with monkeypatch.context() as patch:
        stop_in(patch, "rotate", 1)
        with pytest.raises(Stop):
            train(settings)
    broken = place / "train" / "left" / "left_1.mp4"
    broken.write_bytes(bytes(broken.stat().st_size))
    with raises_exactly(
        ConfigError,
        f"resume (True) must go on with the same run, but clips left out was None and is ['{broken}']. Repeat its settings, "
        "or choose another --out.",
    ):
        train(replace(settings, resume=True))


def test_a_run_cut_in_the_middle_of_moving_in_is_no_adapter_and_is_finished_by_resume(quick, tmp_path, monkeypatch):
    settings = quick(out=str(tmp_path / "cut"))
    replace, moved = os.replace, []

    def stopping(source, target):
        if Path(source).parent.name == checkpoints.PARTIAL and not Path(source).name.startswith("."):
            moved.append(Path(target).name)
            if len(moved) == 4:
                raise Stop
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "replace", stopping)
        with pytest.raises(Stop):
            train(settings)
    assert "adapter_config.json" not in moved
    assert not checkpoints.is_finished(Path(settings.out))
    train(quick(out=settings.out, resume=True))
    train(quick(out=str(tmp_path / "whole")))
    assert_same_run(tmp_path / "whole", Path(settings.out))
    assert not (Path(settings.out) / checkpoints.PARTIAL).exists()


def test_a_moved_folder_resumes_with_its_best_checkpoint(quick, tmp_path, monkeypatch):
    settings = quick(epochs=4, out=str(tmp_path / "here"))
    with monkeypatch.context() as patch:
        stop_in(patch, "rotate", 3)
        with pytest.raises(Stop):
            train(settings)
    shutil.move(tmp_path / "here", tmp_path / "there")
    train(quick(epochs=4, out=str(tmp_path / "there"), resume=True))
    train(quick(epochs=4, out=str(tmp_path / "whole")))
    assert_same_run(tmp_path / "whole", tmp_path / "there")


def test_the_published_augmentation_resumes_bit_for_bit(quick, tmp_path, monkeypatch):
    published = {"rand_augment": "rand-m4-n2-mstd0.2-inc1", "random_resized_crop": True, "repeated_augmentation": 2}
    labels = []
    original = PromptTrainer.loss

    def noted(self, outputs, targets, **options):
        labels.append(targets.tolist())
        return original(self, outputs, targets, **options)

    monkeypatch.setattr(PromptTrainer, "loss", noted)
    whole = quick(**published, val_fraction=0.0, batch_size=5, test=False, out=str(tmp_path / "whole"))
    train(whole)
    assert [len(batch) for batch in labels] == [10, 10, 4] * 2, "12 clips, each twice"
    assert all(batch[::2] == batch[1::2] and min(batch) >= 0 for batch in labels)
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["settings"].items() >= published.items()
    with monkeypatch.context() as patch:
        stop_in(patch, "mark_complete", 2)
        with pytest.raises(Stop):
            train(replace(whole, out=str(tmp_path / "stopped")))
    for name, value in {"rand_augment": None, "random_resized_crop": False, "repeated_augmentation": 1}.items():
        shown = f"{name} was {published[name]!r} and is {value!r}"
        with raises_exactly(
            ConfigError,
            f"resume (True) must go on with the same run, but {shown}. Repeat its settings, or choose another --out.",
        ):
            train(replace(whole, out=str(tmp_path / "stopped"), resume=True, **{name: value}))
    train(replace(whole, out=str(tmp_path / "stopped"), resume=True, workers=1))
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_resuming_where_nothing_was_saved_starts_from_the_beginning(quick, tmp_path, monkeypatch, caplog):
    settings = quick(out=str(tmp_path / "cut"))
    with monkeypatch.context() as patch:
        stop_in(patch, "_trainer", 1, place=train_module)
        with pytest.raises(Stop):
            train(settings)
    train(quick(out=settings.out, resume=True))
    assert "has no complete checkpoint; training starts from the beginning." in caplog.text
    train(quick(out=str(tmp_path / "whole")))
    assert_same_run(tmp_path / "whole", Path(settings.out))


def test_resuming_a_finished_run_gives_its_result(quick, caplog):
    first = train(quick())
    again = train(quick(resume=True))
    assert "is finished; nothing is left to train." in caplog.text
    assert (again.top1, again.validation_top1, again.trained_parameters) == pytest.approx(
        (first.top1, first.validation_top1, first.trained_parameters), abs=1e-4
    )


def test_a_finished_run_of_before_a_setting_had_a_name_has_it_at_its_default(quick):
    first = train(quick(epochs=1))
    path = first.out / "run.json"
    values = json.loads(path.read_text())
    assert values["settings"].pop("loss") == "cross-entropy"
    path.write_text(json.dumps(values))
    assert train(quick(epochs=1, resume=True)).top1 == pytest.approx(first.top1, abs=1e-4)
    with raises_exactly(
        ConfigError,
        "resume (True) must go on with the same run, but loss was 'cross-entropy' and is 'focal'. "
        "Repeat its settings, or choose another --out.",
    ):
        train(quick(epochs=1, loss="focal", resume=True))


def test_a_run_with_other_settings_is_not_continued(quick, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in(patch, "rotate", 1)
        with pytest.raises(Stop):
            train(quick())
    with raises_exactly(
        ConfigError,
        "resume (True) must go on with the same run, but epochs was 2 and is 3, seed was 0 and is 1. "
        "Repeat its settings, or choose another --out.",
    ):
        train(quick(epochs=3, seed=1, resume=True))


def test_a_finished_run_with_other_settings_is_not_taken_for_this_one(quick):
    train(quick())
    with raises_exactly(
        ConfigError,
        "resume (True) must go on with the same run, but epochs was 2 and is 3. "
        "Repeat its settings, or choose another --out.",
    ):
        train(quick(epochs=3, resume=True))


def test_an_old_run_is_not_written_over(quick):
    settings = quick()
    train(settings)
    with raises_exactly(
        ConfigError,
        f"out ({settings.out}) must be new or empty, but it holds README.md, adapter_config.json, "
        "adapter_model.safetensors and 4 more. Choose another --out, or add --resume to go on with the run that is in it.",
    ):
        train(settings)


def flags(settings) -> list[str]:
    """The settings as the command line that a user would write."""
    defaults = type(settings)(model="m", data="d", out="o").as_dict()
    return flags_of({name: value for name, value in settings.as_dict().items() if value != defaults[name]})


def seen(folder: Path) -> list[Path]:
    """Checkpoints that exist in any state, deleted ones counted by the number of the newest."""
    found = checkpoints.numbered(folder)
    return [] if not found else [found[-1]] * (int(found[-1].name.split("-")[1]) // 3)
