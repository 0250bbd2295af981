"""Measured cost of contenders: a forward against the bare backbone's, a training step and its memory against full tuning's."""

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

import torch

from apt_peft.comparison.contenders import Contender
from apt_peft.comparison.runs import Runs
from apt_peft.comparison.sides import Side, side_of
from apt_peft.cost.measure import in_turns, ratio
from apt_peft.training.base import threads
from apt_peft.training.checkpoints import write_json

logger = logging.getLogger(__name__)
RATIOS = "ratios.json"
OURS, BARE, FULL = "ours", "bare", "full"


@dataclass(frozen=True)
class Ratios:
    """What a contender costs.

    Args:
        forward: time of a forward, to that of the bare backbone.
        step: time of forward and backward, to that of full tuning.
        memory: bytes that autograd keeps for the backward, to those of full tuning.
        batch: clips.
        rounds: of which the median counts.
        device: where.
        threads: of the CPU.
    """

    forward: float
    step: float
    memory: float
    batch: int
    rounds: int
    device: str
    threads: int


def measure(plan: Runs, rounds: int) -> dict[str, Ratios]:
    """Measure each contender, or read what was measured before.

    Args:
        plan: the runs.
        rounds: in which both sides run in turns; 0 measures nothing.

    Returns:
        Ratios by contender, of those that were measured.
    """
    path = plan.out / RATIOS
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    names = {contender.name: contender for contender in plan.contenders}
    missing = {name: contender for name, contender in names.items() if name not in stored}
    if rounds and missing:
        with threads(plan.threads()):
            size = 1 if side_of(plan, None, batch_size=1).device.type == "cpu" else None
            bare, full = (
                side_of(plan, side, batch_size=size) for side in (None, Contender("full", {"method": "full"}))
            )
            kept = full.kept()
            for name, contender in missing.items():
                stored[name] = asdict(_against(side_of(plan, contender, batch_size=size), bare, full, kept, rounds))
                write_json(path, stored)
                logger.info("%s: measured", name)
    return {name: Ratios(**stored[name]) for name in names if name in stored}


def _against(side: Side, bare: Side, full: Side, kept: int, rounds: int) -> Ratios:
    device = side.device
    forward = in_turns({OURS: side.forward, BARE: bare.forward}, rounds, str(device))
    step = in_turns({OURS: side.step, FULL: full.step}, rounds, str(device))
    return Ratios(
        forward=round(ratio(forward, OURS, BARE), 4),
        step=round(ratio(step, OURS, FULL), 4),
        memory=round(side.kept() / kept, 4),
        batch=len(side.inputs["labels"]),
        rounds=rounds,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
    )


def told(found: dict[str, Ratios]) -> list[str]:
    """How the ratios came to be, in a sentence; nothing where there are none.

    Args:
        found: by contender.
    """
    if not found:
        return []
    first = next(iter(found.values()))
    return [
        "Ratios: a forward to the bare backbone's; forward and backward of a training step, and the memory that autograd keeps "
        f"between them, to those of full tuning. Median of {first.rounds} rounds in turns, {first.batch} clip"
        f"{'s' if first.batch > 1 else ''}, {first.device}, {first.threads} threads; memory is counted."
    ]
