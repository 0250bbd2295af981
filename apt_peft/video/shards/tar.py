"""A tar file written from front to back, the same bytes for the same content, its checksum taken on the way."""

import hashlib
import tarfile
from collections.abc import Iterable
from typing import BinaryIO

from .source import BLOCK


class TarWriter:
    """Writes members one after another; nothing of the machine, the user or the hour gets in.

    Args:
        file: open for writing, at its start.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self.size = 0

    def add(self, name: str, size: int, parts: Iterable[bytes]) -> int:
        """Write a member.

        Args:
            name: in the tar file.
            size: of its content, in bytes.
            parts: the content, which must have that size.

        Returns:
            Where its first byte lies.

        Raises:
            ValueError: the content has another size.
        """
        info = tarfile.TarInfo(name)
        info.size = size
        self._write(info.tobuf(tarfile.PAX_FORMAT))
        offset = self.size
        for part in parts:
            self._write(part)
        if self.size != offset + size:
            raise ValueError(f"{name} has {self.size - offset} bytes, and not {size}")
        self._write(bytes(-size % BLOCK))
        return offset

    def close(self) -> str:
        """Write the mark of the end.

        Returns:
            The SHA-256 of the whole file.
        """
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self.size % tarfile.RECORDSIZE))
        return self._digest.hexdigest()

    def _write(self, part: bytes) -> None:
        self._file.write(part)
        self._digest.update(part)
        self.size += len(part)


def room(*sizes: int) -> int:
    """Bytes that members of these sizes take in a tar file, their headers included.

    Args:
        *sizes: of the contents, in bytes.
    """
    return sum(BLOCK - (-size // BLOCK) * BLOCK for size in sizes)


def padded(size: int) -> int:
    """Bytes of a tar file whose members take so many: with the mark of the end, in whole records.

    Args:
        size: of the members, in bytes.
    """
    return -(-(size + 2 * BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
