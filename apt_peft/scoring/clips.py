"""The clips to score: labelled ones with the adapter's numbers, and which of all can be read."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from apt_peft import flags
from apt_peft.errors import DataError
from apt_peft.scoring.settings import LabelledSettings, ScoringSettings
from apt_peft.training import processes
from apt_peft.video import Clip, DataSplits, UnreadableVideoError
from apt_peft.video.data import LABELS_FILE
from apt_peft.video.readable import errors_of, unreadable_error

logger = logging.getLogger(__name__)


def read_labelled(settings: LabelledSettings, labels: Sequence[str]) -> DataSplits:
    """Find labelled clips.

    Args:
        settings: where they are.
        labels: class names of the adapter, for lists that number the labels.

    Returns:
        The clips by split, their labels numbered as the data numbers them.

    Raises:
        DataError: nothing can be made of the data.
    """
    own = Path(settings.data) / LABELS_FILE
    names: Any = settings.labels or (own if own.is_file() else list(labels))
    return flags.read_clips(settings, labels=names)


def numbered_as(labels: Sequence[str], clips: Sequence[Clip], names: Sequence[str], data: str) -> list[Clip]:
    """Clips whose labels are numbered as an adapter numbers them.

    Args:
        labels: class names of the adapter.
        clips: labelled by the data.
        names: class names of the data.
        data: its place, for messages.

    Returns:
        The clips that have a label.

    Raises:
        DataError: there is a class that the adapter does not know.
    """
    used = {clip.label for clip in clips}
    strange = sorted(name for label, name in enumerate(names) if label in used and name not in labels)
    if strange:
        raise DataError(
            f"data ({data}) must have the adapter's labels, but it has {strange}. The adapter knows {list(labels)}."
        )
    place = {label: labels.index(name) for label, name in enumerate(names) if label in used}
    return [Clip(clip.source, place[clip.label]) for clip in clips if clip.label is not None]


def look_over(clips: list[Clip], settings: ScoringSettings) -> tuple[list[Clip], tuple[UnreadableVideoError, ...]]:
    """The clips that can be read and what is wrong with the others; each process looks at a part of them."""
    errors: list[UnreadableVideoError | None] = [None] * len(clips)
    mine = clips[processes.rank() :: processes.world_size()]
    found = errors_of(mine, whole=settings.look_over == "whole", time_limit=settings.time_limit)
    for first, part in enumerate(processes.gather(found)):
        errors[first :: processes.world_size()] = part
    unreadable = tuple(error for error in errors if error is not None)
    if len(unreadable) == len(clips) or (unreadable and settings.on_error == "stop"):
        raise unreadable_error(unreadable, len(clips), settings.on_error)
    return [clip for clip, error in zip(clips, errors, strict=True) if error is None], unreadable


def readable_clips(clips: Sequence[Clip], settings: ScoringSettings) -> list[Clip]:
    """The clips that can be read; the others are told by a warning.

    Args:
        clips: to look at.
        settings: what to do about those that cannot be read.

    Returns:
        One at least.

    Raises:
        DataError: none can be read, or one cannot and `on_error` is `stop`.
    """
    readable, unreadable = look_over(list(clips), settings)
    tell_skipped(unreadable)
    return readable


def lasting(settings: ScoringSettings) -> dict[str, Any]:
    """Files are read in processes of their own, but where a worker of the loader is one already, and may end."""
    skip = settings.on_error == "skip"
    return {"time_limit": settings.time_limit, "on_error": settings.on_error} if skip or not settings.workers else {}


def tell_skipped(errors: Iterable[UnreadableVideoError]) -> None:
    """A warning for each clip that is left out."""
    for error in errors:
        logger.warning("Skipped %s: %s.", error.name, error.reason)
