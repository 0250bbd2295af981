"""Accuracy against parameters, and against multiply-adds, as PNG and SVG."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_peft.comparison.table import Row
from apt_peft.errors import require
from apt_peft.scores.whole import whole_file

SUFFIXES = ("png", "svg")


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
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    for row, value in zip(rows, values, strict=True):
        top1 = float(row.top1 or 0)
        axes.errorbar([value], [top1], yerr=[[reach] for reach in _apart(row)], fmt="o", capsize=3)
        # "$" would start a formula.
        axes.annotate(row.name.replace("$", r"\$"), (value, top1), xytext=(6, 4), textcoords="offset points")
    if max(values) > 20 * max(min(values), 1):
        # The head alone has no parameters beside it: zero has a place of its own.
        axes.set_xscale("symlog", linthresh=max(1.0, min((v for v in values if v > 0), default=1.0)))
    axes.set(xlabel=label, ylabel="test top-1 (%)")
    axes.grid(alpha=0.3)
    return save(figure, path)


def draw_shots(rows: Mapping[int, Sequence[Row]], out: Path) -> list[Path]:
    """Draw accuracy over the clips of each class.

    Args:
        rows: of the contenders by shots, the same contenders in the same order.
        out: folder of the pictures.

    Returns:
        The files.
    """
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    counts = list(rows)
    for place, first in enumerate(rows[counts[0]]):
        of_method = [(shots, rows[shots][place]) for shots in counts if rows[shots][place].top1 is not None]
        if not of_method:
            continue
        # Beside each other, for intervals that overlap.
        values = [shots * 1.04 ** (place - (len(rows[counts[0]]) - 1) / 2) for shots, _ in of_method]
        tops = [row.top1 for _, row in of_method]
        apart = [_apart(row) for _, row in of_method]
        axes.errorbar(
            values,
            tops,
            yerr=list(zip(*apart, strict=True)),
            marker="o",
            capsize=3,
            label=first.name.replace("$", r"\$"),
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set(xlabel="training clips of each class", ylabel="test top-1 (%)")
    axes.grid(alpha=0.3)
    axes.legend()
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
