"""A folder of prepared frames: within a bound, shared by processes, and none the worse for one that is killed."""

import errno
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

from ..errors import ConfigError
from .entry import FORMATS, DamagedEntryError, Entry, EntryWriter, decode_jpeg, encode_jpeg

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
SUFFIX = ".frames"
# The last use of an entry is noted this often, in seconds; without locks, a part of this age was left behind.
USE_NOTED = 600.0
LEFT_BEHIND = 3600.0
# A mark that something was said, and the seconds for which a run may still need it.
SAID, SAID_SO = ".said", 30 * 86400.0


class FrameCache:
    """Prepared frames of videos, an entry for each.

    An entry appears whole or not at all. Each frame has a checksum: an entry that is damaged is written anew. At the limit,
    entries that nobody has used since this cache was opened make room, oldest use first; when only entries in use are left,
    filling stops, since every clip is used once an epoch and throwing one out would cost what another gains.

    Args:
        folder: made where it is missing.
        format: `"raw"` keeps every value; `"jpeg"` (quality 95) takes about a twelfth of the place, and clips then are what
            JPEG makes of them, also those that do not come from the cache.
        limit: bytes that all entries may take together; None is without.

    Raises:
        ConfigError: an unknown format, or a limit below 1.
    """

    def __init__(self, folder: str | os.PathLike, *, format: str = "raw", limit: int | None = None) -> None:
        if format not in FORMATS:
            raise ConfigError(f"cache_format ({format!r}) must be one of {', '.join(map(repr, FORMATS))}.")
        if limit is not None and limit < 1:
            raise ConfigError(f"cache_limit ({limit}) must be at least 1 byte.")
        self.folder, self.format, self.limit = Path(folder), format, limit
        self._parts = self.folder / "parts"
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cache ({self.folder}) must be a folder that can be written to, but: {error.strerror}. Choose another one."
            ) from None
        self._opened = self._time_there()
        # Workers and what they come from have this name in common.
        self._run = uuid.uuid4().hex
        self._full = self._counted = self._told_large = False
        self._clear_parts()

    def read(
        self,
        key: str,
        *,
        choose: Callable[[int], Sequence[int]],
        visit: Callable[[Callable[[int], Sequence[int]], Callable[[int, torch.Tensor], object]], object],
        prepare: Callable[[torch.Tensor], torch.Tensor],
        whole: bool = False,
    ) -> torch.Tensor:
        """Get frames from the cache, or decode them and keep them.

        Args:
            key: of the video and of everything that decides on its prepared frames.
            choose: the number of the video's frames -> those wanted, repeats allowed; may be called again.
            visit: decodes: see `VideoReader.visit`.
            prepare: uint8 (T, height, width, C) -> uint8 (T, C, height, width).
            whole: keep all frames of the video and not just the wanted ones.

        Returns:
            uint8 (T, C, height, width).
        """
        try:
            with Entry(self._path(key)) as entry:
                frames = entry.frames(choose(entry.num_video_frames))
            self._note_use(key)
            return frames
        except DamagedEntryError:
            pass
        wanted: list[int] = []
        kept: dict[int, torch.Tensor] = {}

        def decode(writer: "_Part | None") -> None:
            def select(num_frames: int) -> Sequence[int]:
                kept.clear()
                wanted[:] = choose(num_frames)
                stored = range(num_frames) if whole and writer is not None else sorted(set(wanted))
                if writer is not None:
                    writer.begin(num_frames, len(stored))
                return stored

            def take(index: int, picture: torch.Tensor) -> None:
                frame = prepare(picture[None])[0]
                if writer is not None:
                    frame = writer.add(index, frame)
                elif self.format == "jpeg":
                    frame = decode_jpeg(encode_jpeg(frame), *frame.shape[1:])
                if index in wanted:
                    kept[index] = frame

            visit(select, take)

        self._fill(key, decode)
        return torch.stack([kept[index] for index in wanted])

    def _fill(self, key: str, decode: Callable[["_Part | None"], None]) -> None:
        """Decode into an entry, or past the cache where there is no room for it."""
        if self._full:
            return decode(None)
        try:
            with _Part(self, key) as part:
                decode(part)
                part.commit()
            return None
        except _NoRoomError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            self._stop(f"writing fails: {(error.strerror or '').lower()}")
        return decode(None)

    def _stop(self, reason: str) -> None:
        self._full = True
        if self._first_to_say("full"):
            logger.warning(
                "Cache %s is filled no further (%s). Clips that are not in it are decoded.", self.folder, reason
            )

    def _first_to_say(self, what: str) -> bool:
        """Whether no other process that this cache was handed to has said what happens in all of them."""
        try:
            (self._parts / f"{self._run}-{what}{SAID}").touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:  # nothing can be written there: better twice than never
            pass
        return True

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _note_use(self, key: str) -> None:
        path = self._path(key)
        try:
            if path.stat().st_mtime < time.time() - USE_NOTED:
                os.utime(path)
        except OSError:  # thrown out meanwhile, or not ours to write
            pass

    def _time_there(self) -> float:
        """Now, by the clock that entries are dated with: a tick behind ours, or that of another machine."""
        mark = self._parts / uuid.uuid4().hex
        try:
            mark.touch(exist_ok=False)
            now = mark.stat().st_mtime
            mark.unlink()
        except OSError:  # nothing can be written there, so nothing is thrown out either
            return time.time()
        return now

    # The bound

    @contextmanager
    def _ledger(self) -> Iterator[Any]:
        """The bytes taken, in a list that one process at a time looks at and changes; None where they are not known."""
        with open(self.folder / "size", "a+b") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            before = int(text) if text.isdigit() else None
            total = [before]
            yield total
            if total[0] != before:
                file.truncate(0)
                file.write(str(total[0]).encode())

    def _reserve(self, file: IO[bytes], more: int, size: int) -> bool:
        """Have a part that will be of some size count for that much more from now on; False where there is no room."""
        if self.limit is None:
            return True
        if size > self.limit:
            if not self._told_large and self._first_to_say("large"):
                logger.warning(
                    "Cache %s has no place for entries larger than its limit (one takes %d of %d bytes). Their "
                    "clips are decoded.",
                    self.folder, size, self.limit,
                )  # fmt: skip
            self._told_large = True
            return False
        with self._ledger() as ledger:
            # Counted once by every process, since one without a limit keeps no account; and when it seems full, which gives
            # back what killed processes had reserved.
            if not self._counted or ledger[0] is None or ledger[0] + more > self.limit:
                ledger[0] = self._make_room(more)
                self._counted = True
            if ledger[0] + more > self.limit:
                self._stop(f"entries in use take {ledger[0]} of {self.limit} bytes")
                return False
            file.truncate(size)
            ledger[0] += more
        return True

    def _make_room(self, size: int) -> int:
        """Throw out what nobody has used of late, if that makes room; the bytes taken afterwards."""
        assert self.limit is not None
        entries = [
            (state.st_mtime, state.st_size, path) for path, state in _files(self.folder) if path.suffix == SUFFIX
        ]
        total = sum(size for _, size, _ in entries) + sum(state.st_size for _, state in _files(self._parts))
        unused = sorted(entry for entry in entries if entry[0] < self._opened)
        if total - sum(entry[1] for entry in unused) + size > self.limit:
            return total
        for _, entry_size, path in unused:
            if total + size <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= entry_size
        return total

    # Parts: entries in the making

    def _clear_parts(self) -> None:
        """Delete what writers that are gone have left; a part that is being written is locked."""
        for path, state in _files(self._parts):
            if path.suffix == SAID and state.st_mtime > time.time() - SAID_SO:
                continue
            try:
                with open(path, "r+b") as file:
                    if fcntl is not None:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    elif state.st_mtime > time.time() - LEFT_BEHIND:
                        continue
                    path.unlink()
            except OSError:
                continue


class _NoRoomError(Exception):
    """The cache has no place for an entry."""


class _Part(EntryWriter):
    """An entry in the making: a file beside its place, locked as long as its writer lives."""

    def __init__(self, cache: FrameCache, key: str) -> None:
        self._cache, self._key, self._reserved = cache, key, 0
        self._place = cache._parts / f"{key}.{uuid.uuid4().hex}"
        file = open(self._place, "xb")  # noqa: SIM115
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        super().__init__(file, cache.format)

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, *_: object) -> None:
        with self._account(0):
            self._place.unlink(missing_ok=True)
            self._file.close()

    def add(self, index: int, frame: torch.Tensor) -> torch.Tensor:
        if not self._reserved:
            size = self.size(frame)
            if not self._cache._reserve(self._file, size, size):
                raise _NoRoomError
            self._reserved = size
        return super().add(index, frame)

    def commit(self) -> None:
        """Move the entry to its place; another of the same name has the same content."""
        size = self.finish()
        if size > self._reserved:  # JPEG that took more than expected
            if not self._cache._reserve(self._file, size - self._reserved, size):
                return
            self._reserved = size
        path = self._cache._path(self._key)
        with self._account(size, path):
            self._file.truncate(size)
            if fcntl is None:  # Windows moves no open file
                self._file.close()
            with suppress(FileNotFoundError):  # cleared away in the moment before it was locked
                os.replace(self._place, path)

    @contextmanager
    def _account(self, size: int, replaced: Path | None = None) -> Iterator[None]:
        """Have what was reserved count for what was written, in one with the change on the disk: nobody counts in between."""
        if self._cache.limit is None or not self._reserved:
            yield
            return
        with self._cache._ledger() as ledger:
            before = replaced.stat().st_size if replaced is not None and replaced.exists() else 0
            yield
            if ledger[0] is not None:
                ledger[0] += size - before - self._reserved
        self._reserved = 0


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with os.scandir(folder) as found:
        for item in found:
            try:
                if item.is_file():
                    yield Path(item.path), item.stat()
            except OSError:
                continue
