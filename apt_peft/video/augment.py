"""RandAugment on clips: a few operations drawn from a list, each of them alike for all frames of a clip."""

import math
import re
from dataclasses import dataclass

import torch

from ..errors import ConfigError, require

# Magnitudes go from 0 to this.
LARGEST = 10.0
# What lies outside of a moved picture: grey.
FILL = 128
OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast",
    "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip
# Those without a strength.
PLAIN = ("AutoContrast", "Equalize", "Invert")
BLENDS = ("Color", "Contrast", "Brightness", "Sharpness")
# The largest rotation (degrees), shear (pixels a pixel) and shift (part of the side).
MOVES = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": 0.45, "TranslateYRel": 0.45}
# A part of the configuration: how it is written, and which values it may have.
PARTS = {
    "m": (r"m(\d+)", "m0 to m10, the magnitude", lambda value: value <= LARGEST),
    "n": (r"n(\d+)", "n1 to n15, the operations of a clip", lambda value: 1 <= value <= len(OPERATIONS)),
    "mstd": (r"mstd(\d+(?:\.\d+)?)", "mstd0 to mstd100, the magnitude's deviation", lambda value: value <= 100),
    "inc": (r"inc([01])", "inc0 or inc1, whether all operations grow with the magnitude", lambda value: True),
}


@dataclass(frozen=True)
class RandAugment:
    """Draws operations and strengths for a clip and applies them to its uint8 frames.

    Each of `layers` operations is drawn from the fifteen with equal chances, the same one perhaps twice, and takes place
    with `probability`. Its magnitude is drawn from a normal distribution and kept within 0 and 10.

    Args:
        magnitude: mean of an operation's magnitude, from 0 to 10.
        layers: operations drawn for a clip.
        magnitude_std: standard deviation of the magnitude.
        increasing: whether every operation changes more with a larger magnitude.
        probability: that a drawn operation takes place.

    Source: Bandara & Patel, Attention Prompt Tuning (FG 2024), its published training recipes; operations, ranges and
    chances are those of timm 1.0.31's `rand_augment_transform` with bicubic interpolation and its default fill.
    """

    magnitude: float = LARGEST
    layers: int = 2
    magnitude_std: float = 0.0
    increasing: bool = False
    probability: float = 0.5

    @classmethod
    def parse(cls, config: str) -> "RandAugment":
        """Read a configuration in timm's way of writing.

        Args:
            config: `rand-mM-nN-mstdS-incI`, for example the published `rand-m4-n2-mstd0.2-inc1`: magnitude, number of
                operations, deviation of the magnitude, increasing. What is left out is 10, 2, 0 and 0.

        Returns:
            The augmentation.

        Raises:
            ConfigError: the text is none of these.
        """
        first, *parts = config.split("-")
        found: dict[str, float] = {}
        wrong = [] if first == "rand" else [first]
        for part in parts:
            key = "".join(re.findall(r"^[a-z]+", part))
            pattern, _, fits = PARTS.get(key, (r"(?!)", "", bool))
            match = re.fullmatch(pattern, part, re.ASCII)
            if match is None or key in found or not fits(float(match[1])):
                wrong.append(part)
            else:
                found[key] = float(match[1])
        if wrong:
            known = "; ".join(says for _, says, _ in PARTS.values())
            raise ConfigError(
                f"rand_augment ({config!r}) must be rand and parts with dashes between, each once at most, but "
                f"{', '.join(map(repr, wrong))} cannot stand there. The parts are {known}."
            )
        return cls(
            magnitude=found.get("m", LARGEST),
            layers=int(found.get("n", 2)),
            magnitude_std=found.get("mstd", 0.0),
            increasing=bool(found.get("inc", 0)),
        )

    def draw(self, generator: torch.Generator) -> list[tuple[str, float | None]]:
        """Draw the operations of a clip.

        Args:
            generator: draws; as much from it whatever comes out.

        Returns:
            Names and strengths of those that take place, in their order; see `strength`.
        """
        chances = torch.rand(self.layers, 3, generator=generator, dtype=torch.float64).tolist()
        noise = torch.randn(self.layers, generator=generator, dtype=torch.float64).tolist()
        drawn = []
        for (choice, happens, sign), deviation in zip(chances, noise, strict=True):
            if happens < self.probability:
                name = OPERATIONS[int(choice * len(OPERATIONS))]
                magnitude = min(max(self.magnitude + self.magnitude_std * deviation, 0.0), LARGEST)
                drawn.append((name, strength(name, magnitude, increasing=self.increasing, negative=sign < 0.5)))
        return drawn

    def __call__(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment a clip.

        Args:
            frames: uint8 (T, 3, height, width).
            generator: draws the operations.

        Returns:
            uint8 of the same shape.
        """
        for name, value in self.draw(generator):
            frames = apply_operation(name, frames, value)
        return frames


def strength(name: str, magnitude: float, *, increasing: bool, negative: bool = False) -> float | None:
    """What a magnitude means for an operation.

    Args:
        name: of the operation.
        magnitude: from 0 to 10.
        increasing: whether every operation changes more with a larger magnitude.
        negative: the other direction, where the operation has two.

    Returns:
        Degrees (`Rotate`, counter-clockwise), pixels a pixel (`Shear...`), part of the side (`Translate...`), bits that
        stay (`Posterize`), the darkest value that is inverted (`Solarize`), what is added to dark values (`SolarizeAdd`), the
        picture's weight against a dull one (the others); None for an operation without a strength.
    """
    level, sign = magnitude / LARGEST, -1 if negative else 1
    if name in PLAIN:
        return None
    if name in MOVES:
        return sign * level * MOVES[name]
    if name in BLENDS:
        return max(0.1, 1.0 + sign * level * 0.9) if increasing else level * 1.8 + 0.1
    if name == "SolarizeAdd":
        return min(128, int(level * 110))
    steps = int(level * 4) if name == "Posterize" else min(256, int(level * 256))
    return {"Posterize": 4, "Solarize": 256}[name] - steps if increasing else steps


def apply_operation(name: str, frames: torch.Tensor, value: float | None) -> torch.Tensor:
    """Carry out one operation, alike for all frames.

    Args:
        name: one of `OPERATIONS`.
        frames: uint8 (T, 3, height, width).
        value: its strength, from `strength`.

    Returns:
        uint8 of the same shape.
    """
    functional = require("torchvision.transforms.v2.functional", "video")
    if value is None:
        plain = {"AutoContrast": "autocontrast", "Equalize": "equalize", "Invert": "invert"}
        return getattr(functional, plain[name])(frames)
    if name in MOVES:
        return _move(frames, _matrix(name, value, *frames.shape[-2:]))
    if name == "Posterize":
        return functional.posterize(frames, int(value))
    if name == "Solarize":
        return functional.solarize(frames, value) if value < 256 else frames
    if name == "SolarizeAdd":
        return torch.where(frames < 128, frames.clamp(max=255 - int(value)) + int(value), frames)
    if name == "Sharpness":
        return functional.adjust_sharpness(frames, value)
    # v2 weighs the colours of grey, and rounds it, otherwise than Pillow.
    if name == "Brightness":
        return _blend(torch.zeros((), dtype=torch.int32), frames, value)
    red, green, blue = frames.to(torch.int32).unbind(-3)
    grey = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).unsqueeze(-3)
    if name == "Contrast":  # of each frame for itself, as everything that looks at the picture
        grey = (grey.double().mean((-2, -1), keepdim=True) + 0.5).to(torch.int32)
    return _blend(grey, frames, value)


def _blend(dull: torch.Tensor, frames: torch.Tensor, weight: float) -> torch.Tensor:
    """Between a dull picture (weight 0) and the given one (1), or beyond it; rounded down as in Pillow."""
    return (dull + weight * (frames.to(torch.int32) - dull)).clamp_(0, 255).to(torch.uint8)


def _matrix(name: str, value: float, height: int, width: int) -> tuple[float, ...]:
    """Where a place (x, y) of the result comes from: (a x + b y + c, d x + e y + f), in pixels."""
    if name == "Rotate":
        cos, sin = math.cos(math.radians(value)), math.sin(math.radians(value))
        middle = (width / 2, height / 2)
        shift = (middle[0] - cos * middle[0] + sin * middle[1], middle[1] - sin * middle[0] - cos * middle[1])
        return cos, -sin, shift[0], sin, cos, shift[1]
    across, down = {
        "ShearX": ((1, value, 0), (0, 1, 0)),
        "ShearY": ((1, 0, 0), (value, 1, 0)),
        "TranslateXRel": ((1, 0, value * width), (0, 1, 0)),
        "TranslateYRel": ((1, 0, 0), (0, 1, value * height)),
    }[name]
    return *across, *down


def _move(frames: torch.Tensor, matrix: tuple[float, ...]) -> torch.Tensor:
    """An affine map with Pillow's bicubic interpolation; torch's `grid_sample` has another one (a = -0.75, not -1).

    Each pixel of the result is a weighted sum of 4 x 4 pixels, the same ones in all frames and channels, which is what
    `embedding_bag` computes: a row of its table is a pixel of all frames.
    """
    height, width = frames.shape[-2:]
    a, b, c, d, e, f = matrix
    x = torch.arange(width, dtype=torch.float64) + 0.5
    y = torch.arange(height, dtype=torch.float64)[:, None] + 0.5
    from_x, from_y = a * x + b * y + c, d * x + e * y + f
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    columns, across = _taps(from_x.expand(height, width)[inside], width)
    rows, down = _taps(from_y.expand(height, width)[inside], height)
    if d == 0 and e == 1 and f == 0:  # along x only: the other three rows have no weight
        rows, down = rows[:, 1:2], down[:, 1:2]
    if a == 1 and b == 0 and c == 0:
        columns, across = columns[:, 1:2], across[:, 1:2]
    places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    weights = (down[:, :, None] * across[:, None, :]).flatten(1).float()
    pixels = frames.flatten(0, 1).flatten(1).T.contiguous()  # (height * width, T * 3)
    moved = torch.full_like(pixels, FILL)
    summed = torch.nn.functional.embedding_bag(places, pixels.float(), per_sample_weights=weights, mode="sum")
    # Pillow rounds down; float32 may lie a little below the whole number that its float64 gives.
    moved[inside.flatten()] = summed.add_(2e-4).clamp_(0, 255).to(torch.uint8)
    return moved.T.reshape(frames.shape)


def _taps(position: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The four pixels around each position along one axis, the edge's repeated, and their bicubic weights (a = -1)."""
    first = (position - 0.5).floor()
    part = (position - 0.5 - first)[:, None]
    # By the distance t of a pixel, from 1 to 2 and from 0 to 1.
    near, far = torch.cat([part, 1 - part], dim=1), torch.cat([1 + part, 2 - part], dim=1)
    near, far = (near - 2) * near * near + 1, ((5 - far) * far - 8) * far + 4
    weights = torch.cat([far[:, :1], near, far[:, 1:]], dim=1)
    places = first.long()[:, None] + torch.arange(-1, 3)
    return places.clamp_(0, size - 1), weights
