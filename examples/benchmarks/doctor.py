"""What the doctor's feature check sees in whole and in spoiled backbones, and what a wrong eps does; appended as JSON lines.

python examples/benchmarks/doctor.py apt_peft/demo/backbone ../shared/backbones/videomae-small-112
"""

import argparse
import copy
import json
import time
from pathlib import Path

import torch
from torch import nn

from apt_peft.doctor.features import SYNTHETIC, Features, spread_and_rank
from apt_peft.doctor.patient import open_patient

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "doctor.jsonl"


def whole(model: nn.Module) -> None:
    """Nothing is changed."""


def drawn_anew(model: nn.Module) -> None:
    """As transformers draws it."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def faint_kernel(model: nn.Module) -> None:
    """The patch kernel a ten-thousandth of what it was."""
    model.videomae.embeddings.patch_embeddings.projection.weight *= 1e-4


def one_direction(model: nn.Module) -> None:
    """The last layer answers by one direction, louder than all else."""
    weight = model.videomae.encoder.layer[-1].output.dense.weight
    generator = torch.Generator().manual_seed(0)
    weight.copy_(
        1e3 * torch.randn(len(weight), 1, generator=generator) * torch.rand(1, weight.shape[1], generator=generator)
    )


STATES = {"whole": whole, "drawn anew": drawn_anew, "faint patch kernel": faint_kernel, "one direction": one_direction}


@torch.no_grad()
def measure(model: str) -> list[dict]:
    """Rows of one backbone.

    Args:
        model: folder of a VideoMAE.

    Returns:
        One row for each state, and one for transformers' eps.
    """
    features = Features(open_patient(model))
    untouched, clips = features.model, features.synthetic()
    name = Path(model).name if Path(model).name != "backbone" else "demo"
    rows = []
    for state, change in STATES.items():
        features.model = copy.deepcopy(untouched)
        change(features.model)
        start = time.perf_counter()
        spread, rank = spread_and_rank(features.of(clips))
        seconds = time.perf_counter() - start
        rows.append(
            {"backbone": name, "state": state, "clips": SYNTHETIC, "spread": spread, "rank": rank, "seconds": seconds}
        )
    features.model = copy.deepcopy(untouched)
    right = features.of(clips)
    for module in features.model.videomae.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-12
    change = float((features.of(clips) - right).norm() / right.norm())
    return [*rows, {"backbone": name, "state": "eps 1e-12 for 1e-6", "clips": SYNTHETIC, "relative_change": change}]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="FOLDER")
    args = parser.parse_args()
    for model in args.models:
        for row in measure(model):
            print(json.dumps(row))
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
