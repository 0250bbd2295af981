"""Curves over P, frames and image size: from shapes always, with measured ratios as dots where there are some."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_peft.cost.arithmetic import Shapes, multiply_adds, total
from apt_peft.cost.contenders import Contender
from apt_peft.errors import require

PROMPTS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800)
FRAMES = (8, 16, 24, 32, 48, 64)
PATCHES = (7, 10, 14, 18, 21, 24, 28)  # along a side: 112 to 448 pixels at 16 pixels a patch
COLOURS = {"apt": "#c8553d", "vpt-deep": "#3d6cc8", "lora": "#7a7f87"}
OVER = {"prompts": "prompt tokens P", "frames": "frames of a clip", "image_size": "image size in pixels"}
FORMATS = ("png", "svg")
Row = dict[str, Any]


def curve_rows(shapes: Shapes, num_prompt_tokens: int = 100, rank: int = 8) -> list[Row]:
    """All points, from shapes.

    Args:
        shapes: of the backbone.
        num_prompt_tokens: P along frames and image size.
        rank: of LoRA.

    Returns:
        One row a point: what it is over, the value there, method, size, tokens, the forward's ratio to the bare backbone
        and the training step's to LoRA's.
    """
    places = [("prompts", count, shapes, count) for count in PROMPTS]
    places += [
        ("frames", frames, shapes.changed(frames=frames), num_prompt_tokens)
        for frames in FRAMES
        if not frames % shapes.tubelet
    ]
    places += [
        ("image_size", count * max(shapes.patch), shapes.changed(image=count * max(shapes.patch)), num_prompt_tokens)
        for count in PATCHES
    ]
    rows = []
    for over, value, here, count in places:
        bare = total(multiply_adds(here)).forward
        step = total(multiply_adds(here, "lora", rank)).step
        for contender in (Contender("apt", count), Contender("vpt-deep", count), Contender("lora", rank)):
            work = total(multiply_adds(here, contender.method, contender.size))
            rows.append(
                {
                    "kind": "curve",
                    "over": over,
                    "value": value,
                    "method": contender.method,
                    "size": contender.size,
                    "tokens": here.tokens,
                    "forward": work.forward,
                    "step": work.step,
                    "forward / bare": work.forward / bare,
                    "step / lora": work.step / step,
                }
            )
    return rows


def draw(rows: Sequence[Row], dots: Mapping[tuple[str, str], Sequence[Row]], folder: Path) -> list[Path]:
    """Draw the curves.

    Args:
        rows: of `curve_rows`.
        dots: measured rows (value, method, ratio) by what they are over and the panel, "forward / bare" or "step / lora".
        folder: that exists.

    Returns:
        The files, a PNG and an SVG for each variable.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "viz")
    # The object-oriented interface: no window system, no global state of pyplot.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    files = []
    for over, axis in OVER.items():
        figure = Figure(figsize=(10, 4), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, panel in zip(figure.subplots(1, 2), ("forward / bare", "step / lora"), strict=True):
            for method, colour in COLOURS.items():
                points = [row for row in rows if row["over"] == over and row["method"] == method]
                label = method if over == "prompts" and method != "lora" else Contender(method, points[0]["size"]).label
                axes.plot([row["value"] for row in points], [row[panel] for row in points], color=colour, label=label)
                found = [row for row in dots.get((over, panel), ()) if row["method"] == method]
                axes.plot(
                    [row["value"] for row in found],
                    [row["ratio"] for row in found],
                    "o",
                    color=colour,
                    label=f"{label}, measured" if found else None,
                )
            axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
            axes.set(xlabel=axis, ylabel=f"{panel}, ratio", title=f"{panel} (lines: multiply-adds)")
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=9)
        for kind in FORMATS:
            files.append(folder / f"over_{over}.{kind}")
            figure.savefig(files[-1], dpi=120)
    return files
