"""How robust training is to its settings: a grid of rates and reparameterizations, and one of weight decay and dropout."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from apt_peft.comparison import table
from apt_peft.comparison.folder import alone, check_means
from apt_peft.comparison.trials import Runner
from apt_peft.scores.intervals import Interval
from apt_peft.scores.seeds import percentiles
from apt_peft.sweeps import plots
from apt_peft.sweeps.band import TINY, Difference, bands, both_ways, difference
from apt_peft.sweeps.cells import Cell, Outcomes, carry_out, common_notes, estimate
from apt_peft.sweeps.claims import Claim, Curve, robust
from apt_peft.sweeps.grids import RobustnessPlan, make_plan
from apt_peft.sweeps.settings import WITHOUT, RobustnessSettings
from apt_peft.training.settings import TrainSettings


@dataclass(frozen=True)
class Plane:
    """Accuracy over weight decay and dropout at the best rate of one reparameterization.

    Args:
        name: of the reparameterization.
        rate: learning rate of all its runs.
        top1: mean over seeds, by weight decay and dropout, in per cent.
        near: share of its places that come near the best of them, in 0..1.
        interval: of that share.
    """

    name: str
    rate: float
    top1: tuple[tuple[float, ...], ...]
    near: float
    interval: Interval


@dataclass(frozen=True)
class Robustness:
    """What came out.

    Args:
        out: its folder.
        curves: over learning rates, one for each reparameterization.
        planes: over weight decay and dropout; none where there is one of each.
        differences: reparameterization -> how much wider its range is than without.
        claims: reparameterization -> what the numbers say of it.
        files: results.jsonl, table.md and the pictures.
        text: all that the command prints.
    """

    out: Path
    curves: tuple[Curve, ...]
    planes: tuple[Plane, ...]
    differences: dict[str, Difference]
    claims: dict[str, Claim]
    files: tuple[Path, ...]
    text: str


def robustness(settings: RobustnessSettings, shared: TrainSettings) -> Robustness:
    """See how robust training is to its settings: all that `apt-peft robustness` does.

    Each place of the grids is trained with each seed and scored on validation clips of the training split after its last
    epoch; the test split has no part. What a kill interrupted is gone on with by the same call.

    Args:
        settings: of the command.
        shared: of all its runs; `model`, `data` and `out` are those of the command.

    Returns:
        Curves, claims and files; of a dry run its text alone.

    Raises:
        AptError: settings, data, backbone or folder cannot be used.
    """
    check_means(settings.command)
    plan = make_plan(settings, shared)
    if settings.dry_run:
        plan.try_out()
        return Robustness(plan.out, (), (), {}, {}, (), "\n".join(_estimate(plan)))
    with alone(plan.out), Runner(settings.jobs) as runner:
        plan.begin()
        return _robustness(plan, runner)


def _robustness(plan: RobustnessPlan, runner: Runner) -> Robustness:
    first = plan.first()
    cells = _flat(first)
    outcomes = carry_out(plan, runner, cells)
    curves, differences = curves_of(plan, first, outcomes)
    claims = {
        curve.name: robust(
            curve,
            curves[WITHOUT],
            differences[curve.name],
            within=plan.settings.within,
            commonest=outcomes.commonest,
        )
        for curve in curves.values()
        if curve.name != WITHOUT
    }
    second = plan.second({name: curve.best_rate for name, curve in curves.items()})
    planes: list[Plane] = []
    lines = [table.setup_line(plan.settings, plan.shared), *outcomes.lines(cells)]
    if second:
        more = carry_out(plan, runner, _flat(second))
        planes = [_plane(plan, name, curves[name].best_rate, rows, more) for name, rows in second.items()]
        lines += more.lines([cell for cell in _flat(second) if cell not in outcomes.right])
    texts = _notes(plan, outcomes, curves, planes, claims)
    lines += [{"kind": "curve", **asdict(curve)} for curve in curves.values()]
    lines += [{"kind": "plane", "weight_decays": sorted(plan.settings.weight_decays),
               "dropouts": sorted(plan.settings.dropouts), **asdict(plane)} for plane in planes]  # fmt: skip
    for name, claim in claims.items():
        lines.append({"kind": "claim", "reparameterization": name, **asdict(differences[name]), **asdict(claim)})
    heads = _cells(plan, list(curves.values()))
    table.write_files(plan.out, lines, table.laid_out(heads, markdown=True), texts)
    pictures = plots.draw_rates(list(curves.values()), plan.settings.within, plan.out)
    if planes:
        pictures += plots.draw_planes(planes, plan.settings, plan.out)
    files = (plan.out / table.RESULTS, plan.out / table.TABLE, *pictures)
    text = "\n".join([*table.laid_out(heads), "", *texts, "files: " + ", ".join(map(str, files))])
    return Robustness(plan.out, tuple(curves.values()), tuple(planes), differences, claims, files, text)


def curves_of(
    plan: RobustnessPlan, cells: Mapping[str, list[list[Cell]]], outcomes: Outcomes
) -> tuple[dict[str, Curve], dict[str, Difference]]:
    """Accuracy over rates, widths of the ranges of good rates, and how much wider each is than without reparameterization.

    Args:
        plan: the grids.
        cells: seeds x rates of each reparameterization.
        outcomes: of these.

    Returns:
        Curves and differences, by reparameterization.
    """
    settings, rates = plan.settings, plan.rates
    right = {name: torch.stack([outcomes.of(row) for row in rows]) for name, rows in cells.items()}
    means = {name: 100 * part.mean(dim=(0, 2)) for name, part in right.items()}
    drawn = outcomes.drawn(right, plan.settings.samples)
    within = settings.within
    overall = torch.stack([mean.max() for mean in means.values()]).max()
    drawn_overall = torch.stack([part.amax(dim=-1) for part in drawn.values()]).amax(dim=0)
    band = {name: bands(rates, mean, within=within) for name, mean in means.items()}
    drawn_band = {name: bands(rates, part, within=within) for name, part in drawn.items()}
    span = math.log10(rates[-1] / rates[0])
    curves = {}
    for name, mean in means.items():
        common = bands(rates, mean, within=within, best=overall)
        drawn_common = bands(rates, drawn[name], within=within, best=drawn_overall)
        best = int((mean > mean.max() - TINY).nonzero()[0])
        sure = percentiles(drawn[name][:, best], settings.level)
        curves[name] = Curve(
            name=name,
            rates=rates,
            top1=tuple(mean.tolist()),
            best_rate=rates[best],
            best=float(mean[best]),
            best_low=sure.low,
            best_high=sure.high,
            width=float(band[name].width),
            interval=both_ways(float(band[name].width), drawn_band[name].width, settings.level, span=span),
            low_open=bool(band[name].low_open),
            high_open=bool(band[name].high_open),
            width_common=float(common.width),
            interval_common=both_ways(float(common.width), drawn_common.width, settings.level, span=span),
            often_open=float(drawn_band[name].open.double().mean()),
        )
    differences = {
        name: difference(
            band[name], band[WITHOUT], drawn_one=drawn_band[name], drawn_other=drawn_band[WITHOUT], level=settings.level
        )
        for name in cells
        if name != WITHOUT
    }
    return curves, differences


def _plane(plan: RobustnessPlan, name: str, rate: float, cells: list[list[Cell]], outcomes: Outcomes) -> Plane:
    right = torch.stack([outcomes.of(row) for row in cells])
    mean = 100 * right.mean(dim=(0, 2))
    drawn = outcomes.drawn({name: right}, plan.settings.samples)[name]

    def near(accuracy: Tensor) -> Tensor:
        line = accuracy.amax(dim=-1, keepdim=True) - plan.settings.within - TINY
        return (accuracy >= line).double().mean(dim=-1)

    rows = mean.unflatten(0, (len(plan.settings.weight_decays), -1)).tolist()
    interval = percentiles(near(drawn), plan.settings.level)
    return Plane(name, rate, tuple(map(tuple, rows)), float(near(mean)), interval)


def _flat(cells: Mapping[str, list[list[Cell]]]) -> list[Cell]:
    return [cell for rows in cells.values() for row in rows for cell in row]


def _cells(plan: RobustnessPlan, curves: Sequence[Curve]) -> list[list[str]]:
    near = f"within {plan.settings.within:g} points of "
    heads = [
        "reparameterization",
        "best top-1 (%)",
        "at lr",
        f"{near}its best (decades)",
        f"{near}the best of all",
        "reaches",
    ]
    lines = [heads]
    for curve in curves:
        common = curve.interval_common
        lines.append(
            [
                curve.name,
                table.with_interval(curve.best, curve.best_low, curve.best_high, ""),
                f"{curve.best_rate:g}",
                f"{curve.width:.2f} [{curve.interval.low:.2f}, {curve.interval.high:.2f}]",
                f"{curve.width_common:.2f} [{common.low:.2f}, {common.high:.2f}]",
                curve.ends or "no end of the grid",
            ]
        )
    return lines


def _notes(
    plan: RobustnessPlan,
    outcomes: Outcomes,
    curves: Mapping[str, Curve],
    planes: Sequence[Plane],
    claims: Mapping[str, Claim],
) -> list[str]:
    found = [claim.text for claim in claims.values()]
    places = len(plan.places)
    for plane in planes:
        values = [value for row in plane.top1 for value in row]
        low, high = (100 * end for end in (plane.interval.low, plane.interval.high))
        found.append(
            f"Weight decay x dropout at lr {plane.rate:g} ({plane.name}): top-1 {min(values):.1f} to {max(values):.1f} %; "
            f"{100 * plane.near:.0f} % [{low:.0f}, {high:.0f}] of {places} places come within {plan.settings.within:g} points of "
            "the best of them."
        )
    rates = "The head's rate moves along." if plan.settings.tie_head else "The head keeps its rate."
    found.append(
        f"Widths: accuracy between two rates lies on the line between theirs, over log10 of the rate; what reaches an end of the "
        f"grid may be wider. {rates} A run that diverged has no clip right."
    )
    return [*found, *common_notes(plan, outcomes)]


def _estimate(plan: RobustnessPlan) -> list[str]:
    settings = plan.settings
    kinds, rates = settings.reparameterizations, plan.rates
    usual = plan.name("", (plan.shared.weight_decay, plan.shared.prompt_dropout))
    places = len({plan.name("", place) for place in plan.places} - {usual}) if len(plan.places) > 1 else 0
    counts = {plan.shared.epochs: (len(rates) + places) * settings.seeds * plan.parts}
    what = f"{len(rates)} learning rates and {places} more places of weight decay and dropout, {settings.seeds} seeds"
    return estimate(plan, [(c, counts) for c in plan.contenders if c.name in kinds], what)
