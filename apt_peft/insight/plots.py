"""Pictures of what prompts do, and of what is left when some are taken out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#c8553d", "#3d6cc8", "#9aa5b1", "#4f8a5b")


def draw_report(report: Any, path: Path) -> None:
    """Attention, effective ranks and sizes by layer.

    Args:
        report: a `PromptReport`.
        path: the PNG or SVG file.
    """
    rows, names = report.rows, [row["layer"] for row in report.rows]
    figure, axes = _figure(3, max(6.0, 0.5 * len(rows) + 3), 7.5)
    panels: list[tuple[str, list[tuple[str, list[float]]]]] = [
        (
            "attention on prompts (%)",
            [
                ("prompts", [100 * row["attention"] for row in rows]),
                ("if all keys had the same", [100 * row["uniform"] for row in rows]),
            ],
        ),
        (
            "effective rank",
            [
                ("prompt keys", [row["key_rank"] for row in rows]),
                ("prompt values", [row["value_rank"] for row in rows]),
            ],
        ),
        (
            "size against the backbone's",
            [
                (f"{kind}s", [row[f"{kind}_rms"] / max(row[f"backbone_{kind}_rms"], 1e-12) for row in rows])
                for kind in ("key", "value")
            ],
        ),
    ]
    for place, (title, lines) in zip(axes, panels, strict=True):
        for (label, values), colour in zip(lines, COLOURS, strict=False):
            place.plot(range(len(rows)), values, marker="o", color=colour, label=label)
        place.set(ylabel=title, ylim=(0, None))
        place.set_xticks(range(len(rows)), names)
        place.legend(frameon=False, fontsize=9)
    axes[-1].set_xlabel("layer")
    figure.savefig(path, dpi=120)


def draw_curve(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Top-1 against the part of the prompts that is kept, a line for each measure.

    Args:
        rows: each with `by`, `kept` and `top1`.
        path: the PNG or SVG file.
    """
    figure, (axes,) = _figure(1, 6.0, 4.0)
    measures = list(dict.fromkeys(row["by"] for row in rows))
    for by, colour in zip(measures, COLOURS, strict=False):
        points = sorted((row["kept"], row["top1"]) for row in rows if row["by"] == by)
        axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=f"kept by {by}")
    axes.set(xlabel="part of the prompts that is kept", ylabel="validation top-1 (%)", xlim=(0, 1.03))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _figure(count: int, width: float, height: float) -> tuple[Figure, list[Any]]:
    # The object-oriented interface: no window system, no global state of pyplot.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(count, 1, squeeze=False)[:, 0])
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes
