"""Draw where-prompts-go.svg: attention prompts beside prompts that are prepended to the tokens.

python docs/images/draw.py [FILE.svg|FILE.png]
"""

import sys
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

TOKENS, PROMPTS = 6, 3
CELL = 0.30
BLUE, FROZEN, ORANGE, TINTED, INK = "#9ec3e6", "#e8edf2", "#f2913d", "#f8cfa6", "#30363d"
MIDDLE = 2.0  # height at which the tokens of a row are centred


def cells(axes: Axes, x: float, colors: list[str], title: str) -> float:
    """A stack of vectors, one a colour, tokens centred; returns its right edge."""
    top = MIDDLE + TOKENS * CELL / 2
    for index, color in enumerate(colors):
        corner = (x, top - (index + 1) * CELL)
        axes.add_patch(Rectangle(corner, CELL, CELL * 0.86, facecolor=color, edgecolor=INK, linewidth=0.6))
    axes.text(x + CELL / 2, top + 0.12, title, ha="center", va="bottom", color=INK)
    return x + CELL


def box(axes: Axes, x: float, width: float, text: str) -> float:
    """A frozen module; returns its right edge."""
    style = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(
        FancyBboxPatch((x, MIDDLE - 0.6), width, 1.2, boxstyle=style, facecolor=FROZEN, edgecolor=INK, linewidth=0.8)
    )
    axes.text(x + width / 2, MIDDLE, text, ha="center", va="center", color=INK)
    return x + width


def arrow(axes: Axes, x: float, width: float = 0.32) -> float:
    """An arrow to the right; returns its end with a little room."""
    axes.annotate("", (x + width, MIDDLE), (x + 0.06, MIDDLE), arrowprops={"arrowstyle": "->", "color": INK, "lw": 1})
    return x + width + 0.06


def weights(axes: Axes, x: float, rows: list[str], columns: list[str], title: str) -> float:
    """The table of attention weights, a row a query, a column a key; returns its right edge."""
    size = 0.21
    top = MIDDLE + TOKENS * size / 2
    for row, query in enumerate(rows):
        for column, key in enumerate(columns):
            color = query if query != BLUE else key
            corner = (x + column * size, top - (row + 1) * size)
            axes.add_patch(Rectangle(corner, size * 0.9, size * 0.9, facecolor=color, edgecolor=INK, linewidth=0.4))
    axes.text(x + len(columns) * size / 2, top + 0.12, title, ha="center", va="bottom", color=INK)
    return x + len(columns) * size


def row(
    axes: Axes, heading: str, *, entering: list[str], queries: list[str], keys: list[str], names: list[str]
) -> None:
    """One method from the tokens that enter a block to the tokens that leave it."""
    tokens, seen = names
    x = cells(axes, 0.25, entering, tokens)
    x = box(axes, arrow(axes, x), 1.15, "q, k, v\nprojections\n(frozen)")
    x = arrow(axes, x)
    for name, colors in (("Q", queries), ("K", keys), ("V", keys)):
        x = cells(axes, x, colors, name) + 0.14
    x = weights(axes, arrow(axes, x - 0.14), queries, keys, seen)
    x = cells(axes, arrow(axes, x) + 0.1, queries, tokens)
    x = box(axes, arrow(axes, x), 0.95, "MLP\n(frozen)")
    cells(axes, arrow(axes, x) + 0.1, queries, tokens)
    axes.text(0.0, 3.55, heading, ha="left", va="center", color=INK, fontsize=11, fontweight="bold")
    axes.set(xlim=(0, 9.6), ylim=(-0.55, 3.75))
    axes.set_aspect("equal")
    axes.axis("off")


def draw(path: Path) -> None:
    """Write the picture.

    Args:
        path: file to write; its suffix decides on the format.
    """
    figure = Figure(figsize=(9.6, 8.0), facecolor="white", layout="constrained")
    ours, other = figure.subplots(2, 1)
    tokens, learned, computed = [BLUE] * TOKENS, [ORANGE] * PROMPTS, [TINTED] * PROMPTS
    row(
        ours,
        "Attention prompts: P keys and P values join after the projections",
        entering=tokens,
        queries=tokens,
        keys=tokens + learned,
        names=["N tokens", "softmax(QKᵀ/√D)\nN x (N + P)"],
    )
    ours.annotate(
        "learned: prompt keys and prompt values, (P, D) each,\nfor all heads of the layer; nothing else in the block changes",
        (3.55, 0.22), (4.35, 0.12), va="center", color="#a85208",
        arrowprops={"arrowstyle": "->", "color": "#a85208", "lw": 1},
    )  # fmt: skip
    row(
        other,
        "Prepended prompts (VPT): P tokens pass through everything",
        entering=tokens + learned,
        queries=tokens + computed,
        keys=tokens + computed,
        names=["N + P", "softmax(QKᵀ/√D)\n(N + P) x (N + P)"],
    )
    caption = "dark orange: learned tokens; light orange: what projections, queries and MLP compute for them on top"
    other.text(0.25, -0.4, caption, va="center", color="#a85208")
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    matplotlib.rcParams.update({"svg.hashsalt": "apt_peft", "font.size": 9})  # equal input gives an equal file
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("where-prompts-go.svg"))
