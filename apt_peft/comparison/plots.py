"""Accuracy against parameters, and against multiply-adds, as PNG and SVG."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_peft.comparison.table import Row
from apt_peft.errors import require
from apt_peft.scores.whole import whole_file

SUFFIXES = ("png", "svg")
MARKERS = "osD^vP*X<>"
# Points of the page between intervals that would lie on each other.
BESIDE = 7.0


def draw_all(rows: Sequence[Row], out: Path) -> list[Path]:
    """Draw the pictures that the rows have numbers for.

    Args:
        rows: of the contenders.
        out: folder of the pictures.

    Returns:
        The files.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "viz")
    found: list[Path] = []
    axes: dict[str, tuple[str, Callable[[Row], float | None]]] = {
        "accuracy-parameters": ("parameters beside the head", lambda row: row.beside_head),
        "accuracy-cost": ("multiply-adds of a clip's forward", lambda row: row.multiply_adds),
    }
    for name, (label, number) in axes.items():
        shown = [row for row in rows if row.top1 is not None and number(row) is not None]
        if shown:
            found += _draw(shown, [float(number(row) or 0) for row in shown], label, out / name)
    return found


def _draw(rows: Sequence[Row], values: Sequence[float], label: str, path: Path) -> list[Path]:
    from matplotlib.ticker import EngFormatter

    figure = new_figure(9, 4.5)
    axes = figure.add_subplot()
    drawn = [
        axes.errorbar([value], [row.top1], yerr=[[reach] for reach in _apart(row)], capsize=3, **style(place, row.name))
        for place, (row, value) in enumerate(zip(rows, values, strict=True))
    ]
    smallest = min((value for value in values if value > 0), default=1.0)
    if max(values) > 20 * smallest:
        # The head alone has no parameters beside it: zero has a place of its own.
        axes.set_xscale("symlog", linthresh=max(1.0, smallest))
    axes.margins(x=0.12)  # room for those that are moved apart
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set(xlabel=label, ylabel="test top-1 (%)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    _beside_each_other(figure, axes, drawn, values)
    return save(figure, path)


def style(place: int, name: str) -> dict[str, Any]:
    """How a contender is drawn: no two of the first twenty alike.

    Args:
        place: of the contender among all.
        name: that the legend says.
    """
    from matplotlib import colormaps

    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    # "$" would start a formula.
    shown = name.replace("$", r"\$")
    # Strong colours first, then the pale ones of each.
    return {
        "color": colours[(2 * place % 20) + (place // 10 % 2)],
        "marker": MARKERS[place % len(MARKERS)],
        "label": shown,
    }


def _beside_each_other(figure: Any, axes: Any, drawn: Sequence[Any], values: Sequence[float]) -> None:
    """Move points at the same place apart by a few points of the page, for intervals that would lie on each other."""
    from matplotlib.transforms import ScaledTranslation

    figure.draw_without_rendering()  # which decides where the axes lie
    places = [72 / figure.dpi * float(axes.transData.transform((value, 0.0))[0]) for value in values]
    for bars, shift in zip(drawn, shifts(places, BESIDE), strict=True):
        moved = axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans)
        for artist in bars.get_children():
            artist.set_transform(moved)


def shifts(places: Sequence[float], gap: float) -> list[float]:
    """How far to move each place so that all are apart, by as little as can be.

    Args:
        places: on a line, in any order.
        gap: between neighbours, at least.

    Returns:
        What to add to each.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    groups: list[list[int]] = []

    def first(group: Sequence[int]) -> float:
        """Where a group begins: it lies about the middle of its places."""
        return sum(places[index] for index in group) / len(group) - gap * (len(group) - 1) / 2

    for index in order:
        groups.append([index])
        while len(groups) > 1 and first(groups[-1]) - first(groups[-2]) < gap * len(groups[-2]) - 1e-9:
            groups[-2:] = [groups[-2] + groups[-1]]
    found = [0.0] * len(places)
    for group in groups:
        for place, index in enumerate(group):
            found[index] = first(group) + gap * place - places[index]
    return found


def draw_shots(rows: Mapping[int, Sequence[Row]], out: Path) -> list[Path]:
    """Draw accuracy over the clips of each class.

    Args:
        rows: of the contenders by shots, the same contenders in the same order.
        out: folder of the pictures.

    Returns:
        The files.
    """
    figure = new_figure(9, 4.5)
    axes = figure.add_subplot()
    counts = list(rows)
    several = len(rows[counts[0]])
    for place, first in enumerate(rows[counts[0]]):
        of_method = [(shots, rows[shots][place]) for shots in counts if rows[shots][place].top1 is not None]
        if not of_method:
            continue
        # Beside each other, for intervals that overlap.
        aside = min(1.04, 1.3 ** (1 / several)) ** (place - (several - 1) / 2)
        values, tops = [shots * aside for shots, _ in of_method], [row.top1 for _, row in of_method]
        apart = list(zip(*(_apart(row) for _, row in of_method), strict=True))
        axes.errorbar(values, tops, yerr=apart, capsize=3, **style(place, first.name))
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set(xlabel="training clips of each class", ylabel="test top-1 (%)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    return save(figure, out / "accuracy-shots")


def _apart(row: Row) -> tuple[float, float]:
    """How far an interval reaches below and above its mean, which a percentile interval may leave out."""
    top1, low, high = (float(number or 0) for number in (row.top1, row.low, row.high))
    return max(0.0, top1 - low), max(0.0, high - top1)


def new_figure(width: float, height: float) -> Any:
    """An empty figure, by the object-oriented interface: no window system, no global state of pyplot.

    Args:
        width: inches.
        height: inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> list[Path]:
    """Write a figure as PNG and SVG.

    Args:
        figure: of matplotlib.
        path: of the files, without their ends.

    Returns:
        The files.
    """
    import matplotlib

    found = []
    # The same bytes for the same rows.
    with matplotlib.rc_context({"svg.hashsalt": "apt-peft"}):
        for suffix in SUFFIXES:
            file = path.with_name(f"{path.name}.{suffix}")
            with whole_file(file) as begun:
                metadata = {"Date": None} if suffix == "svg" else None
                figure.savefig(begun, format=suffix, dpi=120, metadata=metadata)
            found.append(file)
    return found
