"""Clips that end or block whoever decodes them, but in the middle of the file: the look-over reads their first frame alone."""

import json
import os
import shutil
from pathlib import Path

import clips
import numpy as np
import pytest
from breaking import FatalTransform
from helpers import raises_exactly

from apt_peft.errors import DataError
from apt_peft.scoring import EvaluateSettings, PredictSettings, evaluate_adapter, predict
from apt_peft.training.train import train
from apt_peft.video import keep_readable
from apt_peft.video.data import read_data

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes of their own"),
    # Python 3.12 and 3.13 say so of a fork in a process with threads
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
CRASHES, HANGS = "train/left/left_1.mp4", "train/up/up_2.mp4"
REASONS = {CRASHES: "it crashed the decoder (signal 11)", HANGS: "reading it took longer than 2 s"}
MUST = "video ({}) must be a readable video file, but {}."
# What a loader's worker can say no more is said for it.
OF_WORKERS = {CRASHES: "reading it ended a process of the data loader", HANGS: REASONS[HANGS]}
LEAVE_OUT = " Leave it out: --on-error skip goes on without such files."


@pytest.fixture
def fatal(monkeypatch, tmp_path):
    """Makes clips of a copy of the data fatal from their middle on."""
    monkeypatch.setattr("apt_peft.training.datasets.ClipTransform", FatalTransform)

    def make(data: Path, *names: str) -> Path:
        place, whole = shutil.copytree(data, tmp_path / "data"), clips.picture
        for name in names:
            level = 255 if name == CRASHES else 0

            def picture(index, width, height, seed, level=level):
                return whole(index, width, height, seed) if index < 6 else np.full((height, width, 3), level, np.uint8)

            with monkeypatch.context() as patch:
                patch.setattr(clips, "picture", picture)
                clips.write_clip(place / name, num_frames=12, width=32, height=24)
        return place

    return make


def settings(place: Path, **more):
    common = {"sampling": "uniform", "cache": "none", "val_fraction": 0.0, "time_limit": 2.0}
    return {"data": str(place), **common, **more}


def losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in json.loads((out / "run.json").read_text())["history"] if "loss" in entry]


def test_skip_goes_on_without_them(quick, data, fatal, tmp_path):
    place = fatal(data, CRASHES, HANGS)
    assert keep_readable(list(read_data(place).train))[1] == [], "the first frame of each is whole"
    runs = [
        train(quick(**settings(place, on_error="skip", workers=workers, epochs=1, out=str(tmp_path / f"{workers}"))))
        for workers in (0, 1)
    ]
    named = {str(place / name): reason for name, reason in REASONS.items()}
    for run in runs:
        found = json.loads((run.out / "run.json").read_text())["data"]
        assert (found["lost_while_training"], found["skipped"]) == (named, [])
        assert set(run.skipped) == set(named)
    assert losses(runs[0].out) == losses(runs[1].out)


@pytest.mark.parametrize("name", [CRASHES, HANGS])
@pytest.mark.parametrize("workers", [0, 1])
def test_stop_names_it(quick, data, fatal, name, workers):
    place = fatal(data, name)
    reason, remedy = (OF_WORKERS[name], LEAVE_OUT) if workers else (REASONS[name], "")
    with raises_exactly(DataError, MUST.format(place / name, reason) + remedy):
        train(quick(**settings(place, workers=workers)))


@pytest.mark.parametrize("workers", [0, 1])
def test_scoring_names_it(quick, data, fatal, tmp_path, workers):
    adapter = str(train(quick(**settings(data, epochs=1))).out)
    place = fatal(data, CRASHES)
    common = {"adapter": adapter, "progress": False, "threads": 1, "time_limit": 2.0, "workers": workers}
    out = {"data": str(place), "split": "train", "out": str(tmp_path / "tables")}
    reason, remedy = (OF_WORKERS[CRASHES], LEAVE_OUT) if workers else (REASONS[CRASHES], "")
    with raises_exactly(DataError, MUST.format(place / CRASHES, reason) + remedy):
        evaluate_adapter(EvaluateSettings(**common, **out))
    result, _, _ = evaluate_adapter(EvaluateSettings(**common, **out, on_error="skip"))
    assert (len(result.names), result.skipped) == (11, (str(place / CRASHES),))
    rows = predict(PredictSettings(**common, clips=str(place / "train" / "left"), on_error="skip"))
    assert rows[-1] == {"clip": str(place / CRASHES), "scores": [], "error": REASONS[CRASHES]}
