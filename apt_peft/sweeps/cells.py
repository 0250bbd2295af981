"""Cells of a grid: runs that are scored on validation clips after their last epoch, each clip's outcome kept."""

import logging
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apt_peft.comparison.contenders import Contender
from apt_peft.comparison.estimate import hours, parts_of, timed
from apt_peft.comparison.runs import Runs
from apt_peft.comparison.trials import CELL, Job, Runner
from apt_peft.errors import ConfigError
from apt_peft.scores import read_together
from apt_peft.scores.origin import SCORES_FILE
from apt_peft.scores.seeds import correct, draw_means
from apt_peft.training.record import EVALUATION

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One place of a grid and one seed.

    Args:
        name: of the contender.
        rates: setting of train and its value, such as `(("lr", 0.1),)`.
        seed: of its runs.
    """

    name: str
    rates: tuple[tuple[str, float], ...]
    seed: int


def job(plan: Runs, contender: Contender, rates: Mapping[str, float], part: int, seed: int) -> Job:
    """The job of a cell on one validation part.

    Args:
        plan: all runs.
        contender: which.
        rates: settings of train and their values.
        part: which, from 1.
        seed: of the run.
    """
    name = ",".join(f"{axis}={rate:g}" for axis, rate in rates.items())
    out = plan.trials(contender) / name / f"seed-{seed}" / f"part-{part}"
    lists = plan.lists(part)
    # The clips that `train` scores once at the end are the validation part; the test split has no place in the run.
    given = {"train_list": lists["train"], "val_list": None, "test_list": lists["val"], "test": True, "seed": seed}
    return Job(
        CELL, f"{contender.name} {name} seed {seed} part {part}", plan.settings_of(contender, out, {**rates, **given})
    )


@dataclass(frozen=True)
class Outcomes:
    """What came out of cells.

    Args:
        right: (clips,) of 0 and 1 for each cell, of the same clips in the same order; all 0 where a run diverged.
        diverged: cells of which a run diverged.
        groups: the video that each clip belongs to.
        commonest: share of the commonest class among the clips, in per cent.
        classes: that these clips are of.
    """

    right: dict[Cell, Tensor]
    diverged: frozenset[Cell]
    groups: list[Hashable]
    commonest: float
    classes: int

    def of(self, cells: Iterable[Cell]) -> Tensor:
        """(cells, clips) of 0 and 1."""
        return torch.stack([self.right[cell] for cell in cells])

    def drawn(self, right: Mapping[str, Tensor], samples: int) -> dict[str, Tensor]:
        """Accuracies of clips and seeds drawn again, the same for all that are compared.

        Args:
            right: (seeds, places, clips) of 0 and 1, by name.
            samples: how many draws.

        Returns:
            (draws, places) in per cent, by name.
        """
        chunks = list(draw_means(list(right.values()), groups=self.groups, samples=samples))
        return {name: torch.cat([chunk[place] for chunk in chunks]) for place, name in enumerate(right)}

    def lines(self, cells: Iterable[Cell]) -> list[dict[str, Any]]:
        """A line of results.jsonl for each cell."""
        return [
            {
                "kind": "cell",
                "contender": cell.name,
                **dict(cell.rates),
                "seed": cell.seed,
                "top1": 100 * float(self.right[cell].mean()),
                "clips": len(self.right[cell]),
                "diverged": cell in self.diverged,
            }
            for cell in cells
        ]


def carry_out(plan: Runs, runner: Runner, cells: Sequence[Cell]) -> Outcomes:
    """Train and score cells, or read those that are done.

    Args:
        plan: all runs.
        runner: that does the jobs.
        cells: which; their contenders are the plan's.

    Returns:
        What came out.

    Raises:
        AptError: a run cannot be carried out, or all of them diverged.
    """
    by_name = {contender.name: contender for contender in plan.contenders}
    jobs = {
        (cell, part): job(plan, by_name[cell.name], dict(cell.rates), part, cell.seed)
        for cell in cells
        for part in range(1, plan.parts + 1)
    }
    named = {found.name: key for key, found in jobs.items()}
    whole: dict[int, list[tuple[Cell, str]]] = {part: [] for part in range(1, plan.parts + 1)}
    diverged = set()
    for done, outcome in runner.do_all(jobs.values()):
        cell, part = named[done.name]
        if outcome["diverged"]:
            diverged.add(cell)
        else:
            whole[part].append((cell, str(Path(done.settings["out"]) / EVALUATION / SCORES_FILE)))
        said = "diverged" if outcome["diverged"] else f"top-1 {outcome['top1']:.1f} %"
        logger.info("%s: %s", done.name, said)
    if any(not found for found in whole.values()):
        raise ConfigError(
            f"rates ({len(cells)} runs) must have one that trains without diverging, but all diverged. Take lower ones."
        )
    return _read(plan, cells, whole, frozenset(diverged))


def _read(
    plan: Runs, cells: Sequence[Cell], whole: Mapping[int, list[tuple[Cell, str]]], diverged: frozenset[Cell]
) -> Outcomes:
    group_of = plan.groups([*plan.clips.train, *plan.clips.val])
    right: dict[Cell, list[Tensor]] = {cell: [] for cell in cells}
    groups: list[Hashable] = []
    targets: list[Tensor] = []
    for found in whole.values():
        results = [item.result for item in read_together([path for _, path in found])]
        by_cell = dict(
            zip([cell for cell, _ in found], correct([r.scores for r in results], results[0].targets), strict=True)
        )
        for cell in cells:
            right[cell].append(by_cell.get(cell, torch.zeros(len(results[0].names), dtype=torch.float64)))
        groups += [group_of.get(name, name) for name in results[0].names]
        targets.append(results[0].targets)
    counts = torch.bincount(torch.cat(targets))
    return Outcomes(
        {cell: torch.cat(parts) for cell, parts in right.items()},
        diverged,
        groups,
        100 * float(counts.max() / counts.sum()),
        int((counts > 0).sum()),
    )


def common_notes(plan: Runs, outcomes: Outcomes) -> list[str]:
    """What must be said beside every table of cells.

    Args:
        plan: all runs.
        outcomes: of its cells.
    """
    settings, clips = plan.settings, len(outcomes.groups)
    where = f"{plan.parts} folds" if settings.folds else "the validation split" if plan.clips.val else "a part"
    found = [
        f"Top-1: {clips} clips of {where} of the training clips, after the last epoch, mean of {settings.seeds} "
        f"seed{'s' if settings.seeds > 1 else ''}; the test split has no part in it. Intervals ({settings.level:.0%}): seeds and "
        f"clips drawn again, {settings.samples} times."
    ]
    if settings.seeds == 1:
        found.append("One seed: the intervals tell of the clips, and nothing of what another seed would do.")
    if count := len(outcomes.diverged):
        found.append(f"Diverged: {count} of {len(outcomes.right)} cells.")
    return found


def estimate(plan: Runs, counts: Sequence[tuple[Contender, Mapping[int, int]]], what: str) -> list[str]:
    """What a grid will do and how long that may take, from timed steps; nothing is written.

    Args:
        plan: all runs.
        counts: contenders, and for each how many runs of so many epochs.
        what: they are, in words.

    Returns:
        Lines.
    """
    shared = plan.shared
    learned, held = parts_of(plan)
    all_runs: Counter[int] = Counter()
    for _, runs in counts:
        all_runs.update(runs)
    lines = [
        f"{learned} training clips in {len(plan.clips.labels)} classes, {held} of validation for each of {plan.parts} "
        f"part{'s' if plan.parts > 1 else ''}; the test split has no part in it",
        f"{what}: " + " and ".join(f"{count} runs of {epochs} epochs" for epochs, count in sorted(all_runs.items())),
    ]
    total = 0.0
    for contender, runs in counts:
        step, forward = timed(plan, contender)
        views = shared.segments * shared.crops
        steps = sum(count * epochs for epochs, count in runs.items()) * math.ceil(learned / shared.batch_size)
        count = sum(runs.values())
        seconds = steps * step + count * views * held * forward
        total += seconds
        lines.append(f"  {contender.name}: {count} runs, a step {step:.3g} s, {seconds / 3600:.2f} h")
    return [*lines, hours(plan, total)]
