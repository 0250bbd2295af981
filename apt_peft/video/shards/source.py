"""Videos in a tar file: read by their place in it when they are wanted, and kept as no more than that place."""

import os
import tarfile
from dataclasses import dataclass

from ..source import UnreadableVideoError

BLOCK = tarfile.BLOCKSIZE
# Names that the header before a file holds in one piece; longer ones stand elsewhere in the tar.
_IN_HEADER = 100
# Likewise sizes: eleven octal digits.
_LARGEST = 8**11


@dataclass(frozen=True, slots=True)
class ShardVideo:
    """A video in a shard.

    Args:
        shard: path of the tar file.
        member: name of the video in it.
        offset: of its first byte in the tar file.
        size: in bytes.
        folder: that names in messages and tables are relative to.
        original: what the video was called before, relative to its data folder; None where the shard does not tell.
        group: what it was cut from; None where the shard does not tell.
    """

    shard: str
    member: str
    offset: int
    size: int
    folder: str = ""
    original: str | None = None
    group: str | None = None

    @property
    def name(self) -> str:
        """What to call it in messages: the shard and the name in it."""
        return f"{self.shard}/{self.member}"

    @property
    def short_name(self) -> str:
        """The name without the folder of the shards, which stays the same where they are moved."""
        return f"{os.path.relpath(self.shard, self.folder) if self.folder else self.shard}/{self.member}"

    def fingerprint(self) -> str:
        """What changes when the shard changes.

        Raises:
            UnreadableVideoError: the shard is gone.
        """
        try:
            state = os.stat(self.shard)
        except OSError as error:
            raise UnreadableVideoError(self.name, f"its shard cannot be read: {_reason(error)}") from None
        place = f"{os.path.realpath(self.shard)}|{state.st_size}|{state.st_mtime_ns}|{state.st_ctime_ns}|{state.st_ino}"
        return f"{place}|{self.offset}|{self.size}"

    def read_bytes(self) -> bytes:
        """The whole video, and nothing else of the shard.

        Raises:
            UnreadableVideoError: the shard is gone, ends before the video does, or holds something else in that place.
        """
        try:
            with open(self.shard, "rb", buffering=0) as file:
                file.seek(self.offset - BLOCK)
                header, held = _read(file, BLOCK), _read(file, self.size)
        except OSError as error:
            raise UnreadableVideoError(self.name, f"its shard cannot be read: {_reason(error)}") from None
        if len(held) < self.size:
            raise UnreadableVideoError(
                self.name, f"its shard was cut short: the video ends {self.size - len(held):,} bytes after it"
            )
        if not self._is_header(header):
            raise UnreadableVideoError(
                self.name,
                "its shard holds something else in that place: it is damaged, or is another file than the one that "
                "was indexed",
            )
        return held

    def _is_header(self, block: bytes) -> bool:
        """Whether a block is the header of this video."""
        try:
            found = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            return False
        named = len(self.member) > _IN_HEADER or not self.member.isascii() or found.name == self.member
        return named and (self.size >= _LARGEST or found.size == self.size)


@dataclass(frozen=True, slots=True)
class LostVideo:
    """What stands in the place of a video that a shard should hold and does not: to read it is an error.

    So whatever reads clips names it, counts it, and leaves it out where it is told to.

    Args:
        shard: path of the tar file.
        member: name in it; empty where it is the shard itself that cannot be read.
        reason: as the end of a sentence without its full stop.
        folder: that names in messages and tables are relative to.
        original: as for `ShardVideo`.
        group: likewise.
    """

    shard: str
    member: str
    reason: str
    folder: str = ""
    original: str | None = None
    group: str | None = None

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"{self.shard}/{self.member}" if self.member else self.shard

    @property
    def short_name(self) -> str:
        """The name without the folder of the shards."""
        shard = os.path.relpath(self.shard, self.folder) if self.folder else self.shard
        return f"{shard}/{self.member}" if self.member else shard

    @property
    def size(self) -> int:
        """In bytes: none."""
        return 0

    def fingerprint(self) -> str:
        """There is nothing to be told apart.

        Raises:
            UnreadableVideoError: always.
        """
        raise UnreadableVideoError(self.name, self.reason)

    def read_bytes(self) -> bytes:
        """There are none.

        Raises:
            UnreadableVideoError: always.
        """
        raise UnreadableVideoError(self.name, self.reason)


def _read(file: object, count: int) -> bytes:
    """All of so many bytes, or those up to the end: one call of the system may give fewer."""
    held = file.read(count)  # type: ignore[attr-defined]
    if len(held) == count or not held:
        return held
    parts = [held]
    while (missing := count - sum(map(len, parts))) and (part := file.read(missing)):  # type: ignore[attr-defined]
        parts.append(part)
    return b"".join(parts)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
