"""Work for `guarded` that ends or blocks its process as a broken file would, and files that block whoever reads them."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from apt_peft.errors import ConfigError
from apt_peft.video import ClipTransform, UnreadableVideoError


def work(item: str) -> str:
    """What the item says, or the item in capitals."""
    if item == "segfault":
        ctypes.string_at(0)
    if item == "abort":
        os.abort()
    if item == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "exit":
        os._exit(3)
    if item == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if item == "spin":
        while True:
            pass
    if item == "bug":
        raise ValueError("strange\nand more")
    if item == "unreadable":
        raise UnreadableVideoError("some bytes", "it is empty")
    if item == "config":
        raise ConfigError("size (0) must be at least 1.")
    return item.upper()


def once(item: str) -> str:
    """Crash when a file is not there, and make it."""
    if not Path(item).exists():
        Path(item).touch()
        os.kill(os.getpid(), signal.SIGBUS)
    return "second time"


def process_of(item: str) -> tuple[int, int]:
    """This process and the one above it, after a moment in which another worker can take the next item."""
    time.sleep(0.05)
    return os.getpid(), os.getppid()


class FatalTransform(ClipTransform):
    """Ends the process that decodes a white frame, and stops one at a black frame: each frame comes here as it is decoded."""

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        if frames.min() > 245:
            os.kill(os.getpid(), signal.SIGSEGV)
        if frames.max() < 10:
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().prepare(frames)


@contextmanager
def crashing_reader(pipe: Path, times: int, inherited: int = 0) -> Iterator[None]:
    """Send a segmentation fault to each other process that reads a named pipe, in which it waits; so many times.

    Processes forked from this one have the pipe open once already: `inherited` is 1 for those.
    """
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)  # as long as it is open and silent, a reader waits
    stop = threading.Event()

    def crash() -> None:
        left = times
        while left and not stop.wait(0.01):
            for process in Path("/proc").iterdir():
                if process.name.isdigit() and int(process.name) != os.getpid() and _has_open(process, pipe, inherited):
                    os.kill(int(process.name), signal.SIGSEGV)
                    while _has_open(process, pipe, inherited):
                        time.sleep(0.01)
                    left -= 1

    thread = threading.Thread(target=crash)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        os.close(end)


def _has_open(process: Path, pipe: Path, inherited: int) -> bool:
    try:
        return sum(link.readlink() == pipe for link in (process / "fd").iterdir()) > inherited
    except OSError:  # it ended, or closed a file, meanwhile
        return False
