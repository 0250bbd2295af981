"""Golden files and variations of them, written as other training scripts would have."""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
APT = ("apt_all_layers", "apt_middle_layers", "apt_no_reparam")
# What the pre-training file does not tell.
PRETRAIN = {"image_size": 32, "num_frames": 4, "num_attention_heads": 4, "decoder_num_attention_heads": 2}


def expected(name: str) -> dict[str, torch.Tensor]:
    """What the reference computes from a golden file."""
    return load_file(GOLDEN / f"{name}.expected.safetensors")


def golden(name: str = "apt_all_layers") -> dict:
    """A golden file's content, read without this package."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(GOLDEN / f"{name}.pth", weights_only=True)


def finetuned(norm: str = "fc_norm") -> dict[str, torch.Tensor]:
    """State dict of a VideoMAE fine-tuning file: a golden file without its prompts."""
    return {
        key.replace("head_norm", norm): tensor
        for key, tensor in golden()["model"].items()
        if not key.startswith("prompt_")
    }


def save(path: Path, state: dict | None = None, nest: str | None = "model", **args) -> Path:
    """Write a state dict, by default the first golden file's, with these settings."""
    state = golden()["model"] if state is None else state
    torch.save(({nest: state} if nest else state) | ({"args": argparse.Namespace(**args)} if args else {}), path)
    return path
