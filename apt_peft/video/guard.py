"""Work on files in processes of their own: a file that crashes or blocks the decoder is named, and the run goes on."""

import atexit
import contextlib
import json
import multiprocessing
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import AptError, ConfigError
from .clip import Clip
from .library import RemoteVideo
from .shards.source import LostVideo, ShardVideo
from .source import UnreadableVideoError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Seconds that reading one file may take: much more than it ever does, but for films.
TIME_LIMIT = 300.0
# A crash is tried again once: what ended the process may have been something else, such as too little memory.
_TRIES = 2
# The package without its __init__, which brings PEFT and transformers: decoding needs neither, and starts at once.
_START = """
import importlib, json, sys, types
sys.path[:] = json.loads(sys.argv[2])
package = types.ModuleType("apt_peft")
package.__path__ = [sys.argv[3]]
sys.modules["apt_peft"] = package
importlib.import_module("apt_peft.video")
importlib.import_module("apt_peft.video.forking").serve(int(sys.argv[1]))
"""


def guarded(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    names: Sequence[str],
    transforms: bool = False,
    time_limit: float = TIME_LIMIT,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[Result | UnreadableVideoError]:
    """Work on each item in one of some processes, which are replaced when an item crashes or blocks them.

    Without `os.fork` (on Windows) there is no guard: items are worked on in threads.

    Args:
        work: a function of a module, or a partial of one, on an item. Both are pickled.
        items: what to work on.
        names: what to call each item in errors.
        transforms: whether the work needs torchvision, which is then imported once for all workers.
        time_limit: seconds for one item.
        workers: processes; None is one for each CPU core.
        progress: called with 1 after each item, in order.

    Returns:
        For each item what came out, or what is wrong with it: it cannot be read, crashes the process, or takes too long.

    Raises:
        ConfigError: `time_limit` is not above 0.
        AptError: of `work`, other than `UnreadableVideoError`.
    """
    check_time_limit(time_limit)
    count = max(1, min(workers or os.cpu_count() or 1, len(items)))
    crew = crew_for(work, time_limit=time_limit, transforms=transforms)
    results: list[Result | UnreadableVideoError] = []
    try:
        with ThreadPoolExecutor(count) as pool:
            try:
                for result in pool.map(crew.do, items, names):
                    results.append(result)
                    if progress is not None:
                        progress(1)
            except BaseException:  # nobody waits for the items that are being worked on
                crew.stop()
                raise
    finally:
        crew.close()
    return results


def crew_for(work: Callable[[Any], Any], *, time_limit: float, transforms: bool = False) -> "_Here":
    """What works on one item after another by the rules of `guarded`: `do(item, name)`, and `close()` at the end.

    Args:
        work: as for `guarded`.
        time_limit: as for `guarded`.
        transforms: as for `guarded`.
    """
    return _Crew(work, time_limit, transforms) if hasattr(os, "fork") else _Here(work)


def check_time_limit(time_limit: float) -> None:
    """Refuse a limit that no file could keep.

    Raises:
        ConfigError: it is not above 0.
    """
    if not time_limit > 0:
        raise ConfigError(f"time_limit ({time_limit}) must be above 0 seconds.")


def warm_up() -> None:
    """Begin to start the process that workers come from, for a call of `guarded` that follows."""
    if hasattr(os, "fork"):
        _parent()


def _movable(item: Any) -> Any:
    """An item that another process can have: a video that something else stores is read.

    Raises:
        UnreadableVideoError: it cannot be fetched.
    """
    if isinstance(item, tuple):
        return tuple(map(_movable, item))
    if not isinstance(item, Clip) or isinstance(
        item.source, (str, os.PathLike, bytes, RemoteVideo, ShardVideo, LostVideo)
    ):
        return item
    return Clip(item.source.read_bytes(), item.label)


class _Here(Generic[Item, Result]):
    """The work done in this process, by the same rules."""

    def __init__(self, work: Callable[[Item], Result]) -> None:
        self.work = work

    def do(self, item: Item, name: str) -> Result | UnreadableVideoError:
        try:
            return self.work(item)
        except UnreadableVideoError as error:
            return error
        except AptError:
            raise
        except Exception as error:
            return UnreadableVideoError(name, _raised(f"{type(error).__name__}: {error}".strip().split("\n")[0]))

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Crew(_Here):
    """Workers, as many as threads ask for; each thread waits for one."""

    def __init__(self, work: Callable[[Any], Any], time_limit: float, transforms: bool) -> None:
        super().__init__(work)
        self.time_limit, self.transforms = time_limit, transforms
        self.idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self.all: set[_Worker] = set()
        self.stopped = False

    def do(self, item: Any, name: str) -> Any:
        try:
            item = _movable(item)
        except UnreadableVideoError as error:
            return UnreadableVideoError(name, error.reason)
        for tries_left in range(_TRIES - 1, -1, -1):
            worker = self._take()
            try:
                worker.connection.send_bytes(pickle.dumps(item))
                if not worker.connection.poll(self.time_limit):
                    worker.end(kill=True)
                    return UnreadableVideoError(name, f"reading it took longer than {self.time_limit:g} s")
                good, answer = worker.connection.recv()
            except (EOFError, OSError):
                code = worker.end()
                if self.stopped or not tries_left:
                    return UnreadableVideoError(name, _crashed(code))
                continue
            except BaseException:
                worker.end(kill=True)
                raise
            self.idle.put(worker)
            if good:
                return answer
            if isinstance(answer, UnreadableVideoError):  # bytes that were sent are called otherwise there
                return UnreadableVideoError(name, answer.reason)
            if isinstance(answer, AptError):
                raise answer
            return UnreadableVideoError(name, _raised(answer))
        raise AssertionError

    def stop(self) -> None:
        self.stopped = True
        for worker in list(self.all):
            worker.end(kill=True)

    def close(self) -> None:
        for worker in list(self.all):
            worker.end()

    def _take(self) -> "_Worker":
        try:
            return self.idle.get_nowait()
        except queue.Empty:
            worker = _Worker(self.work, self.transforms)
            self.all.add(worker)
            return worker


class _Worker:
    """A process that does some work, seen from here."""

    def __init__(self, work: Callable[[Any], Any], transforms: bool) -> None:
        here, there = socket.socketpair()
        with there, here:
            self.parent, self.pid = _fork(there, transforms)
            self.connection = Connection(here.detach())
        self.code: int | None = None
        self.lock = threading.Lock()
        # what forks it may have been started in another folder, and paths may be relative
        self.connection.send_bytes(pickle.dumps(os.getcwd()))
        self.connection.send_bytes(pickle.dumps(work))  # by value: what torch shares otherwise is not there

    def end(self, *, kill: bool = False) -> int:
        """End it if it has not ended; returns how it did, as minus a signal or an exit code."""
        from .forking import KILL, REAP

        with self.lock:
            if self.code is None:
                try:
                    if kill:  # before the connection goes, for another thread may be waiting at it
                        self.code = self.parent.ask(KILL, self.pid)
                    self.connection.close()
                    if not kill:
                        self.code = self.parent.ask(REAP, self.pid)
                except OSError:  # the process that knows is gone, and its workers with it
                    self.code = -signal.SIGKILL
            return self.code or 0


class _Parent:
    """The process that workers are forked from: it has imported what they need, and has no threads."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        # Workers of a data loader, which are forked from this process, ask as well.
        self.control, self.lock, self.owner = here, multiprocessing.get_context("fork").Lock(), os.getpid()
        place = Path(__file__).parents[1]
        with there:
            # One thread for each library: workers are as many as there are cores, and what forks should have no threads.
            one = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(there.fileno()), json.dumps(list(map(str, sys.path))), str(place)],
                stdin=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                env={**os.environ, **one},
                start_new_session=True,  # Ctrl-C in a terminal is for this process
            )

    def ask(self, kind: bytes, number: int, pass_on: socket.socket | None = None) -> int:
        """Ask for a worker that can do some kind of work, or how one ended.

        Raises:
            OSError: the process is gone.
        """
        from .forking import MESSAGE, receive

        with self.lock:
            socket.send_fds(self.control, [MESSAGE.pack(kind, number)], [] if pass_on is None else [pass_on.fileno()])
            return MESSAGE.unpack(receive(self.control, MESSAGE.size))[1]

    def close(self) -> None:
        """End it and all its workers."""
        self.control.close()
        if self.owner == os.getpid():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)


_lock = threading.Lock()
_running: _Parent | None = None


def _parent(new_for: _Parent | None = None) -> _Parent:
    """The one of this process and its forks, which is started where there is none, or where one turned out to be gone."""
    global _running
    with _lock:
        if _running is None or _running is new_for or _running.control.fileno() < 0:
            if _running is None:
                atexit.register(_close)
            else:
                _running.close()
            _running = _Parent()
        return _running


def _close() -> None:
    if _running is not None:
        _running.close()


def _fork(there: socket.socket, transforms: bool) -> tuple[_Parent, int]:
    from .forking import DECODES, FORK, TRANSFORMS

    kind = TRANSFORMS if transforms else DECODES
    parent = _parent()
    with contextlib.suppress(OSError):
        return parent, parent.ask(FORK, kind, there)
    parent = _parent(new_for=parent)  # something ended it
    try:
        return parent, parent.ask(FORK, kind, there)
    except OSError:
        parent.close()
        raise ConfigError(
            f"{sys.executable} must start a process that decodes, but it ended with exit code {parent.process.returncode}. "
            "Its own message stands above."
        ) from None


def _crashed(code: int) -> str:
    if code < 0:
        memory = ", perhaps for lack of memory" if -code == signal.SIGKILL else ""
        return f"it crashed the decoder (signal {-code}{memory})"
    return f"it ended the decoder (exit code {code})"


def _raised(text: str) -> str:
    return f"decoding it failed with {text}"
