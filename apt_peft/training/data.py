"""The clips of a run: found, held out, looked at before the first step, and made into data sets."""

import logging
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from apt_peft import flags
from apt_peft.errors import DataError
from apt_peft.training.checkpoints import CACHE, CHECKPOINTS, UNREADABLE
from apt_peft.training.clips import ClipSettings
from apt_peft.training.datasets import training_dataset, video_dataset
from apt_peft.training.looking import NAMES, SPLITS, look_over
from apt_peft.training.options import FEATURES
from apt_peft.training.settings import TrainSettings
from apt_peft.video import Clip, FrameCache
from apt_peft.video.clip import clip_name, clip_size
from apt_peft.video.data import hold_out_groups
from apt_peft.video.groups import NONE, Rule, group_clips, held_out_warnings, shared_groups_or_unknown
from apt_peft.video.lasting import lost_clips

logger = logging.getLogger(__name__)
AUTO_CACHE_BYTES = 2**30
# Width of a prepared frame over its height, for the estimate of a cache: wide-screen pictures.
WIDE = 16 / 9
# Words in the names of classes that a flip would mix up.
DIRECTIONS = frozenset(
    [
        "left",
        "right",
        "leftward",
        "leftwards",
        "rightward",
        "rightwards",
        "clockwise",
        "anticlockwise",
        "counterclockwise",
    ]
)


@dataclass
class RunData:
    """The clips of a run by split, and the data sets made of them.

    Args:
        settings: the run's flags.
        clips: how videos become clips.
        labels: class names in label order.
        splits: clips by `train`, `val` and `test`.
        held_out: whether the validation clips were taken from the training split.
        cache: folder of decoded frames, or None.
        fingerprint: changes with the clips' names, sizes and labels.
        skipped_reasons: names of clips that could not be read and were left out -> what is wrong with them.
        skipped_of: their names by split.
        stored: data sets of stored features by split, which take the place of the clips.
        frames: the cache itself, once it is used.
        rule: what told which clips were cut from one video, where validation clips were held out.
    """

    settings: TrainSettings
    clips: ClipSettings
    labels: tuple[str, ...]
    splits: dict[str, list[Clip]]
    held_out: bool
    cache: Path | None
    fingerprint: str
    skipped_reasons: dict[str, str] = field(default_factory=dict)
    skipped_of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stored: dict[str, Any] = field(default_factory=dict)
    frames: FrameCache | None = None
    rule: Rule | None = None

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of clips that could not be read and were left out."""
        return tuple(self.skipped_reasons)

    def training(self) -> Any:
        """The training clips, augmented and drawn anew in each epoch."""
        if "train" in self.stored:
            return self.stored["train"]
        return training_dataset(
            self.splits["train"], self.clips, self.settings, cache=self._frames(), **self._lasting()
        )

    def testing(self, split: str) -> Any:
        """The test views of a split's clips."""
        if split in self.stored:
            return self.stored[split]
        return video_dataset(
            self.splits[split],
            self.clips,
            seed=self.settings.seed,
            cache=self._frames(),
            decoder=self.settings.decoder,
            **self._lasting(),
        )

    def names(self, split: str) -> list[str]:
        """The clips' names, relative to the data folder where they lie in it."""
        return [clip_name(clip, self.settings.data) for clip in self.splits[split]]

    def describe(self) -> str:
        """The numbers of clips in a line."""
        shown = [
            f"{len(self.splits[split])} {name}" for split, name in zip(SPLITS, NAMES, strict=True) if self.splits[split]
        ]
        return ", ".join(shown) + " clips" + self._held_out()

    def as_dict(self) -> dict[str, Any]:
        """What run.json says of the data."""
        return {
            "folder": self.settings.data,
            "fingerprint": self.fingerprint,
            "clips": {name: len(self.splits[split]) for split, name in zip(SPLITS, NAMES, strict=True)},
            "validation_held_out": self.held_out,
            "validation_grouped_by": None if self.rule is None else self.rule.name,
            "skipped": list(self.skipped),
            "skipped_reasons": self.skipped_reasons,
            "lost_while_training": self.lost,
            "skipped_clips": {
                name: len(self.skipped_of.get(split, ())) for split, name in zip(SPLITS, NAMES, strict=True)
            },
        }

    @property
    def lost(self) -> dict[str, str]:
        """Names of clips that could not be read any more after the first step -> what is wrong with them."""
        return lost_clips(self._lasting().get("journal"))

    def _lasting(self) -> dict[str, Any]:
        common: dict[str, Any] = {"time_limit": self.settings.time_limit}
        # Stored features stand under their clip's name, and nothing may stand in its place.
        if self.settings.on_error == "skip" and self.settings.feature_cache is None:
            return common | {"journal": Path(self.settings.out) / CHECKPOINTS / UNREADABLE}
        # Without workers a file would end or block the run itself. What the cache keeps was read once, guarded.
        return {} if self.settings.workers or self.cache is not None else common | {"on_error": "stop"}

    def _held_out(self) -> str:
        if not self.held_out:
            return ""
        grouped = self.rule is not None and self.rule.name != NONE
        return " (validation held out of training" + (f", videos kept whole by: {self.rule})" if grouped else ")")

    def _frames(self) -> FrameCache | None:
        if self.cache is not None and self.frames is None:  # one for all data sets: they say things once
            settings = self.settings
            self.frames = FrameCache(self.cache, format=settings.cache_format, limit=settings.cache_limit)
        return self.frames

    def remove_own_cache(self) -> None:
        """Delete a cache that this run chose itself; a folder that the user named stays."""
        if self.cache is not None and self.settings.cache == "auto":
            shutil.rmtree(self.cache, ignore_errors=True)
        if self.settings.feature_cache == "auto":
            own = Path(self.settings.out) / CACHE
            shutil.rmtree(own / FEATURES, ignore_errors=True)
            with suppress(OSError):  # gone already, or somebody's frames are in it
                own.rmdir()


def load_data(settings: TrainSettings, clips: ClipSettings) -> RunData:
    """Find a run's clips, hold out validation clips, and see that all of them can be read.

    Args:
        settings: the run's flags.
        clips: how videos become clips.

    Returns:
        The clips.

    Raises:
        DataError: no clips or labels to train on, or files that cannot be read, all listed.
    """
    found = flags.read_clips(settings)
    shared = shared_groups_or_unknown(found, settings.data, group_by=settings.group_by)
    for warning in [*found.warnings, *shared]:
        logger.warning("%s", warning)
    directions = _directions(found.labels)
    if directions and settings.augment != "none" and settings.flip:
        logger.warning(
            "Clips are flipped at random, which turns left into right, but names of classes tell directions: %s. "
            "Should they differ in these, take --no-flip.",
            ", ".join(directions[:10]) + (f" and {len(directions) - 10} more" if len(directions) > 10 else ""),
        )
    splits = {"train": found.train, "val": found.val, "test": found.test if settings.test else []}
    _check_labels(settings.data, splits, found.labels)
    fingerprint = data_fingerprint(splits, settings.data)
    cache = _cache_folder(settings, clips, sum(map(len, splits.values())))
    data = RunData(settings, clips, tuple(found.labels), splits, False, cache, fingerprint)
    data.skipped_reasons = look_over(data)
    _check_classes(settings.data, data.splits["train"], found.labels)
    if not data.splits["val"] and settings.val_fraction > 0:
        every = data.splits["train"]
        groups, data.rule = group_clips(every, settings.data, group_by=settings.group_by, layout=found.layout)
        for warning in held_out_warnings(every, data.rule, group_by=settings.group_by):
            logger.warning("%s", warning)
        data.splits["train"], data.splits["val"] = hold_out_groups(every, groups, settings.val_fraction, settings.seed)
        data.held_out = True
    return data


def data_fingerprint(splits: dict[str, list[Clip]], root: str) -> str:
    """A short name for a data set, from each clip's split, name, label and size in bytes.

    Args:
        splits: clips by split.
        root: the data folder, which does not enter.

    Returns:
        16 hexadecimal digits.
    """
    digest = sha256()
    for split, clips in splits.items():
        for line in sorted(f"{split}\t{clip_name(clip, root)}\t{clip.label}\t{clip_size(clip)}" for clip in clips):
            digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:16]


def _directions(labels: Sequence[str]) -> list[str]:
    """Names of classes with a word such as left or right in them: `turn_left`, `TurnLeft`, not `bright`."""
    return [
        label for label in labels if DIRECTIONS & {word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", label)}
    ]


def _check_labels(data: str, splits: dict[str, list[Clip]], labels: Sequence[str]) -> None:
    if not splits["train"]:
        raise DataError(
            f"data ({data}) must have training clips, but it has only "
            f"{', '.join(split for split in splits if splits[split]) or 'none'}. Add a train folder or --train-list."
        )
    _check_classes(data, splits["train"], labels)


def _check_classes(data: str, clips: list[Clip], labels: Sequence[str]) -> None:
    trained = sorted({labels[clip.label] for clip in clips if clip.label is not None})
    if len(trained) < 2:
        raise DataError(
            f"data ({data}) must have readable training clips of two classes or more, but it has {trained}."
        )


def _cache_folder(settings: TrainSettings, clips: ClipSettings, count: int) -> Path | None:
    if settings.cache == "none" or settings.augment_resolution == "full":
        return None
    if settings.cache != "auto":
        return Path(settings.cache)
    if clips.sampling != "even":  # whole videos would be kept, whose size is not known yet
        return None
    wide = WIDE if clips.resize == "crop" else 1.0
    estimate = count * clips.num_frames * clips.segments * 3 * clips.size**2 * wide
    return Path(settings.out) / CACHE if estimate <= AUTO_CACHE_BYTES else None
