"""Runs of `docs/science.md`: one line of JSON each, with all settings.

    python examples/science/run.py --backbone ../shared/backbones/moving-shapes-48 --plan screen
    python examples/science/run.py --backbone apt_peft/demo/backbone --one '{"method": "lora", "size": 4, "lr": 0.01}'

A run whose line is in the file already is not made again. Choices are made with `part` validation; `part` test is for what
was chosen before.
"""

import argparse
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from plans import PLANS
from tasks import split
from torch import Tensor
from transformers.utils import logging
from variants import build, optimizer_of

from apt_peft.demo.settings import BACKBONE
from apt_peft.insight import prompt_attention, prompt_states
from apt_peft.training.optimizer import LearningRates, warmup_cosine
from apt_peft.tuner.layer import AttentionPromptLayer

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "science.jsonl"
DEFAULTS: dict[str, Any] = {
    "task": "red", "part": "validation", "seed": 0, "fold": 0, "epochs": 12, "batch": 32, "warmup": 0.1, "head_lr": 0.01,
}  # fmt: skip
EVALUATION_BATCH = 100
OUTCOMES = ("top1", "correct", "clips", "loss", "trained", "seconds", "curve", "device", "start", "end", "right")

splits = cache(split)


def train_one(backbone: str, run: dict[str, Any], *, log: bool = False) -> dict[str, Any]:
    """Make one run.

    Args:
        backbone: its folder.
        run: all settings.
        log: print the loss of each epoch.

    Returns:
        Top-1 in per cent, the loss of the last epoch, numbers trained (head included), seconds.
    """
    (clips, labels), (held_clips, held_labels) = splits(
        run["task"], part=run["part"], seed=run["seed"], fold=run["fold"]
    )
    start = time.perf_counter()
    model = build(backbone, run, clips)
    optimizer = optimizer_of(model, run)
    batches = -(-len(clips) // run["batch"])
    steps = run["epochs"] * batches
    schedule = warmup_cosine(
        optimizer,
        rates=LearningRates(prompts=1.0, head=1.0, start=0.0, minimum=0.0),
        warmup_steps=round(run["warmup"] * steps),
        steps=steps,
    )
    generator = torch.Generator().manual_seed(run["seed"])
    curve = []
    looked = {"start": look_at(model, held_clips)} if run["part"] == "test" else {}
    model.train()
    for epoch in range(run["epochs"]):
        losses = []
        for at in torch.randperm(len(clips), generator=generator).split(run["batch"]):
            loss = F.cross_entropy(model(pixel_values=clips[at]).logits, labels[at], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            if run.get("clip"):
                nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], run["clip"])
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        curve.append(round(float(torch.stack(losses).mean()), 3))
        if log:
            print(f"epoch {epoch}: loss {curve[-1]}, {time.perf_counter() - start:.0f} s", flush=True)
    right = logits_of(model, held_clips).argmax(1) == held_labels
    correct = int(right.sum())
    if run["part"] == "test":  # which clips, so that differences can be paired
        looked |= {"end": look_at(model, held_clips), "right": "".join(map(str, right.int().tolist()))}
    return {
        "top1": round(100 * correct / len(held_labels), 2),
        "correct": correct,
        "clips": len(held_labels),
        "loss": curve[-1],
        "curve": curve,
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "seconds": round(time.perf_counter() - start),
        "device": f"cpu, {torch.get_num_threads()} threads",
        **looked,
    }


def look_at(model: nn.Module, clips: Tensor) -> list[dict[str, float]] | None:
    """What prompts do on some clips: for each layer their attention mass, the dead ones, ranks and sizes; None without any."""
    if not any(isinstance(module, AttentionPromptLayer) for module in model.modules()):
        return None
    attention = prompt_attention(model, clips[:64].split(32))
    return [
        {
            "mass": round(attention[key].mass, 4),
            "uniform": round(attention[key].uniform_mass, 4),
            "dead": int(attention[key].dead().sum()),
            **{name: round(value, 3) for name, value in states.items()},
        }
        for key, states in prompt_states(model).items()
    ]


@torch.no_grad()
def logits_of(model: nn.Module, clips: Tensor) -> Tensor:
    """Logits of clips, (n, classes)."""
    model.eval()
    return torch.cat([model(pixel_values=part).logits for part in clips.split(EVALUATION_BATCH)])


def identity(line: dict[str, Any]) -> str:
    """A run's settings without what came out, in one order: equal for equal runs."""
    return json.dumps({k: v for k, v in line.items() if k not in (*OUTCOMES, "name")}, sort_keys=True)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="folder of a VideoMAE of 8 frames of 48 px")
    parser.add_argument("--plan", choices=PLANS, nargs="+", default=[], help="lists of runs, see plans.py")
    parser.add_argument("--one", type=json.loads, action="append", default=[], help="settings of one run, as JSON")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    for given in [*(run for plan in args.plan for run in PLANS[plan]), *args.one]:
        run = {
            "backbone": "demo" if Path(args.backbone).resolve() == BACKBONE else Path(args.backbone).name,
            **DEFAULTS,
            **given,
        }
        lines = args.results.read_text().splitlines() if args.results.exists() else []
        if identity(run) in map(identity, map(json.loads, lines)):
            continue
        line = run | train_one(args.backbone, run, log=not args.plan)
        args.results.parent.mkdir(parents=True, exist_ok=True)
        with args.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line["top1"], line["loss"], line["trained"], f"{line['seconds']} s", given, flush=True)


if __name__ == "__main__":
    main()
