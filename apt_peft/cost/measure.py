"""Measured time: sides run in turns in one process, and ratios of them.

Each round runs every side once, in an order that is drawn anew; a ratio is the median over rounds of the ratio within a
round, so that a busy machine slows both sides alike.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from apt_peft.cost.arithmetic import BARE, PUBLISHED, Shapes
from apt_peft.cost.contenders import Contender, build, example

FORWARD, STEP = "forward", "step"
Table = list[dict[str, float]]  # for each round the seconds of each side


@dataclass(frozen=True)
class Place:
    """Where and how is measured.

    Args:
        batch: clips.
        rounds: how often each side runs, beside one run that warms up.
        device: "cpu", "cuda", ...
        dtype: of weights and clips.
        implementation: of the attention, the published design's apart.
        seed: of the order.
    """

    batch: int = 1
    rounds: int = 11
    device: str = "cpu"
    dtype: str = "float32"
    implementation: str = "sdpa"
    seed: int = 0


def forward(model: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], None]:
    """A forward without gradients, to run again and again."""

    def run() -> None:
        model.eval()
        with torch.no_grad():
            model(pixel_values=inputs["pixel_values"])

    return run


def training_step(model: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], None]:
    """A step of training with AdamW, to run again and again."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)

    def run() -> None:
        model.train()
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def synchronize(device: str) -> None:
    """Wait for what the device has been told to do."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], None], device: str) -> float:
    """How long one run takes, on the device too; on a CPU with one thread that which the process itself computed."""
    # What else the machine does then counts less. Threads that wait for each other compute, too: there the clock counts.
    alone = not device.startswith("cuda") and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    synchronize(device)
    start = clock()
    run()
    synchronize(device)
    return clock() - start


def in_turns(runs: Mapping[str, Callable[[], None]], rounds: int, device: str, seed: int = 0) -> Table:
    """Run all sides in turns.

    Args:
        runs: what each side does.
        rounds: how often, beside one round before them that warms up.
        device: to wait for.
        seed: of the order, drawn anew in each round: a side suffers from what the one before it left in the caches.

    Returns:
        Seconds of each side in each round.
    """
    names = list(runs)
    for name in names:
        runs[name]()
    table = []
    order = random.Random(seed)
    for _ in range(rounds):
        order.shuffle(names)
        gc.collect()
        table.append({name: seconds(runs[name], device) for name in names})
    return table


def ratio(table: Table, ours: str, baseline: str) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(row[ours] / row[baseline] for row in table)


def baselines_of(contender: Contender, kind: str, lora: int = 8) -> list[Contender]:
    """What a contender is compared with.

    Args:
        contender: it.
        kind: "forward", "step" or "memory".
        lora: rank of the LoRA.

    Returns:
        For a forward the bare backbone, else full tuning; LoRA; and where it has P, the published design of the same P.
    """
    found = [Contender(BARE) if kind == FORWARD else Contender("full"), Contender("lora", lora)]
    if contender.method in ("apt", "vpt-shallow", "vpt-deep"):
        found.append(Contender(PUBLISHED, contender.size))
    return [baseline for baseline in found if baseline != contender]


def sides_of(chosen: Sequence[Contender], kind: str, lora: int = 8) -> list[Contender]:
    """The contenders and all that they are compared with, each once."""
    kept = [contender for contender in chosen if not (kind != FORWARD and contender.method == BARE)]
    return list(dict.fromkeys([*kept, *(side for one in kept for side in baselines_of(one, kind, lora))]))


def measured(
    chosen: Sequence[Contender], shapes: Shapes, kind: str, place: Place, *, lora: int = 8
) -> dict[Contender, dict[str, float]]:
    """Ratios of time.

    Args:
        chosen: the contenders.
        shapes: of the backbone.
        kind: "forward" or "step".
        place: where and how.
        lora: rank of the LoRA that they are compared with.

    Returns:
        For each contender the ratio to each of its baselines, by the baseline's label.

    Raises:
        ConfigError: a contender that cannot be.
    """
    options: dict[str, Any] = {"device": place.device, "dtype": place.dtype}
    inputs = example(shapes, batch=place.batch, **options)
    make = forward if kind == FORWARD else training_step
    runs = {}
    for side in sides_of(chosen, kind, lora):
        torch.manual_seed(0)
        runs[side.label] = make(build(side, shapes, implementation=place.implementation, **options), inputs)
    table = in_turns(runs, place.rounds, place.device, place.seed)
    return {
        contender: {
            baseline.label: ratio(table, contender.label, baseline.label)
            for baseline in baselines_of(contender, kind, lora)
        }
        for contender in chosen
        if contender.label in runs
    }
