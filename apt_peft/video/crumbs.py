"""Which file each process is reading, written where the others see it: a worker that dies cannot say it any more."""

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

# Processes that can be told apart, and bytes of a name; a longer one keeps its end.
_PLACES, _BYTES = 256, 504
_HEAD = struct.Struct("=qq")
_SIZE = _HEAD.size + _BYTES
# Made when this is imported, so that the workers of a data loader, which are forked, have it in common with what starts them.
_shared = mmap.mmap(-1, _PLACES * _SIZE)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Say that this process is reading a file.

    Args:
        name: of the file.
    """
    start = os.getpid() % _PLACES * _SIZE
    content = name.encode("utf-8", "replace")[-_BYTES:]
    _shared[start : start + _HEAD.size + len(content)] = _HEAD.pack(os.getpid(), len(content)) + content
    try:
        yield
    finally:
        _shared[start : start + _HEAD.size] = _HEAD.pack(0, 0)


def was_reading(pid: int) -> str | None:
    """What a process was reading when it ended.

    Args:
        pid: of the process, which was forked from this one.

    Returns:
        The file's name, or None.
    """
    start = pid % _PLACES * _SIZE
    there, length = _HEAD.unpack(_shared[start : start + _HEAD.size])
    if there != pid:
        return None
    return _shared[start + _HEAD.size : start + _HEAD.size + length].decode("utf-8", "replace")
