"""How many prompts: accuracy and cost against P, each P's learning rate tuned alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apt_peft.comparison import table
from apt_peft.comparison.contenders import Contender
from apt_peft.comparison.cost import multiply_adds
from apt_peft.comparison.folder import alone, check_means
from apt_peft.comparison.runs import TRIAL_SEED
from apt_peft.comparison.trials import Runner
from apt_peft.comparison.tuning import Choice, edge_warnings, tune
from apt_peft.scores.intervals import Interval
from apt_peft.scores.seeds import percentiles
from apt_peft.sweeps import plots
from apt_peft.sweeps.band import TINY, both_ways
from apt_peft.sweeps.cells import Cell, Outcomes, carry_out, common_notes, estimate
from apt_peft.sweeps.claims import Claim, Enough, hundreds
from apt_peft.sweeps.prompt_plan import PromptPlan, make_plan, named
from apt_peft.sweeps.settings import PromptSweepSettings
from apt_peft.training.settings import TrainSettings


@dataclass(frozen=True)
class Point:
    """One method with one number of prompts.

    Args:
        method: as the user wrote it.
        prompts: P.
        rates: that were chosen.
        edges: rates whose best is the lowest or highest that was tried.
        parameters: numbers that are trained beside the head.
        multiply_adds: of a clip's forward; None where they cannot be counted.
        ratio: of these to those of the bare backbone.
        seeds: top-1 of each seed in per cent.
        top1: their mean.
        interval: of the mean.
        difference: points above the first method with as many prompts; None for the first itself.
        between: interval of the difference.
        verdict: the difference in words.
    """

    method: str
    prompts: int
    rates: dict[str, float]
    edges: dict[str, str]
    parameters: int
    multiply_adds: int | None
    ratio: float | None
    seeds: tuple[float, ...]
    top1: float
    interval: Interval
    difference: float | None = None
    between: Interval | None = None
    verdict: str = ""


@dataclass(frozen=True)
class PromptSweep:
    """What came out.

    Args:
        out: its folder.
        points: by method, then by rising P.
        enough: method -> the fewest prompts that come near its best.
        claims: method -> what the numbers say of hundreds of prompts.
        files: results.jsonl, table.md and the pictures.
        text: all that the command prints.
    """

    out: Path
    points: tuple[Point, ...]
    enough: dict[str, Enough]
    claims: dict[str, Claim]
    files: tuple[Path, ...]
    text: str


def sweep_prompts(settings: PromptSweepSettings, shared: TrainSettings) -> PromptSweep:
    """See how many prompts are enough, and what they cost: all that `apt-peft sweep-prompts` does.

    For each method and P the rates are tuned with the same number of trials on validation clips of the training split; then
    each seed is trained with them and scored on the same clips. The test split has no part. What a kill interrupted is gone on
    with by the same call.

    Args:
        settings: of the command.
        shared: of all its runs; `model`, `data` and `out` are those of the command.

    Returns:
        Points, claims and files; of a dry run its text alone.

    Raises:
        AptError: settings, data, backbone or folder cannot be used.
    """
    check_means(settings.command)
    plan = make_plan(settings, shared)
    if settings.dry_run:
        plan.try_out()
        what = f"{settings.budget_trials} trials and {settings.seeds} seeds of each number of prompts"
        text = "\n".join(estimate(plan, [(contender, plan.runs()) for contender in plan.contenders], what))
        return PromptSweep(plan.out, (), {}, {}, (), text)
    with alone(plan.out), Runner(settings.jobs) as runner:
        plan.begin()
        return _sweep(plan, runner)


def _sweep(plan: PromptPlan, runner: Runner) -> PromptSweep:
    choices = tune(plan, runner)
    cells = {
        name: [Cell(name, tuple(choice.rates.items()), seed) for seed in plan.seeds] for name, choice in choices.items()
    }
    outcomes = carry_out(plan, runner, [cell for found in cells.values() for cell in found])
    points, enough = points_of(plan, choices, cells, outcomes)
    claims = {
        method: hundreds(found, within=plan.settings.within, commonest=outcomes.commonest)
        for method, found in enough.items()
    }
    texts = _notes(plan, choices, claims, outcomes)
    lines: list[dict[str, Any]] = [table.setup_line(plan.settings, plan.shared)]
    for name, choice in choices.items():
        lines.append({"kind": "search", "contender": name, **choice.as_dict()})
    lines += outcomes.lines([cell for found in cells.values() for cell in found])
    lines += [{"kind": "point", **asdict(point)} for point in points]
    for method, claim in claims.items():
        lines.append({"kind": "claim", **asdict(enough[method]), **asdict(claim)})
    found = _cells(points)
    table.write_files(plan.out, lines, table.laid_out(found, markdown=True), texts)
    files = (plan.out / table.RESULTS, plan.out / table.TABLE, *plots.draw_prompts(points, plan.out))
    text = "\n".join([*table.laid_out(found), "", *texts, "files: " + ", ".join(map(str, files))])
    return PromptSweep(plan.out, tuple(points), enough, claims, files, text)


def points_of(
    plan: PromptPlan, choices: Mapping[str, Choice], cells: Mapping[str, list[Cell]], outcomes: Outcomes
) -> tuple[list[Point], dict[str, Enough]]:
    """Accuracy and cost of each number of prompts, and the fewest that are enough.

    Args:
        plan: the sweep.
        choices: rates of each contender.
        cells: its seeds.
        outcomes: of these.

    Returns:
        Points by method and rising P; the fewest prompts by method.
    """
    by_name = {contender.name: contender for contender in plan.contenders}
    # (seeds, P, clips) of each method.
    right = {
        method: torch.stack([outcomes.of(cells[named(method, p)]) for p in plan.prompts], dim=1)
        for method in plan.methods
    }
    drawn = outcomes.drawn(right, plan.settings.samples)
    bare = multiply_adds(Contender("linear", {"method": "linear"}).settings(plan.shared), plan.config)
    level, first = plan.settings.level, plan.methods[0]
    points, enough = [], {}
    for method, part in right.items():
        mean = 100 * part.mean(dim=(0, 2))
        for place, p in enumerate(plan.prompts):
            contender = by_name[named(method, p)]
            choice, cost = choices[contender.name], multiply_adds(contender.settings(plan.shared), plan.config)
            point = Point(
                method=method,
                prompts=p,
                rates=choice.rates,
                edges=choice.edges,
                parameters=plan.parameters(contender),
                multiply_adds=cost,
                ratio=cost / bare if cost is not None and bare is not None else None,
                seeds=tuple((100 * part[:, place].mean(dim=1)).tolist()),
                top1=float(mean[place]),
                interval=percentiles(drawn[method][:, place], level),
            )
            if method != first:
                between = percentiles(drawn[method][:, place] - drawn[first][:, place], level)
                apart = 100 * float(part[:, place].mean() - right[first][:, place].mean())
                point = replace(point, difference=apart, between=between, verdict=table.verdict(between))
            points.append(point)
        enough[method] = enough_of(method, plan.prompts, mean, drawn[method], within=plan.settings.within, level=level)
    return points, enough


def enough_of(
    method: str, prompts: Sequence[int], mean: Tensor, drawn: Tensor, *, within: float, level: float
) -> Enough:
    """The fewest prompts that come near the best, with an interval over the logarithm of P as that of widths.

    Args:
        method: the contender.
        prompts: P, rising.
        mean: (P,) accuracy in per cent.
        drawn: (draws, P) of it, from seeds and clips drawn again.
        within: points below the best that still count as near.
        level: how often the interval is to hold the true value, in 0..1.
    """
    numbers = torch.tensor(prompts, dtype=torch.float64)
    value = int(fewest(mean, numbers, within=within))
    apart = both_ways(math.log10(value), fewest(drawn, numbers, within=within).log10(), level)
    low, high = (min(max(float(f"{10**end:.6g}"), prompts[0]), prompts[-1]) for end in (apart.low, apart.high))
    best = int((mean > mean.max() - TINY).nonzero()[0])
    sure = percentiles(drawn[:, best], level)
    interval = replace(apart, low=low, high=high)
    return Enough(method, tuple(prompts), value, interval, prompts[best], float(mean[best]), sure.low, sure.high)


def fewest(accuracy: Tensor, prompts: Tensor, *, within: float) -> Tensor:
    """The smallest P whose accuracy comes within some points of the best of all.

    Args:
        accuracy: (..., P) in per cent.
        prompts: (P,) rising.
        within: points below the best that still count.

    Returns:
        (...,).
    """
    near = accuracy >= accuracy.amax(dim=-1, keepdim=True) - within - TINY
    return torch.where(near, prompts, float("inf")).amin(dim=-1)


def _cells(points: Sequence[Point]) -> list[list[str]]:
    lines = [
        ["method", "P", "rates", "beside head", "multiply-adds", "/ bare", "top-1 (%)", f"minus {points[0].method}"]
    ]
    for point in points:
        rates = ", ".join(f"{axis} {rate:g}{'!' if axis in point.edges else ''}" for axis, rate in point.rates.items())
        apart = ""
        if point.difference is not None and point.between is not None:
            shown = table.with_interval(point.difference, point.between.low, point.between.high, "+")
            apart = f"{shown} {point.verdict}"
        lines.append(
            [
                point.method,
                str(point.prompts),
                rates,
                f"{point.parameters:,}",
                table.giga(point.multiply_adds),
                "-" if point.ratio is None else f"{point.ratio:.3f}x",
                table.with_interval(point.top1, point.interval.low, point.interval.high, ""),
                apart or "-",
            ]
        )
    return lines


def _notes(
    plan: PromptPlan, choices: Mapping[str, Choice], claims: Mapping[str, Claim], outcomes: Outcomes
) -> list[str]:
    found = [text for name, choice in choices.items() for text in edge_warnings(name, choice)]
    found += [claim.text for claim in claims.values()]
    budgets = sorted({len(choice.tried) for choice in choices.values()})
    found.append(
        f"Rates were chosen among {', '.join(map(str, budgets))} for each method and P, with seed {TRIAL_SEED} on the same clips "
        "that the accuracy is of: all of it flatters, and all alike."
    )
    found += common_notes(plan, outcomes)
    if len(plan.methods) > 1:
        found.append("Of many comparisons at this level, some differ by chance.")
    return found
