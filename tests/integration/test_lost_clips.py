"""Clips that cannot be read any more while a run trains and scores: it goes on or stops as told, and says which."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from helpers import raises_exactly
from safetensors.torch import load_file

from apt_peft.errors import DataError
from apt_peft.scoring import EvaluateSettings, PredictSettings, evaluate_adapter, predict
from apt_peft.scoring.clips import look_over
from apt_peft.training import checkpoints
from apt_peft.training import train as train_module
from apt_peft.training.train import train
from apt_peft.training.trainer import PromptTrainer

GONE = "opening it failed: no such file or directory"
LOST = ("train/left/left_1.mp4", "test/up/up_0.mp4")


@pytest.fixture
def place(data, tmp_path):
    """A copy of the data, of which clips may go."""
    return Path(shutil.copytree(data, tmp_path / "data"))


@pytest.fixture
def lose(place, monkeypatch):
    """Take two clips away when all are looked over."""
    make_trainer = train_module._trainer

    def losing(*args):
        for name in LOST:
            (place / name).unlink()
        return make_trainer(*args)

    monkeypatch.setattr(train_module, "_trainer", losing)


def losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in json.loads((out / "run.json").read_text())["history"] if "loss" in entry]


def test_a_run_goes_on_without_them_and_resumes_exactly(quick, data, place, lose, tmp_path, monkeypatch):
    own = {"data": str(place), "sampling": "uniform", "on_error": "skip", "val_fraction": 0.0, "epochs": 3}
    whole = train(quick(**own, out=str(tmp_path / "whole")))
    run = json.loads((whole.out / "run.json").read_text())
    assert run["data"]["lost_while_training"] == {str(place / name): GONE for name in LOST}
    assert run["data"]["skipped"] == []
    assert run["result"]["test"]["clips"] == 5
    assert set(whole.skipped) == {str(place / name) for name in LOST}
    assert whole.test.skipped == (str(place / LOST[1]),)

    def restore():
        for name in LOST:
            shutil.copy2(data / name, place / name)

    restore()
    mark, calls = checkpoints.mark_complete, []

    def cut(*args, **kwargs):
        mark(*args, **kwargs)
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "mark_complete", cut)
        with pytest.raises(InterruptedError):
            train(quick(**own, out=str(tmp_path / "cut")))
    restore()  # what was lost stays so within a run, or its clips would come in another order
    resumed = train(quick(**own, out=str(tmp_path / "cut"), resume=True, workers=1))
    assert losses(resumed.out) == losses(whole.out)
    weights = [load_file(run.out / "adapter_model.safetensors") for run in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_where_nothing_is_lost_skip_trains_as_stop_does(quick, tmp_path):
    own = {"sampling": "uniform", "augment": "crop"}
    runs = [
        train(quick(**own, on_error=on_error, workers=workers, out=str(tmp_path / on_error)))
        for on_error, workers in (("stop", 0), ("skip", 1))  # nor does the number of workers matter
    ]
    assert losses(runs[0].out) == losses(runs[1].out)
    assert torch.equal(runs[0].test.scores, runs[1].test.scores)
    assert not (runs[1].out / "checkpoints" / "unreadable.jsonl").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux") or sys.version_info >= (3, 14), reason="workers are forked")
def test_a_clip_that_hangs_stops_a_run_that_then_goes_on(quick, data, place, tmp_path, monkeypatch):
    own = {"sampling": "uniform", "val_fraction": 0.0, "epochs": 2, "workers": 1, "out": str(tmp_path / "run")}
    clip, save = place / LOST[0], PromptTrainer._save_checkpoint

    def block(*args, **kwargs):
        save(*args, **kwargs)
        clip.unlink()
        os.mkfifo(clip)  # whoever opens it waits for somebody to write

    message = (
        f"video ({clip}) must be a readable video file, but reading it took longer than 2 s. Leave it out: "
        "--on-error skip goes on without such files."
    )
    with monkeypatch.context() as patch, raises_exactly(DataError, message):
        patch.setattr(PromptTrainer, "_save_checkpoint", block)
        train(quick(**own, data=str(place), time_limit=2.0))
    clip.unlink()
    shutil.copy2(data / LOST[0], clip)
    resumed = train(quick(**own, data=str(place), resume=True, on_error="skip"))
    whole = train(quick(**own | {"out": str(tmp_path / "whole")}, data=str(place)))
    assert losses(resumed.out) == losses(whole.out)


def test_clips_that_go_while_they_are_scored(quick, place, tmp_path, monkeypatch):
    adapter = str(train(quick(epochs=1)).out)
    lost = place / LOST[1]

    def losing(clips, settings):
        found = look_over(clips, settings)
        lost.unlink(missing_ok=True)
        return found

    for road in ("evaluating", "predicting"):
        monkeypatch.setattr(f"apt_peft.scoring.{road}.look_over", losing)
    common = {"adapter": adapter, "on_error": "skip", "progress": False, "threads": 1}
    result, _, _ = evaluate_adapter(EvaluateSettings(**common, data=str(place), out=str(tmp_path / "tables")))
    assert (len(result.names), result.skipped) == (5, (str(lost),))
    shutil.copy2(place / "test" / "up" / "up_1.mp4", lost)
    rows = predict(PredictSettings(**common, clips=str(lost.parent)))
    assert rows[-1] == {"clip": str(lost), "scores": [], "error": GONE}
    assert all(len(row["scores"]) == 3 for row in rows[:-1])
