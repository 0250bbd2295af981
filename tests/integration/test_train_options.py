"""Runs with mixed and erased clips, weighted classes and balanced epochs: what is divided by what, and resume."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clips import write_classes
from safetensors.torch import load_file
from test_resume import Stop, assert_same_run, stop_in

from apt_peft.training import checkpoints
from apt_peft.training.losses import IGNORED
from apt_peft.training.train import train


@pytest.fixture(scope="module")
def skewed(tmp_path_factory) -> Path:
    """Eight, three and two clips of three classes."""
    root = tmp_path_factory.mktemp("skewed")
    write_classes(root, ["down", "left", "up"], clips=8, num_frames=6, width=32, height=24)
    for name, kept in (("left", 3), ("up", 2)):
        for path in sorted((root / name).iterdir())[kept:]:
            path.unlink()
    return root


def losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in json.loads((out / "run.json").read_text())["history"] if "loss" in entry]


WEIGHTED = {"class_weights": "balanced", "prompt_dropout": 0.0, "val_fraction": 0.0, "augment": "none"}


@pytest.mark.parametrize("focal", [False, True])
def test_a_step_of_several_batches_is_divided_by_the_weights_of_all_its_clips(quick, skewed, steps, focal, tmp_path):
    """The last step of an epoch has one clip. 13 clips: 13 / (3 n_c) is 13/24, 13/9 and 13/6."""
    given = WEIGHTED | {"data": str(skewed)} | ({"loss": "focal", "focal_gamma": 1.5} if focal else {})
    outs = {}
    for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
        steps.clear()
        settings = quick(
            **given,
            batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            out=str(tmp_path / str(batch_size)),
        )
        outs[batch_size] = losses(train(settings).out)
        weights = torch.tensor([13 / 24, 13 / 9, 13 / 6], dtype=torch.float64)
        for number in range(8):
            parts = [step for step in steps if step["step"] == number]
            logits, labels = (torch.cat([step[name] for step in parts]) for name in ("logits", "labels"))
            if focal:
                p = logits.softmax(dim=1)
                t = 0.9 * torch.eye(3, dtype=torch.float64)[labels] + 0.1 / 3
                wanted = -(weights * t * (1 - p) ** 1.5 * p.log()).sum() / weights[labels].sum()
            else:
                wanted = torch.nn.functional.cross_entropy(logits, labels, weight=weights, label_smoothing=0.1)
            assert sum(step["loss"] for step in parts) == pytest.approx(wanted.item(), abs=1e-6)
    assert outs[2] == pytest.approx(outs[4], abs=1e-5)
    assert outs[1] == pytest.approx(outs[4], abs=1e-5)


def test_an_epoch_is_balanced_and_another_one_has_other_clips(quick, skewed, steps):
    """15 clips an epoch, five of each class, in steps of four."""
    train(quick(data=str(skewed), balanced_sampling=True, val_fraction=0.0))
    epochs = [torch.cat([step["labels"] for step in steps if step["step"] // 4 == epoch]) for epoch in (0, 1)]
    for labels in epochs:
        assert Counter(labels.tolist()) == {0: 5, 1: 5, 2: 5}
    assert not torch.equal(*epochs)


def test_mixed_labels_reach_the_loss_and_are_counted_as_clips(quick, skewed, steps):
    train(quick(data=str(skewed), mixup=0.8, cutmix=1.0, val_fraction=0.0, gradient_accumulation_steps=2, epochs=3))
    mixed = 0
    for number in range(6):
        parts = [step for step in steps if step["step"] == number]
        logits, labels = (torch.cat([step[name] for step in parts]) for name in ("logits", "labels"))
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(len(labels)))
        mixed += int(((labels > 0).sum(dim=1) == 2).sum())
        wanted = torch.nn.functional.cross_entropy(logits, labels.double(), label_smoothing=0.1)
        assert sum(step["loss"] for step in parts) == pytest.approx(wanted.item(), abs=1e-6)
    assert mixed > 5


EVERYTHING = {
    "mixup": 0.8,
    "cutmix": 1.0,
    "mixup_prob": 0.9,
    "random_erasing": 0.5,
    "repeated_augmentation": 2,
    "balanced_sampling": True,
    "loss": "focal",
    "augment": "crop",
}


def test_all_of_it_resumes_bit_for_bit(quick, skewed, tmp_path, monkeypatch, steps):
    whole = quick(**EVERYTHING, data=str(skewed), epochs=3, val_fraction=0.0, test=False, out=str(tmp_path / "whole"))
    train(whole)
    rows = [step["labels"] for step in steps]
    assert [len(labels) for labels in rows] == [8, 8, 8, 6] * 3
    assert not any((labels == IGNORED).any() for labels in rows)
    steps.clear()
    with monkeypatch.context() as patch:
        stop_in(patch, "mark_complete", 3)
        with pytest.raises(Stop):
            train(replace(whole, out=str(tmp_path / "stopped")))
    train(replace(whole, out=str(tmp_path / "stopped"), resume=True, workers=1))
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    resumed = [step["labels"] for step in steps[-4:]]
    assert all(torch.equal(one, other) for one, other in zip(rows[-4:], resumed, strict=True))


@pytest.mark.parametrize("features", [False, True])
def test_a_run_goes_on_in_the_middle_of_an_epoch(quick, skewed, tmp_path, monkeypatch, features):
    """Four steps an epoch, saved after 3, 4, 6, 8, ...: stopped in the save after step 8, so begun again after step 6."""
    given = dict(EVERYTHING)
    if features:
        given |= {"method": "linear", "feature_cache": "auto", "feature_views": 2, "mixup": 0.0, "cutmix": 0.0}
        del given["mixup_prob"]
    whole = quick(
        **given, data=str(skewed), epochs=3, val_fraction=0.0, test=False, save_steps=3, out=str(tmp_path / "whole")
    )
    train(whole)
    with monkeypatch.context() as patch:
        stop_in(patch, "mark_complete", 4)
        with pytest.raises(Stop):
            train(replace(whole, out=str(tmp_path / "stopped")))
    assert checkpoints.choose(tmp_path / "stopped" / "checkpoints")[0].name == "checkpoint-6"
    train(replace(whole, out=str(tmp_path / "stopped"), resume=True))
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
