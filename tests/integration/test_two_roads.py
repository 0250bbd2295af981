"""Trainer (`apt-peft train`) and the Accelerate loop of examples/: one arithmetic, step by step."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from launching import ROOT
from safetensors.torch import load_file

from apt_peft.cli import main

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


def same_weights(one: Path, other: Path) -> None:
    wanted, got = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert wanted.keys() == got.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    start = {name: tensor for name, tensor in wanted.items() if "classifier" in name}
    assert max(tensor.abs().max().item() for tensor in start.values()) > 1e-3, "the head has learned something"
