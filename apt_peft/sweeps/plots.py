"""Heat maps of accuracy over settings, and accuracy and cost over the number of prompts, as PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apt_peft.comparison.plots import new_figure, save
from apt_peft.sweeps.claims import Curve
from apt_peft.sweeps.settings import RobustnessSettings

if TYPE_CHECKING:
    from apt_peft.sweeps.prompts import Point
    from apt_peft.sweeps.robustness import Plane

COLOURS = ("#c8553d", "#3d6cc8", "#5a8f5a", "#8a6bb1")


def draw_rates(curves: Sequence[Curve], within: float, out: Path) -> list[Path]:
    """Draw accuracy over learning rates: a heat map, and curves with what comes near each one's best.

    Args:
        curves: one for each reparameterization.
        within: points below the best that count as near.
        out: folder of the pictures.

    Returns:
        The files.
    """
    figure = new_figure(max(7.0, 0.8 * len(curves[0].rates) + 2), 1.6 + 0.45 * len(curves) + 3.4)
    above, below = figure.subfigures(2, 1, height_ratios=(0.9 + 0.5 * len(curves), 4.0))
    axes = above.subplots()
    rates = [f"{rate:g}" for rate in curves[0].rates]
    _heat(axes, [curve.top1 for curve in curves], rates, [curve.name for curve in curves])
    axes.set(ylabel="reparam.", title="validation top-1 (%), mean over seeds")
    axes = below.subplots()
    for curve, colour in zip(curves, COLOURS, strict=False):
        label = f"{curve.name}: {curve.shown()} within {within:g} points"
        axes.plot(curve.rates, curve.top1, "o-", color=colour, label=label, markersize=4)
        line = curve.best - within
        axes.fill_between(*_near(curve, line), line, color=colour, alpha=0.25, linewidth=0)
    axes.set(xscale="log", xlabel="learning rate of the prompts", ylabel="validation top-1 (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return save(figure, out / "rates")


def draw_planes(planes: Sequence["Plane"], settings: RobustnessSettings, out: Path) -> list[Path]:
    """Draw a heat map over weight decay and dropout for each reparameterization.

    Args:
        planes: one for each.
        settings: of the command.
        out: folder of the pictures.

    Returns:
        The files.
    """
    rows, columns = sorted(settings.weight_decays), sorted(settings.dropouts)
    figure = new_figure(max(4.0, 1.0 + 0.8 * len(columns)) * len(planes), 1.8 + 0.5 * len(rows))
    values = [value for plane in planes for row in plane.top1 for value in row]
    for axes, plane in zip(figure.subplots(1, len(planes), squeeze=False)[0], planes, strict=True):
        names = [f"{value:g}" for value in columns], [f"{value:g}" for value in rows]
        _heat(axes, plane.top1, *names, low=min(values), high=max(values))
        axes.set(xlabel="dropout of the prompts", ylabel="weight decay")
        axes.set_title(f"{plane.name}, lr {plane.rate:g}: top-1 (%)", fontsize=10)
    return save(figure, out / "decay-dropout")


def draw_prompts(points: Sequence["Point"], out: Path) -> list[Path]:
    """Draw accuracy, and below it multiply-adds where they are known, over the number of prompts.

    Args:
        points: of the sweep.
        out: folder of the pictures.

    Returns:
        The files.
    """
    methods = list(dict.fromkeys(point.method for point in points))
    counted = all(point.multiply_adds is not None for point in points)
    figure = new_figure(7, 6 if counted else 4)
    panels = figure.subplots(2 if counted else 1, 1, sharex=True, squeeze=False)[:, 0]
    for place, method in enumerate(methods):
        own, colour = [point for point in points if point.method == method], COLOURS[place % len(COLOURS)]
        # Beside each other, for intervals that overlap.
        aside = 1.04 ** (place - (len(methods) - 1) / 2)
        x, y = [point.prompts for point in own], [point.top1 for point in own]
        # A percentile interval may leave the mean out.
        apart = [
            [max(0.0, point.top1 - point.interval.low) for point in own],
            [max(0.0, point.interval.high - point.top1) for point in own],
        ]
        panels[0].errorbar(
            [p * aside for p in x], y, yerr=apart, fmt="o-", color=colour, capsize=3, markersize=4, label=method
        )
        if counted:
            giga = [(point.multiply_adds or 0) / 1e9 for point in own]
            panels[1].plot(x, giga, "o-", color=colour, markersize=4, label=method)
    panels[0].set(ylabel="validation top-1 (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(methods), fontsize=9)
    if counted:
        panels[1].set(ylabel="multiply-adds of a clip (G)", ylim=(0, None))
    ticks = sorted({point.prompts for point in points})
    panels[-1].set(xscale="log", xlabel="prompts (P) of each layer")
    panels[-1].set_xticks(ticks, [str(tick) for tick in ticks])
    panels[-1].minorticks_off()
    for axes in panels:
        axes.grid(alpha=0.3)
    return save(figure, out / "prompts")


def _near(curve: Curve, line: float) -> tuple[list[float], list[float]]:
    """The curve where it lies above a line, and the line elsewhere, with the places where they cross."""
    x, y = [], []
    for place, (rate, value) in enumerate(zip(curve.rates, curve.top1, strict=True)):
        if place:
            before, was = curve.rates[place - 1], curve.top1[place - 1]
            if (was - line) * (value - line) < 0:
                x.append(before * (rate / before) ** ((was - line) / (was - value)))
                y.append(line)
        x.append(rate)
        y.append(max(value, line))
    return x, y


def _heat(
    axes: Any,
    rows: Sequence[Sequence[float]],
    columns: Sequence[str],
    names: Sequence[str],
    *,
    low: float | None = None,
    high: float | None = None,
) -> None:
    """A heat map whose cells say their numbers; `rows` are from top to bottom."""
    values = [value for row in rows for value in row]
    low, high = min(values) if low is None else low, max(values) if high is None else high
    axes.imshow(rows, cmap="viridis", vmin=low, vmax=max(high, low + 1e-9), aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(names)), names)
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            dark = value <= low + 0.6 * (high - low)
            axes.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
