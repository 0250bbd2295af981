"""What the backbone makes of clips: does anything come through, and in how many directions."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..training.base import frames_and_size, open_base
from ..training.clips import IMAGENET_MEAN, IMAGENET_STD
from .config import _numbers, _usable, grid
from .findings import Finding
from .patient import Patient

SYNTHETIC = 16  # clips
# A head sees normalised features. These are the least that is taken for alive: the backbones and the damages that this was
# tried on stand in docs/doctor.md, far on either side.
LEAST_SPREAD, LEAST_RANK = 0.005, 1.25
OPERATIONS = 1.5e12  # multiplications that the check may take: a quarter of a minute on one thread or two
FEWEST = 8  # clips, whatever they cost


class Features:
    """A backbone in memory, from clips to the features before its head.

    Args:
        patient: the model.

    Raises:
        CheckpointError: it cannot be opened.
    """

    def __init__(self, patient: Patient) -> None:
        self.model: Any = open_base(str(patient.folder), labels=None, mean_pooling=True).eval()
        self.frames, self.size = frames_and_size(patient.config)
        self.name = self.model.main_input_name
        mean, std = (_numbers(patient.processor.get(key)) for key in ("image_mean", "image_std"))
        if not _usable(mean, std, 3):
            mean, std = IMAGENET_MEAN, IMAGENET_STD
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    @torch.no_grad()
    def of(self, clips: Tensor) -> Tensor:
        """Features of normalised clips.

        Args:
            clips: float32 (B, T, C, height, width).

        Returns:
            (B, width): what goes into the classifier, without the affine part of a norm before it.
        """
        seen: list[Tensor] = []
        handle = self.model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            for clip in clips.split(1):  # one at a time: nothing is gained by more on a CPU, and memory stays small
                self.model(**{self.name: clip})
        finally:
            handle.remove()
        return torch.cat(seen).flatten(1)

    def synthetic(self) -> Tensor:
        """Normalised clips (B, T, C, height, width) of made-up pictures that move."""
        return (synthetic_clips(SYNTHETIC, self.frames, self.size) - self.mean) / self.std


def check_features(features: Features) -> Iterator[Finding]:
    """Whether features depend on the clip, in more than a single direction.

    Args:
        features: the backbone.

    Yields:
        Findings.
    """
    found = features.of(features.synthetic())
    if not found.isfinite().all():
        yield Finding(
            "features-not-finite", f"of {int((~found.isfinite()).any(1).sum())} in {len(found)} made-up clips"
        )
        return
    spread, rank = spread_and_rank(found)
    if spread < LEAST_SPREAD or rank < LEAST_RANK:
        yield Finding(
            "features-collapsed",
            f"over {len(found)} made-up clips they differ by {spread:.2g} of their size (alive: above {LEAST_SPREAD}), in "
            f"{rank:.1f} directions (alive: above {LEAST_RANK}, of at most {len(found) - 1})",
        )


def spread_and_rank(features: Tensor) -> tuple[float, float]:
    """How much features differ, and in how many directions.

    Args:
        features: (clips, width).

    Returns:
        Norm of what differs from the mean, relative to the whole, after each clip's features are normalised as the norm
        before the head does; and the effective rank: the exponential of the entropy of the squared singular values of
        features that each have deviation 1 over the clips.
    """
    normal = F.layer_norm(features.double(), features.shape[-1:])
    differing = normal - normal.mean(0)
    whole = float(normal.norm())
    spread = float(differing.norm()) / whole if whole > 0 else 0.0
    parts = torch.linalg.svdvals(differing / differing.std(0).clamp_min(1e-6)) ** 2
    if float(parts.sum()) == 0:
        return spread, 1.0
    parts = parts / parts.sum()
    return spread, float(torch.exp(-(parts * parts.clamp_min(1e-30).log()).sum()))


def synthetic_clips(count: int, frames: int, size: int, seed: int = 0) -> Tensor:
    """Made-up clips of four kinds in turn: blotches, grain, stripes and a square, all drifting.

    Args:
        count: how many.
        frames: T.
        size: height and width in pixels.
        seed: of what is drawn.

    Returns:
        float32 (count, T, 3, size, size) in 0..1.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    rows, columns = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    clips = []
    for index in range(count):
        step, start = (draw(2) - 0.5) * 0.6 / frames, draw(2)
        kind = index % 4
        cells = (5, max(size // 3, 2))[kind % 2]
        texture = draw(1, 3, cells, cells)
        colours, angle, waves = draw(2, 3, 1, 1), float(draw(1)) * math.pi, 2 + 6 * float(draw(1))
        pictures = []
        for time in range(frames):
            down, right = (start + step * time).tolist()
            if kind < 2:
                place = torch.stack([(columns + right) % 1, (rows + down) % 1], -1)[None] * 2 - 1
                pictures.append(F.grid_sample(texture, place, align_corners=False, padding_mode="border")[0])
                continue
            if kind == 2:
                phase = (columns + right) * math.cos(angle) + (rows + down) * math.sin(angle)
                share = 0.5 + 0.5 * torch.sin(2 * math.pi * waves * phase)
            else:
                inside = ((columns - right) % 1 < 0.3) & ((rows - down) % 1 < 0.3)
                share = inside.float()
            pictures.append(colours[0] * share + colours[1] * (1 - share))
        clips.append(torch.stack(pictures))
    return torch.stack(clips)


def affordable_clips(features: Features, config: Any, most: int) -> int:
    """How many clips a check may look at: fewer where each costs much.

    Args:
        features: the backbone.
        config: of it.
        most: clips.

    Returns:
        From 8 to `most`, or `most` where that is less.
    """
    tubelet, (height, width) = grid(config)
    tokens = max(features.frames // tubelet, 1) * max(features.size // height, 1) * max(features.size // width, 1)
    weights = sum(parameter.numel() for parameter in features.model.parameters())
    return min(most, max(FEWEST, int(OPERATIONS / (weights * tokens))))
