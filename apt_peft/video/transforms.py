"""Frames -> what a model takes: one resize that may be cached, then crop, flip and normalisation alike for a whole clip."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ConfigError, require
from .augment import RandAugment
from .erasing import erase
from .sampling import check_counts

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESIZES = ("crop", "squash")
AUGMENTATIONS = ("none", "flip", "crop")
# Smallest and largest part of the picture in a published random crop.
PUBLISHED_AREA = (0.08, 1.0)


@dataclass(frozen=True)
class ClipTransform:
    """Turns the uint8 frames of one clip into normalised floats, all frames alike.

    Two steps: `prepare` is deterministic and stays uint8, so that its result may be stored; `finish` crops, flips and
    normalises.

    Args:
        size: height and width of the result, in pixels.
        mean: per channel, of values from 0 to 1.
        std: per channel, of values from 0 to 1.
        resize: `"crop"` keeps the proportions and takes a square out of the picture, `"squash"` makes the whole picture
            square.
        augment: what a generator draws: `"none"`; `"flip"`, a horizontal flip of every second clip; `"crop"`, a random
            resized crop besides the flip.
        flip: False leaves the flip out, for videos that tell left from right.
        rand_augment: a `RandAugment` configuration, for example the published `"rand-m4-n2-mstd0.2-inc1"`, carried out
            before the crop where a generator draws; None is without.
        random_resized_crop: crop at random as the published code does: 0.08 to 1 of the picture, made `size` square by
            bilinear interpolation without antialiasing. For `"none"` and `"flip"` augmentation.
        random_erasing: probability with which a box of a normalised clip is set to 0, the same in all frames, where a
            generator draws: see `erasing`.
        short_side: length of the prepared frames' shorter side in pixels (with `"squash"`: of both); None is `size`, and
            8/7 of it for random crops (256 for 224), which would be blurred otherwise.
        area: smallest and largest part of the picture that a random crop of `"crop"` covers.
        ratio: smallest and largest width / height of a random crop.
        full_resolution: `prepare` leaves frames as they were decoded, and `finish` augments these, as published; slower,
            and more memory, the larger the videos are.

    Raises:
        ConfigError: a value that cannot be used.
    """

    size: int
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    resize: str = "crop"
    augment: str = "none"
    short_side: int | None = None
    area: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    rand_augment: str | None = None
    random_resized_crop: bool = False
    random_erasing: float = 0.0
    flip: bool = True
    full_resolution: bool = False

    def __post_init__(self) -> None:
        check_counts({"size": self.size} | ({} if self.short_side is None else {"short_side": self.short_side}))
        for name, value, known in [("resize", self.resize, RESIZES), ("augment", self.augment, AUGMENTATIONS)]:
            if value not in known:
                raise ConfigError(f"{name} ({value!r}) must be one of {', '.join(map(repr, known))}.")
        if self.prepared_side < self.size:
            raise ConfigError(f"short_side ({self.short_side}) must be at least size, but size is {self.size}.")
        for name in ("mean", "std"):
            values = tuple(getattr(self, name))
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise ConfigError(
                    f"{name} ({list(values)}) must be three numbers, one for each of red, green and blue."
                )
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if min(self.std) <= 0:
            raise ConfigError(f"std ({list(self.std)}) must be above 0: values are divided by it.")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ConfigError(f"area ({self.area}) must be two parts of the picture, 0 < smallest <= largest <= 1.")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ConfigError(f"ratio ({self.ratio}) must be two proportions, 0 < smallest <= largest.")
        if self.random_resized_crop and self.augment == "crop":
            raise ConfigError(
                "random_resized_crop (True) must go with augment 'none' or 'flip', but augment is 'crop', which crops "
                "another part at random. Take 'flip'."
            )
        if self.rand_augment is not None:
            RandAugment.parse(self.rand_augment)
        if not 0 <= self.random_erasing <= 1:
            raise ConfigError(f"random_erasing ({self.random_erasing}) must be a probability, from 0 to 1.")

    @property
    def prepared_side(self) -> int:
        """Shorter side that frames are resized to, in pixels."""
        if self.short_side is not None:
            return self.short_side
        crops = self.augment == "crop" or self.random_resized_crop
        return round(self.size * 8 / 7) if crops and not self.full_resolution else self.size

    def __call__(self, frames: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Prepare and finish one clip.

        Args:
            frames: uint8 (T, height, width, C).
            generator: draws the augmentation; None is for evaluation: the centre, unflipped.

        Returns:
            float32 (T, C, size, size).
        """
        return self.finish(self.prepare(frames), generator)

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """Resize once after decoding.

        Args:
            frames: uint8 (T, height, width, C).

        Returns:
            uint8 (T, C, prepared height, prepared width); as decoded with `full_resolution`.
        """
        frames = frames.permute(0, 3, 1, 2)
        # In the order of memory in which the further steps are several times as fast.
        return frames if self.full_resolution else self._resize(frames).contiguous()

    def finish(
        self, prepared: torch.Tensor, generator: torch.Generator | None = None, rows: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Augment, crop, flip and normalise.

        Args:
            prepared: uint8 (T, C, prepared height, prepared width).
            generator: draws the augmentation; None is for evaluation.
            rows: which of the prepared frames each frame of the clip is; None is all in their order. Frames that a short
                video repeats are made once.

        Returns:
            float32 (T, C, size, size).
        """
        functional = _functional()
        if generator is not None and self.rand_augment is not None:
            prepared = RandAugment.parse(self.rand_augment)(prepared, generator)
        if generator is not None and self.random_resized_crop:
            box = functional.crop(prepared, *self._random_box(prepared.shape[-2], prepared.shape[-1], generator))
            # In floats, as published: torchvision would round to whole levels.
            clip = torch.nn.functional.interpolate(box / 255, (self.size, self.size), mode="bilinear")
        elif generator is not None and self.augment == "crop":
            box = self._random_box(prepared.shape[-2], prepared.shape[-1], generator)
            clip = functional.resized_crop(prepared, *box, [self.size, self.size], antialias=True)
        else:
            prepared = self._resize(prepared) if self.full_resolution else prepared
            clip = functional.center_crop(prepared, [self.size, self.size])
        flips = generator is not None and self.augment != "none" and self.flip
        if flips and float(torch.rand((), generator=generator)) < 0.5:
            clip = functional.horizontal_flip(clip)
        clip = self.normalize(clip, rows)
        return clip if generator is None or not self.random_erasing else erase(clip, self.random_erasing, generator)

    def finish_views(self, prepared: torch.Tensor, crops: int) -> torch.Tensor:
        """Take the test crops along the longer side, from one end to the other; a single one is the centre.

        Args:
            prepared: uint8 (T, C, prepared height, prepared width).
            crops: how many.

        Returns:
            float32 (crops, T, C, size, size).
        """
        return self.normalize(torch.stack([self.cut_view(prepared, crop, crops) for crop in range(crops)]))

    def cut_view(self, prepared: torch.Tensor, crop: int, crops: int) -> torch.Tensor:
        """Take one of the test crops along the longer side, as it is.

        Args:
            prepared: uint8 (T, C, prepared height, prepared width).
            crop: which, from 0.
            crops: how many there are; a single one is the centre.

        Returns:
            uint8 (T, C, size, size), a part of `prepared`.
        """
        prepared = self._resize(prepared) if self.full_resolution else prepared
        height, width = prepared.shape[-2:]
        spare = [height - self.size, width - self.size]
        top, left = spare[0] // 2, spare[1] // 2
        if crops > 1 and height > width:
            top = crop * spare[0] // (crops - 1)
        elif crops > 1:
            left = crop * spare[1] // (crops - 1)
        return prepared[..., top : top + self.size, left : left + self.size]

    def _resize(self, frames: torch.Tensor) -> torch.Tensor:
        side = self.prepared_side
        target = [side, side] if self.resize == "squash" else [side]
        return _functional().resize(frames, target, antialias=True)

    def normalize(self, clip: torch.Tensor, rows: Sequence[int] | None = None) -> torch.Tensor:
        """Make pixels what the model wants.

        Args:
            clip: uint8 or float32 in 0..1, (..., C, height, width), on any device.
            rows: of a single clip, the frames of the result by their place in it, repeats allowed; None is all in order.

        Returns:
            float32 of the same shape, with `rows` as long as these.
        """
        if clip.device.type != "cpu":
            clip = clip if rows is None else clip[rows]
            functional = _functional()
            scaled = functional.to_dtype(clip, torch.float32, scale=True)
            return functional.normalize(scaled, list(self.mean), list(self.std)).contiguous()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        shape = clip.shape if rows is None else (len(rows), *clip.shape[1:])
        made = torch.empty(shape, dtype=torch.float32)
        # Frame by frame, which stays in the processor's cache from step to step; the steps and their order are torchvision's.
        places: dict[int, torch.Tensor] = {}
        clip = clip.reshape(-1, *clip.shape[-3:])
        for frame, row in zip(made.view(-1, *shape[-3:]), range(len(clip)) if rows is None else rows, strict=True):
            if row in places:
                frame.copy_(places[row])
                continue
            frame.copy_(clip[row])
            if clip.dtype == torch.uint8:
                frame.mul_(1 / 255)
            frame.sub_(mean).div_(std)
            places[row] = frame
        return made

    def _random_box(self, height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
        """Top, left, height, width of a random crop; torchvision's own draw cannot be given a generator."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        smallest, largest = PUBLISHED_AREA if self.random_resized_crop else self.area
        for _ in range(10):
            part, shape, down, right = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
            area = height * width * (smallest + part * (largest - smallest))
            ratio = math.exp(low + shape * (high - low))
            box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < box_width <= width and 0 < box_height <= height:
                top, left = int(down * (height - box_height + 1)), int(right * (width - box_width + 1))
                return top, left, box_height, box_width
        # No box of these proportions fits: the largest one in the centre that does.
        box_width = min(width, round(height * self.ratio[1]))
        box_height = min(height, round(width / self.ratio[0]))
        return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _functional() -> Any:
    return require("torchvision.transforms.v2.functional", "video")
