"""Trainer (`apt-peft train`) and the Accelerate loop of examples/: one arithmetic, step by step."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from launching import ROOT
from safetensors.torch import load_file

from apt_peft.cli import main
from apt_peft.training.recipes import RECIPES
from apt_peft.video import read_data

EXAMPLE = ROOT / "examples" / "train_accelerate.py"
# What of a published recipe does not fit into seconds, three layers and 16 pixels; rates are larger there, to be seen.
SHRUNK = "--no-fp16 --num-frames 4 --size 16 --layers-to-transform 0 1 2 --batch-size 5 --epochs 3 --warmup-epochs 1"
TINY = "--num-prompt-tokens 3 --epochs 3"
WAYS = {
    # twelve clips: the last batch of an epoch has two
    "plain": f"{TINY} --batch-size 5",
    "no dropout, absolute rates, own seed": f"{TINY} --batch-size 4 --prompt-dropout 0 --lr 0.3 --seed 7",
    "from data": f"{TINY} --batch-size 8 --init-weights data --reparameterization softplus --augment crop --no-flip",
    "dense recipe": f"--recipe ucf101-vit-small-p400 --num-prompt-tokens 7 {SHRUNK} --lr 12",
    "uniform recipe": f"--recipe ssv2-vit-small-p400-no-reparameterization --num-prompt-tokens 7 {SHRUNK} --lr 12",
    "linear recipe": f"--recipe ucf101-vit-base-linear {SHRUNK} --head-lr 5".replace(
        "--layers-to-transform 0 1 2 ", ""
    ),
}


@pytest.fixture
def losses(monkeypatch) -> list[float]:
    """The loss of every step, as Accelerate is handed it on either road."""
    seen: list[float] = []
    backward = Accelerator.backward

    def listening(self, loss, **kwargs):
        seen.append(loss.item())
        backward(self, loss, **kwargs)

    monkeypatch.setattr(Accelerator, "backward", listening)
    return seen


@pytest.mark.parametrize("way", WAYS)
def test_losses_are_equal_step_by_step(way, losses, backbone, data, tmp_path, monkeypatch, capsys):
    words = [*WAYS[way].split(), "--model", str(backbone), "--data", str(data)]
    by_trainer, by_loop = tmp_path / "trainer", tmp_path / "loop"
    more = ["--val-fraction", "0", "--no-progress", "--threads", "1", "--device", "cpu"]
    assert main(["train", *words, *more, "--out", str(by_trainer)]) == 0, capsys.readouterr().err
    wanted = losses.copy()
    losses.clear()
    monkeypatch.setattr(sys, "argv", ["train_accelerate.py", *words, "--out", str(by_loop)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert len(wanted) == len(losses) == 3 * (2 if "recipe" in way or "data" in way else 3)
    assert losses == pytest.approx(wanted, abs=1e-5)
    assert len({round(loss, 6) for loss in wanted}) == len(wanted), "every step sees something else"
    same_weights(by_trainer, by_loop)
    printed = capsys.readouterr().out
    assert printed.count("test top-1") == 2
    scores = [line.split("test top-1 ")[1].split(" %")[0] for line in printed.splitlines() if "test top-1" in line]
    assert scores[0] == scores[1]


def test_the_loop_tells_what_may_have_been_misunderstood(backbone, data, tmp_path, monkeypatch, capsys):
    """Both roads: folders of folders may be meant as classes."""
    deep = tmp_path / "clips" / "train"
    for number, name in enumerate(("a", "b")):
        (deep / name).mkdir(parents=True)
        (deep / name / "inner").symlink_to(sorted((data / "train").iterdir())[number])
    words = ["--model", str(backbone), "--data", str(deep.parent), "--epochs", "1", "--num-prompt-tokens", "1"]
    monkeypatch.setattr(sys, "argv", ["train_accelerate.py", *words, "--out", str(tmp_path / "loop")])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert told == [f"warning: {warning}" for warning in read_data(deep.parent).warnings]
    assert len(told) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "vpt-deep"], "this loop does not know vpt-deep: use apt-peft train."),
        (["--epochs", "0"], "epochs (0) must be at least 1."),
        (
            ["--recipe", "ssv2-vit-base-p2"],
            "fp16 (True) must run on a GPU, but there is none here. Take --no-fp16 for float32, or --no-fp16 --bf16; "
            "run.json records what a recipe has otherwise.",
        ),
    ],
)
def test_what_the_loop_cannot_do_is_told_in_a_line(more, message, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    words = ["--model", "m", "--data", "d", "--out", str(tmp_path / "out"), *more]
    monkeypatch.setattr(sys, "argv", ["train_accelerate.py", *words])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert left.value.code == f"error: {message}"


def test_a_setting_of_a_recipe_that_the_loop_does_not_know_is_refused(tmp_path, monkeypatch):
    name = "ucf101-vit-base-p1"
    other = replace(RECIPES[name], settings=dict(RECIPES[name].settings) | {"mixup": 0.8, "max_grad_norm": 1.0})
    monkeypatch.setattr("apt_peft.training.settings.RECIPES", RECIPES | {name: other})
    words = ["--model", "m", "--data", "d", "--out", str(tmp_path / "out"), "--recipe", name, "--no-fp16"]
    monkeypatch.setattr(sys, "argv", ["train_accelerate.py", *words])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert str(left.value.code).startswith("error: this loop does not know ")
    assert {"mixup", "max_grad_norm"} == set(left.value.code.split("know ")[1].split(":")[0].split(", "))


def same_weights(one: Path, other: Path) -> None:
    wanted, got = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert wanted.keys() == got.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    start = {name: tensor for name, tensor in wanted.items() if "classifier" in name}
    assert max(tensor.abs().max().item() for tensor in start.values()) > 1e-3, "the head has learned something"
