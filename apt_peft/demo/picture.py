"""The demo's picture: a clip of the task, and how often each method names the red shape's direction."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from apt_peft.demo.clips import DIRECTIONS, NUM_FRAMES
from apt_peft.video import read_frames

COLOURS = ("#9aa5b1", "#c8553d", "#3d6cc8")


def draw(result: Any, red_is_larger: dict[str, bool], path: Path) -> None:
    """Draw and save the picture.

    Args:
        result: a `DemoResult`.
        red_is_larger: for each test clip, by its path from OUT/clips, whether the red shape is the larger.
        path: the PNG file.
    """
    # The object-oriented interface: no window system, no global state of pyplot.
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    strip, bars = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 2.6))[:, 0]
    _draw_clip(strip, Path(result.out) / "clips", min(clip for clip, larger in red_is_larger.items() if not larger))
    _draw_bars(bars, result)
    figure.savefig(path, dpi=120)


def _draw_clip(figure: Any, folder: Path, clip: str) -> None:
    """The frames of one clip, with its label."""
    frames = read_frames(folder / clip, range(NUM_FRAMES))
    direction = clip.split("/")[1]
    figure.suptitle(f"Which way does the red shape move? Here: {direction}", fontsize=12)
    for axes, frame, index in zip(figure.subplots(1, NUM_FRAMES), frames, range(1, NUM_FRAMES + 1), strict=True):
        axes.imshow(frame.numpy(), interpolation="nearest")
        axes.set_xlabel(f"frame {index}", fontsize=9)
        axes.set(xticks=[], yticks=[])


def _draw_bars(figure: Any, result: Any) -> None:
    """Top-1 of each method: over all test clips, and by which shape is the red one."""
    axes = figure.subplots()
    groups = ("all test clips", "red is the larger shape", "red is the smaller shape")
    width = 0.8 / len(result.methods)
    for number, (method, colour) in enumerate(zip(result.methods, COLOURS, strict=False)):
        values = (method.top1, method.top1_red_larger, method.top1_red_smaller)
        places = [group + (number - (len(result.methods) - 1) / 2) * width for group in range(len(groups))]
        label = f"{method.label} ({method.trained_parameters:,} parameters)"
        bars = axes.bar(places, values, width * 0.94, color=colour, label=label)
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=10)
    axes.axhline(100 / len(DIRECTIONS), color="black", linewidth=1, linestyle=":")
    axes.text(2.51, 100 / len(DIRECTIONS), "chance", va="center", fontsize=9)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(ylabel="top-1 (%)", ylim=(0, 124), xlim=(-0.5, 2.5), yticks=range(0, 101, 25))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", frameon=False, ncols=len(result.methods), fontsize=10)
