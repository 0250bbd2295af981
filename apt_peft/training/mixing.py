"""Mixup and CutMix of the clips of a batch, by torchvision: one part or one box for all frames of all clips of it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apt_peft.errors import require
from apt_peft.training import processes
from apt_peft.training.losses import IGNORED, one_hot
from apt_peft.video.erasing import drawing_from
from apt_peft.video.sampling import clip_generator

PROBABILITY = 1.0
SWITCH_PROBABILITY = 0.5


@dataclass(frozen=True)
class Mixing:
    """Mixes each clip of a batch with the one before it. What is drawn depends on seed, step, batch and process only.

    Args:
        classes: of the labels.
        name: under which a batch holds its clips.
        mixup: alpha of mixup; 0 is without.
        cutmix: alpha of CutMix; 0 is without.
        probability: that a batch is mixed at all.
        switch_probability: of CutMix, where both are on.
        repeats: copies of a clip that stand in a row in a batch.
        seed: of what is drawn.

    Source: Zhang et al. 2018 (mixup), Yun et al. 2019 (CutMix); names and defaults of the probabilities are timm's.
    """

    classes: int
    name: str = "pixel_values"
    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = PROBABILITY
    switch_probability: float = SWITCH_PROBABILITY
    repeats: int = 1
    seed: int = 0

    @classmethod
    def of(cls, settings: Any, classes: int, name: str) -> "Mixing | None":
        """What mixes the batches of a run, or None.

        Args:
            settings: the run's flags.
            classes: how many there are.
            name: under which a batch holds its clips.
        """
        if not settings.mixup and not settings.cutmix:
            return None
        probability, switch = settings.mixup_prob, settings.mixup_switch_prob
        return cls(
            classes,
            name,
            settings.mixup,
            settings.cutmix,
            PROBABILITY if probability is None else probability,
            SWITCH_PROBABILITY if switch is None else switch,
            settings.repeated_augmentation,
            settings.seed,
        )

    def __call__(self, batch: dict[str, Any], step: int, number: int = 0) -> dict[str, Any]:
        """Mix a batch.

        Args:
            batch: clips (B, T, C, height, width) and `labels` (B,), those that don't count at the end.
            step: optimizer step, from 0.
            number: of the batch in it.

        Returns:
            The batch with labels (B, classes), the parts of classes in each clip, rows of zeros for clips that don't count.
            Copies of clips no longer stand in a row.
        """
        labels = batch["labels"]
        counted = int((labels != IGNORED).sum())
        clips, parts = batch[self.name][:counted], one_hot(labels[:counted], self.classes)
        if self.repeats > 1:  # copies of one clip are not to be mixed with each other: first copies first
            order = torch.arange(counted, device=labels.device).reshape(-1, self.repeats).T.flatten()
            clips, parts = clips[order], parts[order]
        # Views below 0 are those of no clip.
        generator = clip_generator(self.seed, step, number, -1 - processes.rank())
        mixes, switches = torch.rand(2, generator=generator).tolist()
        if mixes < self.probability and counted > self.repeats:
            cut = self.cutmix > 0 and (self.mixup == 0 or switches < self.switch_probability)
            clips, parts = self._mix(clips, parts, cut, generator)
        rest = len(labels) - counted
        return batch | {
            self.name: torch.cat([clips, batch[self.name][counted:]]) if rest else clips,
            "labels": torch.cat([parts, parts.new_zeros(rest, self.classes)]),
        }

    def _mix(self, clips: Tensor, parts: Tensor, cut: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        v2: Any = require("torchvision.transforms.v2", "video")
        tensors: Any = require("torchvision.tv_tensors", "video")
        mix = v2.CutMix(alpha=self.cutmix) if cut else v2.MixUp(alpha=self.mixup)
        with drawing_from(generator):
            mixed, parts = mix(tensors.Video(clips), parts)
        return mixed.as_subclass(Tensor), parts
