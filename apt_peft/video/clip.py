"""A clip and the splits of a data set."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from .shards.source import LostVideo, ShardVideo
from .source import Source, UnreadableVideoError, source_name

SPLITS = ("train", "val", "test")
# Folder and split names that mean a split.
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# fmt: off
VIDEO_SUFFIXES = frozenset([
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".vob", ".webm", ".wmv",
])
# fmt: on


@dataclass(frozen=True)
class Clip:
    """One video and its class.

    Args:
        source: path, bytes or held video.
        label: number of the class; None where it is not known.
    """

    source: Source
    label: int | None = None

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return source_name(self.source)

    def fingerprint(self) -> str:
        """What changes when the file changes: of a file or shard its path, size, times and place on the disk; else the content.

        The time of the last change of state tells a file that was replaced by one of equal size and date.

        Raises:
            UnreadableVideoError: the file is gone.
        """
        if isinstance(self.source, (str, os.PathLike)):
            path = Path(self.source).resolve()
            try:
                state = path.stat()
            except OSError as error:
                raise UnreadableVideoError(self.name, f"opening it failed: {str(error.strerror).lower()}") from None
            return f"{path}|{state.st_size}|{state.st_mtime_ns}|{state.st_ctime_ns}|{state.st_ino}"
        if isinstance(self.source, (ShardVideo, LostVideo)):
            return self.source.fingerprint()
        content = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        return hashlib.sha256(content).hexdigest()


@dataclass
class DataSplits:
    """Clips by split.

    Args:
        train: clips to train on.
        val: clips to choose the best model on.
        test: clips to score once, at the end.
        labels: names of the classes, by label.
        ignored: files in the data folder that are no videos by their names.
        warnings: what may have been misunderstood, as sentences.
        missing: videos that lists of a public data set name and that are not there, as `file:line: which`.
        layout: name of the public data set that the clips lie as, or None.
    """

    train: list[Clip] = field(default_factory=list)
    val: list[Clip] = field(default_factory=list)
    test: list[Clip] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    layout: str | None = None

    @property
    def id2label(self) -> dict[int, str]:
        """Label -> name."""
        return dict(enumerate(self.labels))

    def items(self) -> list[tuple[str, list[Clip]]]:
        """The splits that have clips, by name."""
        return [(split, clips) for split in SPLITS if (clips := getattr(self, split))]


def clip_name(clip: Clip, root: str | os.PathLike) -> str:
    """A clip's name, relative to a folder where it lies in it.

    Args:
        clip: the clip.
        root: the data folder.

    Returns:
        With `/` between its parts; of a video in a shard relative to the folder of the shards.
    """
    source = clip.source
    if isinstance(source, (str, os.PathLike)) and Path(source).is_relative_to(root):
        return Path(source).relative_to(root).as_posix()
    return source.short_name if isinstance(source, (ShardVideo, LostVideo)) else clip.name


def original_name(clip: Clip, root: str | os.PathLike) -> str:
    """What a clip was called before it was written into a shard or a table; `clip_name` of all others.

    Args:
        clip: the clip.
        root: the data folder.

    Returns:
        With `/` between its parts; the name in the shard or table where that does not tell.
    """
    source = clip.source
    if isinstance(source, (ShardVideo, LostVideo)):
        return source.original or source.member or source.short_name
    return getattr(source, "original", None) or clip_name(clip, root)


def clip_size(clip: Clip) -> int:
    """Bytes of a clip's file; 0 where only reading it would tell.

    Args:
        clip: the clip.

    Returns:
        The bytes.
    """
    source = clip.source
    if isinstance(source, (str, os.PathLike)):
        return Path(source).stat().st_size
    return len(source) if isinstance(source, bytes) else getattr(source, "size", 0)


def unknown_labels(unknown: Iterable[str], names: Sequence[str]) -> DataError:
    """The error for classes that are not among the given names."""
    shown = list(names[:20]) + (["..."] if len(names) > 20 else [])
    return DataError(f"classes ({sorted(set(unknown))}) must be among the labels, but these are {shown}.")
