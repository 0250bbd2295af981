"""Which file each process is reading, written where the others see it: a worker that dies cannot say it any more."""

import mmap
import os
import re
import signal
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import DataError

# Processes that can be told apart, and bytes of a name; a longer one keeps its end.
_PLACES, _BYTES = 1024, 504
_HEAD = struct.Struct("=qqd")
# The heads stand together, so that a look at all of them touches few pages.
_NAMES = _PLACES * _HEAD.size
# Made when this is imported, so that the workers of a data loader, which are forked, have it in common with what starts them.
_shared = mmap.mmap(-1, _NAMES + _PLACES * _BYTES)
# Seconds in which a process that has closed its sockets is seen to have ended, and between two looks at the clock.
_ENDING, _LOOK = 2.0, 0.5
# What torch says of a worker that ended.
_ENDED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")
# Workers that were ended since a file took too long -> seconds it might have taken.
_late: dict[int, float] = {}


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Say that this process is reading a file.

    Args:
        name: of the file.
    """
    place = os.getpid() % _PLACES
    content = name.encode("utf-8", "replace")[-_BYTES:]
    start = _NAMES + place * _BYTES
    _shared[start : start + len(content)] = content
    _HEAD.pack_into(_shared, place * _HEAD.size, os.getpid(), len(content), time.monotonic())
    try:
        yield
    finally:
        _HEAD.pack_into(_shared, place * _HEAD.size, 0, 0, 0.0)


def was_reading(pid: int) -> str | None:
    """What a process is reading, or was when it ended.

    Args:
        pid: of the process, which was forked from this one.

    Returns:
        The file's name, or None.
    """
    place = pid % _PLACES
    there, length, _ = _HEAD.unpack_from(_shared, place * _HEAD.size)
    if there != pid:
        return None
    start = _NAMES + place * _BYTES
    return _shared[start : start + length].decode("utf-8", "replace")


@contextmanager
def unreadable_by_name(time_limit: float | None = None) -> Iterator[None]:
    """Turn a worker process's report of an unreadable video, a traceback as text, back into the error it was.

    A worker that a file ended reports nothing: the file that it was reading is named. One that reads a file for too long is
    ended here.

    Args:
        time_limit: seconds that a worker may read one file; None is no limit.

    Raises:
        DataError: a worker could not read a video.
    """
    try:
        with _watch(time_limit), _ends_heard():
            yield
    except (RuntimeError, DataError) as error:  # torch makes an error of the same kind where it can
        text = str(error)
        if "UnreadableVideoError: " in text:
            raise DataError(text.rpartition("UnreadableVideoError: ")[2].strip()) from None
        ended = _ENDED.match(text)
        names = {int(pid): was_reading(int(pid)) for pid in ended[1].split(",")} if ended else {}
        names = {pid: name for pid, name in names.items() if name}
        if not names:
            raise
        limits = [_late[pid] for pid in names if pid in _late]
        what = (
            f"reading it took longer than {limits[0]:g} s"
            if limits
            else "reading it ended a process of the data loader"
        )
        raise DataError(
            f"video ({', '.join(map(str, names.values()))}) must be a readable video file, but {what}. Leave it out: "
            "--on-error skip goes on without such files."
        ) from None


@contextmanager
def _ends_heard() -> Iterator[None]:
    """Wait for the news that a worker ended, where something else is seen first.

    A batch lies with the worker until it is fetched over a socket. The system closes the sockets of a process that dies before
    it tells its parent, so that torch may find the line dead and the worker, it seems, alive.

    Raises:
        RuntimeError: as torch does for a worker that ended.
    """
    try:
        yield
    except (ConnectionError, EOFError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "ancdata" not in str(error):
            raise
        end = time.monotonic() + _ENDING
        while time.monotonic() < end:
            # torch's handler of SIGCHLD raises here, most often
            if gone := [pid for pid, _ in _readers() if _is_gone(pid)]:
                raise RuntimeError(f"DataLoader worker (pid(s) {', '.join(map(str, gone))}) ended") from error
            time.sleep(0.01)
        raise


@contextmanager
def _watch(time_limit: float | None) -> Iterator[None]:
    """End workers that read one file for too long; what others left in the table is forgotten first."""
    for pid, _ in _readers():
        if _is_gone(pid):
            _HEAD.pack_into(_shared, pid % _PLACES * _HEAD.size, 0, 0, 0.0)
            _late.pop(pid, None)
    if time_limit is None or not hasattr(os, "waitid"):
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_end_the_late, args=(time_limit, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _end_the_late(time_limit: float, done: threading.Event) -> None:
    while not done.wait(min(_LOOK, time_limit / 4)):
        for pid, since in _readers():
            if time.monotonic() - since > time_limit and _has_ended(pid) is False:
                _late[pid] = time_limit
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _readers() -> list[tuple[int, float]]:
    """Processes that read a file or ended when they did, and since when."""
    heads = _HEAD.iter_unpack(_shared[:_NAMES])
    return [(pid, since) for pid, _, since in heads if pid and pid != os.getpid()]


def _is_gone(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    ended = _has_ended(pid)
    if ended is None:  # no child, or one that was waited for
        try:
            os.kill(pid, 0)
        except OSError:
            return True
    return bool(ended)


def _has_ended(pid: int) -> bool | None:
    """Whether a child of this process has ended, which it may be waited for afterwards; None where it is no child."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return None
