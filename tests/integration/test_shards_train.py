"""Training, scoring and predicting from shards: as from loose files, and exact where a run goes on in mid-epoch."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_resume import Stop, assert_same_run, stop_in, weights

from apt_peft import cli
from apt_peft.errors import DataError
from apt_peft.training.train import train
from apt_peft.training.trainer import PromptTrainer
from apt_peft.video import read_data
from apt_peft.video.dataset import VideoDataset
from apt_peft.video.shards.write import ShardPlan, write_shards


@pytest.fixture(scope="module")
def shards(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    write_shards(read_data(data), out, ShardPlan(max_clips=4), root=str(data), workers=1)
    return out


@pytest.fixture
def seen(monkeypatch) -> list[str]:
    """Names of the training clips as this process reads them."""
    names, original = [], VideoDataset.__getitem__

    def noted(self, index):
        if self.training:
            names.append(self.clips[index].name.rpartition("/")[2])
        return original(self, index)

    monkeypatch.setattr(VideoDataset, "__getitem__", noted)
    return names


def test_a_run_that_ends_in_mid_epoch_goes_on_bit_for_bit(quick, shards, tmp_path, monkeypatch, seen):
    """12 clips, batches of 2: six steps an epoch, a checkpoint every four steps."""
    settings = quick(
        data=str(shards), batch_size=2, augment="crop", sampling="uniform", val_fraction=0.0, save_steps=4, shard_window=2,
        out=str(tmp_path / "whole"),
    )  # fmt: skip
    train(settings)
    uninterrupted = list(seen)
    assert len(uninterrupted) == 24
    assert sorted(uninterrupted[:12]) == sorted(uninterrupted[12:])
    assert uninterrupted[:12] != uninterrupted[12:]
    seen.clear()
    with monkeypatch.context() as patch:
        stop_in(patch, "mark_complete", 3)  # steps 4, 6, 8: the third one is torn
        with pytest.raises(Stop):
            train(replace(settings, out=str(tmp_path / "stopped")))
    assert sorted(path.name for path in (tmp_path / "stopped" / "checkpoints").glob("checkpoint-*")) == [
        "checkpoint-6", "checkpoint-8",
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        stop_in(patch, "mark_complete", 2)
        with pytest.raises(Stop):
            train(replace(settings, out=str(tmp_path / "early")))
    for name, trained in (("stopped", 12), ("early", 8)):
        seen.clear()
        train(replace(settings, out=str(tmp_path / name), resume=True))
        assert seen == uninterrupted[trained:], "no clip again, none left out"
        for tensor, wanted in weights(tmp_path / "whole").items():
            assert torch.equal(weights(tmp_path / name)[tensor], wanted), tensor
        runs = [json.loads((tmp_path / of / "run.json").read_text()) for of in ("whole", name)]
        losses = [[entry["loss"] for entry in run["history"] if "loss" in entry] for run in runs]
        assert losses[0] == losses[1]
        assert runs[0]["result"] == runs[1]["result"]


def test_workers_change_nothing_in_mid_epoch(quick, shards, tmp_path, monkeypatch):
    settings = quick(
        data=str(shards), epochs=1, batch_size=2, augment="crop", sampling="uniform", val_fraction=0.0, save_steps=3,
        test=False, cache="none",
    )  # fmt: skip
    train(replace(settings, out=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        stop_in(patch, "rotate", 1)
        with pytest.raises(Stop):
            train(replace(settings, out=str(tmp_path / "stopped"), workers=1))
    train(replace(settings, out=str(tmp_path / "stopped"), workers=2, resume=True))
    found = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_shards_that_were_moved_are_the_same_run(quick, shards, tmp_path, monkeypatch):
    settings = quick(data=str(shards), out=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        stop_in(patch, "rotate", 1)
        with pytest.raises(Stop):
            train(settings)
    moved = shutil.copytree(shards, tmp_path / "elsewhere" / "moved")
    train(replace(settings, data=str(moved), resume=True))
    train(replace(settings, out=str(tmp_path / "whole")))
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_evaluate_predict_and_check_read_them(quick, shards, data, tmp_path, capsys):
    adapter = str(tmp_path / "run")
    train(quick(data=str(data), out=adapter))
    test = f"{shards}/test-{{000000..000001}}.tar"
    words = ["--threads", "1", "--no-progress"]
    scores = []
    for place in (str(data), str(shards), test):
        assert cli.main(["evaluate", "--adapter", adapter, "--data", place, "--out", str(tmp_path / "e"), *words]) == 0
        scores.append(capsys.readouterr().out.splitlines()[0])
    assert scores[0] == scores[1] == scores[2]
    assert cli.main(["predict", "--adapter", adapter, test, "--json", *words]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 6
    assert cli.main(["check", str(shards), "--no-progress"]) == 0
    capsys.readouterr()
    hurt = Path(shutil.copytree(shards, tmp_path / "hurt")) / "train-000001.tar"
    held = bytearray(hurt.read_bytes())
    held[-1] ^= 1
    hurt.write_bytes(held)
    told = f"{hurt} is damaged: its checksum differs, and its videos are as they were."
    assert cli.main(["check", str(hurt.parent), "--no-progress"]) == 1
    assert told in capsys.readouterr().out
    assert cli.main(["check", str(hurt.parent), "--no-progress", "--on-error", "skip"]) == 0
    assert told in capsys.readouterr().out
    assert cli.main(["check", str(hurt.parent), "--no-progress", "--no-decode"]) == 0
    assert told not in capsys.readouterr().out


def test_a_lost_clip_stops_training_or_is_left_out(quick, shards, tmp_path):
    out = shutil.copytree(shards, tmp_path / "cut")
    path = out / "train-000002.tar"
    path.write_bytes(path.read_bytes()[:2000])
    told = r"(?s)videos \(4 of 18\) must be readable.*train-000002\.tar/\d{8}_\w+\.mp4: its shard has 2,000 bytes"
    with pytest.raises(DataError, match=told):
        train(quick(data=str(out)))
    result = train(quick(data=str(out), on_error="skip"))
    assert len(result.skipped) == 4
    assert all("train-000002.tar/" in name for name in result.skipped)


def test_the_command(data, tmp_path, capsys):
    words = ["shard", str(data), str(tmp_path / "out"), "--max-clips", "4", "--no-progress", "--seed", "3"]
    assert cli.main(words) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in told[:2]] == ["train: 12 clips in 3 shards", "test: 6 clips in 2 shards"]
    assert told[2:] == [
        "clips of one video: not known, each is taken for a video of its own (--group-by)",
        f"use them: --data {tmp_path / 'out'}",
    ]
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["train"]["clips"] == 12
    assert cli.main([*words[:-1], "4"]) == 2
    assert "but seed was 3 and is 4. Repeat them, or choose another place." in capsys.readouterr().err


def test_balanced_sampling_keeps_to_the_order_of_shards(quick, shards, monkeypatch):
    """Each shard is opened for its clips of an epoch, and not again."""
    read, draw = [], VideoDataset.draw

    def noted(self, index, occurrence=0):
        if self.training:
            read.append(self.clips[index].source.shard)
        return draw(self, index, occurrence)

    monkeypatch.setattr(VideoDataset, "draw", noted)
    train(quick(data=str(shards), balanced_sampling=True, shard_window=1, val_fraction=0.0, epochs=2, test=False))
    assert len(read) == 24
    for epoch in (read[:12], read[12:]):
        assert len(list(itertools.groupby(epoch))) == len(set(epoch)) == 3


def test_the_order_of_clips_that_lie_in_no_shard_is_as_before(quick, monkeypatch):
    samplers = []
    original = PromptTrainer._get_train_sampler

    def noted(self, *args):
        samplers.append(original(self, *args))
        return samplers[-1]

    monkeypatch.setattr(PromptTrainer, "_get_train_sampler", noted)
    train(quick(epochs=1, test=False))
    assert [type(sampler) for sampler in samplers] == [torch.utils.data.RandomSampler]
