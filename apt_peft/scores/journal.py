"""The scores of clips that are done, written down one by one: what a killed evaluation had is not lost."""

import json
import os
import struct
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

# What stands before a clip's numbers: its index, and the checksum of all else.
HEAD = struct.Struct("<qI")


class Journal:
    """A file that grows by one record a clip.

    Its first line says, as JSON, what the scores belong to; records are of one size. What a kill or a crash cut off at the end,
    or damaged, is told by checksums and dropped.

    Args:
        path: of the file; its folder is there.
        what: what scores belong to: a file that says something else is begun anew.
        shape: (rows, labels) of a clip's numbers.
    """

    def __init__(self, path: str | Path, what: dict[str, Any], shape: tuple[int, int]) -> None:
        self.path, self.shape = Path(path), shape
        self._line = json.dumps(what | {"shape": list(shape)}, sort_keys=True).encode() + b"\n"
        self._file: Any = None

    def read(self) -> dict[int, Tensor]:
        """The clips that are done.

        Returns:
            Index of the clip -> float32 of `shape`; nothing where there is no file, or one of other scores.
        """
        return self._read()[0]

    def __enter__(self) -> "Journal":
        """Go on behind the last whole record, or begin."""
        whole = self._read()[1]
        self._file = self.path.open("r+b" if whole else "wb", buffering=0)
        if whole:
            self._file.truncate(whole)
            self._file.seek(whole)
        else:
            self._file.write(self._line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, index: int, numbers: Tensor) -> None:
        """Add a clip.

        Args:
            index: of the clip.
            numbers: float32 of `shape`, on the CPU.
        """
        body = numbers.contiguous().numpy().tobytes()
        # One call, unbuffered: what is written stays when this process is killed.
        self._file.write(HEAD.pack(index, _checksum(index, body)) + body)

    def _read(self) -> tuple[dict[int, Tensor], int]:
        """What is done, and where the whole records end; 0 where the file is of other scores."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}, 0
        if not content.startswith(self._line):
            return {}, 0
        found: dict[int, Tensor] = {}
        place, size = len(self._line), 4 * self.shape[0] * self.shape[1]
        while place + HEAD.size + size <= len(content):
            index, checksum = HEAD.unpack_from(content, place)
            body = content[place + HEAD.size : place + HEAD.size + size]
            if _checksum(index, body) != checksum:
                break
            found[index] = torch.frombuffer(bytearray(body), dtype=torch.float32).reshape(self.shape)
            place += HEAD.size + size
        return found, place


def journals(place: str | Path) -> list[Path]:
    """The journals beside a scores file, of whichever processes.

    Args:
        place: the scores file.
    """
    place = Path(place)
    start = f"{place.name}.journal-"
    return sorted(path for path in place.parent.glob("*.journal-*") if path.name.startswith(start))


def journal_of(place: str | Path, rank: int) -> Path:
    """The journal that a process writes.

    Args:
        place: the scores file.
        rank: number of the process.
    """
    return Path(f"{os.fspath(place)}.journal-{rank}")


def _checksum(index: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack("<q", index)))
