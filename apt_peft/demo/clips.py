"""Clips of moving shapes: two tasks that look alike, drawn by arithmetic alone and written as small mp4 files.

`larger` is the task the embedded backbone was trained on: name the direction in which the *larger* shape moves.
`red` is the task of the demo: name the direction in which the *red* shape moves, whichever its size. A backbone that
has learned to follow the larger shape looks at the wrong one in half of these clips.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from apt_peft.errors import require

SIZE = 48  # pixels, height and width
NUM_FRAMES = 8
FPS = 8
DIRECTIONS = ("east", "southeast", "south", "southwest", "west", "northwest", "north", "northeast")
KINDS = ("circle", "square", "triangle")
HUES = ("red", "green", "blue")
RED, GREEN, BLUE = range(3)
SPLITS = ("train", "test")
CHUNK = 64  # clips rendered at a time: few enough to stay in the processor's cache


@dataclass(frozen=True)
class Shapes:
    """What moves in each of n clips, two shapes a clip: every tensor is (n, 2)."""

    kinds: Tensor  # index into KINDS
    radii: Tensor  # pixels
    directions: Tensor  # index into DIRECTIONS
    speeds: Tensor  # pixels a frame
    hues: Tensor  # index into HUES


def larger(n: int, generator: torch.Generator) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Draw clips of two shapes of any colours; the labels tell of the larger one.

    Args:
        n: number of clips.
        generator: source of every random number.

    Returns:
        uint8 clips (n, T, height, width, C); the larger shape's direction, kind and hue, each (n,).
    """
    shapes, is_larger = _draw_shapes(n, generator)
    hues = torch.randint(0, len(HUES), (n, 2), generator=generator)
    shapes = Shapes(shapes.kinds, shapes.radii, shapes.directions, shapes.speeds, hues)
    labels = (shapes.directions, shapes.kinds, shapes.hues)
    direction, kind, hue = (label.gather(1, is_larger[:, None])[:, 0] for label in labels)
    return render(shapes, generator), (direction, kind, hue)


def red(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw clips of two shapes, one red and the other green or blue; the label is the red one's direction.

    Args:
        n: number of clips.
        generator: source of every random number.

    Returns:
        uint8 clips (n, T, height, width, C); labels (n,), indices into `DIRECTIONS`; whether the red shape is the
        larger (n,).
    """
    shapes, is_larger = _draw_shapes(n, generator)
    is_red = torch.randint(0, 2, (n, 1), generator=generator)
    other = torch.randint(GREEN, BLUE + 1, (n, 1), generator=generator)
    hues = torch.where(torch.arange(2) == is_red, RED, other)
    shapes = Shapes(shapes.kinds, shapes.radii, shapes.directions, shapes.speeds, hues)
    return render(shapes, generator), shapes.directions.gather(1, is_red)[:, 0], is_red[:, 0] == is_larger


def _draw_shapes(n: int, generator: torch.Generator) -> tuple[Shapes, Tensor]:
    """Everything but colours, and which shape (n,) of each clip is the larger: sizes never overlap."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    is_larger = torch.randint(0, 2, (n,), generator=generator)
    radii = torch.where(torch.arange(2) == is_larger[:, None], uniform(6, 8.5, n, 1), uniform(4, 5.5, n, 1))
    kinds = torch.randint(0, len(KINDS), (n, 2), generator=generator)
    directions = torch.randint(0, len(DIRECTIONS), (n, 2), generator=generator)
    speeds = uniform(1.5, 3, n, 2)
    return Shapes(kinds, radii, directions, speeds, torch.zeros(n, 2, dtype=torch.long)), is_larger


def render(shapes: Shapes, generator: torch.Generator) -> Tensor:
    """Paint shapes that move straight ahead over a calm dark scene; what leaves at one edge returns at the other.

    Args:
        shapes: what to paint; the second shape covers the first.
        generator: source of backgrounds, places, shades and noise.

    Returns:
        uint8 clips (n, T, height, width, C).
    """
    n, count = shapes.kinds.shape
    rows, columns = torch.meshgrid(torch.arange(SIZE).float(), torch.arange(SIZE).float(), indexing="ij")
    time = torch.arange(NUM_FRAMES) - (NUM_FRAMES - 1) / 2

    tint = 0.25 * torch.rand(n, 1, 1, 1, 3, generator=generator)
    blotches = 0.03 * torch.randn(n, SIZE // 8, SIZE // 8, 3, generator=generator)
    blotches = blotches.repeat_interleave(8, 1).repeat_interleave(8, 2)
    clips = (tint + blotches[:, None]).expand(n, NUM_FRAMES, SIZE, SIZE, 3)
    for shape in range(count):
        angle = shapes.directions[:, shape] * (2 * math.pi / len(DIRECTIONS))
        step = shapes.speeds[:, shape, None] * torch.stack([angle.cos(), angle.sin()], 1)  # (n, 2): x, y
        start = SIZE * (0.3 + 0.4 * torch.rand(n, 2, generator=generator))
        centre = start[:, None] + step[:, None] * time[:, None]  # (n, T, 2)
        dx = (columns - centre[..., 0, None, None] + SIZE / 2) % SIZE - SIZE / 2
        dy = (rows - centre[..., 1, None, None] + SIZE / 2) % SIZE - SIZE / 2
        distance = _distance(shapes.kinds[:, shape, None, None, None], dx, dy, shapes.radii[:, shape, None, None, None])
        coverage = torch.sigmoid(-2 * distance)[..., None]  # an edge about a pixel wide
        pure = F.one_hot(shapes.hues[:, shape], 3)
        bright, dull = (torch.rand(n, channels, generator=generator) for channels in (1, 3))
        colour = pure * (0.75 + 0.25 * bright) + (1 - pure) * (0.1 + 0.3 * dull)
        clips = clips * (1 - coverage) + colour[:, None, None, None] * coverage
    clips = clips + 0.02 * torch.randn(clips.shape, generator=generator)
    return (255 * clips).round().clamp(0, 255).to(torch.uint8)


def _distance(kinds: Tensor, dx: Tensor, dy: Tensor, radii: Tensor) -> Tensor:
    """Signed distance in pixels to the outline, negative inside; shapes broadcast."""
    circle = torch.hypot(dx, dy) - radii
    square = torch.maximum(dx.abs(), dy.abs()) - 0.85 * radii
    sides = 0.866 * dx.abs() - 0.5 * dy  # an upright triangle, the mirror of itself
    triangle = torch.maximum(dy, sides) - 0.6 * radii
    return torch.where(kinds == 0, circle, torch.where(kinds == 1, square, triangle))


def write_clip(path: Path, frames: Tensor) -> None:
    """Write one clip as H.264, with full colour resolution: at 48 pixels the usual halved one would smear the hues.

    Args:
        path: the mp4 file to write.
        frames: uint8 (T, height, width, C).

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    av = require("av", "train")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "10", "preset": "ultrafast", "threads": "1"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        stream.time_base = Fraction(1, FPS)
        for picture in frames.numpy():
            # On one thread: a frame that has converted colours on several would wait for them in a forked worker
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv444p", threads=1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def split_seed(seed: int, split: str) -> int:
    """The seed of a split's clips: no two pairs of seed and split share one, so no two splits share their draws.

    Args:
        seed: of the demo, 0 or more.
        split: `train` or `test`.

    Returns:
        The seed of its generator.
    """
    return len(SPLITS) * seed + SPLITS.index(split)


def write_split(
    folder: Path, split: str, n: int, *, seed: int, on_clip: Callable[[], object] = lambda: None
) -> dict[str, bool]:
    """Write labelled clips of the task `red`, as FOLDER/SPLIT/DIRECTION/NUMBER.mp4.

    Args:
        folder: the data folder.
        split: `train` or `test`.
        n: number of clips.
        seed: of the demo; the clips are a function of it and of the split.
        on_clip: called after each clip, for a progress bar.

    Returns:
        For each clip, by its path from `folder`, whether the red shape is the larger.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    for direction in DIRECTIONS:
        (folder / split / direction).mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(split_seed(seed, split))
    written: dict[str, bool] = {}
    while len(written) < n:
        for frames, label, larger_is_red in zip(*red(min(CHUNK, n - len(written)), generator), strict=True):
            name = f"{split}/{DIRECTIONS[label]}/{len(written):04d}.mp4"
            write_clip(folder / name, frames)
            written[name] = bool(larger_is_red)
            on_clip()
    return written
