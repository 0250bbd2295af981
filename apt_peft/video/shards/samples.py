"""One clip as it stands in a shard: the video byte by byte, its label, and what else is known of it."""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from ...errors import DataError
from ..clip import VIDEO_SUFFIXES, Clip
from ..source import UnreadableVideoError
from .scan import Row
from .tar import TarWriter, room

_PART = 1 << 20
# Letters of a name in its key; what the name says besides stands in the JSON.
_STEM = 48
# What a video's content begins with, for videos whose name does not tell: offset, bytes, suffix.
_MAGIC = [(4, b"ftyp", ".mp4"), (0, b"\x1aE\xdf\xa3", ".mkv"), (8, b"AVI ", ".avi"), (0, b"GIF8", ".gif")]


class Sample:
    """A clip on its way into a shard.

    Args:
        clip: the clip.
        number: its place in the data, which makes the key unique.
        name: of the clip, relative to its data folder.
        labels: names of the classes.
        group: what the clip was cut from, where that is known.
    """

    def __init__(self, clip: Clip, number: int, name: str, labels: list[str], group: str | None = None) -> None:
        self.clip, self.file_name, self.group = clip, name, group
        self._file, self.size = _open(clip)
        # A key has no dots: all after the first one is the suffix, for every reader of such shards.
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(name).stem)[:_STEM].strip("_")
        self.key = f"{number:08d}" + (f"_{stem}" if stem else "")
        self._label = {"label": clip.label, "label_name": None if clip.label is None else labels[clip.label]}

    def room(self) -> int:
        """Bytes that it takes in a tar file."""
        label = [] if self.clip.label is None else [len(str(self.clip.label))]
        return room(self.size, *label, len(self._json("0" * 64)))

    def write(self, tar: TarWriter) -> Row:
        """Write it.

        Args:
            tar: the shard.

        Returns:
            Where the video lies.

        Raises:
            DataError: the file changes while it is read.
        """
        digest = hashlib.sha256()
        member = self.key + self._suffix()
        try:
            offset = tar.add(member, self.size, _parts(self._file, self.size, digest))
        except ValueError:
            raise DataError(
                f"video ({self.clip.name}) must stay as it is while it is written into a shard, but its size changed. "
                "Repeat the command when nothing writes to it."
            ) from None
        if self.clip.label is not None:
            tar.add(f"{self.key}.cls", len(str(self.clip.label)), [str(self.clip.label).encode()])
        known = self._json(digest.hexdigest())
        tar.add(f"{self.key}.json", len(known), [known])
        return Row(member, offset, self.size, self.clip.label, None, self.file_name, self.group)

    def close(self) -> None:
        """Close the video's file."""
        self._file.close()

    def _json(self, sha256: str) -> bytes:
        known = {**self._label, "name": self.file_name, "size": self.size, "sha256": sha256}
        if self.group is not None:
            known["group"] = self.group
        return json.dumps(known, sort_keys=True).encode()  # plain letters only: the length is that of the text

    def _suffix(self) -> str:
        suffix = PurePosixPath(self.file_name).suffix.lower()
        if suffix in VIDEO_SUFFIXES:
            return suffix
        start = self._file.read(16)
        self._file.seek(0)
        return next((found for at, magic, found in _MAGIC if start[at:].startswith(magic)), ".mp4")


def _open(clip: Clip) -> tuple[BinaryIO, int]:
    """A video's file and its size in bytes."""
    source = clip.source
    if isinstance(source, (str, os.PathLike)):
        try:
            file = open(source, "rb")  # noqa: SIM115, Sample.close closes it
        except OSError as error:
            reason = f"opening it failed: {(error.strerror or str(error)).lower()}"
            raise UnreadableVideoError(clip.name, reason) from None
        return file, os.fstat(file.fileno()).st_size
    held = source if isinstance(source, bytes) else source.read_bytes()
    return io.BytesIO(held), len(held)


def _parts(file: BinaryIO, size: int, digest: Any) -> Iterator[bytes]:
    """The content, and one byte more where the file has grown; so a wrong size is noticed."""
    left = size + 1
    while left > 0 and (part := file.read(min(_PART, left))):
        left -= len(part)
        digest.update(part)
        yield part
