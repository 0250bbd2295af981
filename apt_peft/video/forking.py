"""The other side of `guard`: a small process that forks workers and tells how they ended, and what a worker does."""

import contextlib
import importlib
import os
import pickle
import signal
import socket
import struct
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ..errors import AptError

# What is asked of the process that forks, and what it answers: a letter and a number.
MESSAGE = struct.Struct("!cq")
FORK, REAP, KILL = b"f", b"r", b"k"
# The number that comes with FORK: what a worker should have imported.
BRINGS = [("av",), ("av", "torchvision.transforms.v2.functional")]
DECODES, TRANSFORMS = 0, 1
# How a worker ended that cannot be ended, because the system holds it: it waits for a disk, for example.
STUCK = 1 << 32
_SECONDS_TO_END = 5.0


def serve(control_fd: int) -> None:
    """Fork a worker when asked, and tell how one ended; end with all of them when the other end of the socket is gone.

    Args:
        control_fd: of the socket to the process that asks.
    """
    import resource  # only where there is fork

    # A terminal's Ctrl-C is for the process that asks. Crashes are expected here: no core file for each.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    control = socket.socket(fileno=control_fd)
    running: set[int] = set()
    try:
        while True:
            content, fds, _, _ = socket.recv_fds(control, MESSAGE.size, 1)
            if not content:
                return
            kind, pid = MESSAGE.unpack(content + receive(control, MESSAGE.size - len(content)))
            if kind == FORK:
                # Once for all workers. One that lacks it says so.
                for module in BRINGS[pid]:
                    with contextlib.suppress(ImportError):
                        importlib.import_module(module)
                pid = os.fork()
                if pid == 0:
                    control.close()
                    _work(fds[0])
                os.close(fds[0])
                running.add(pid)
                control.sendall(MESSAGE.pack(kind, pid))
            else:
                control.sendall(MESSAGE.pack(kind, _ending(pid, kill=kind == KILL)))
                running.discard(pid)
    except OSError:  # the process that asks is gone
        return
    finally:
        for pid in running:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        os._exit(0)


def receive(control: socket.socket, count: int) -> bytes:
    """So many bytes.

    Raises:
        OSError: the other end is gone.
    """
    content = b""
    while len(content) < count:
        part = control.recv(count - len(content))
        if not part:
            raise ConnectionError("the other end is gone")
        content += part
    return content


def _ending(pid: int, kill: bool) -> int:
    """How a worker ended: minus the signal, or the exit code."""
    if kill:
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return STUCK if kill else _ending(pid, kill=True)


def _work(fd: int) -> None:
    """Answer one item after the other until no more can come; does not return."""
    try:
        with Connection(fd) as connection:
            os.chdir(connection.recv())
            work: Callable[[Any], Any] = connection.recv()
            while True:
                item = connection.recv()
                connection.send_bytes(_answer(work, item))
    except (EOFError, OSError):
        os._exit(0)
    finally:
        os._exit(1)


def _answer(work: Callable[[Any], Any], item: Any) -> bytes:
    """What came out, or the error, pickled."""
    try:
        return pickle.dumps((True, work(item)))
    except AptError as error:
        return pickle.dumps((False, error))
    except Exception as error:
        # As text, for not every error can be pickled. A file must not end the run, whatever it provokes.
        return pickle.dumps((False, f"{type(error).__name__}: {error}".strip().split("\n")[0]))
