"""The ledger: every touch of the test split, written down before it happens; a second one of the same is refused."""

import datetime
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apt_peft.errors import ConfigError, DataError

LEDGER = "ledger.jsonl"
# What may stand before a record of the same contender and seed.
TOUCH, RESUME, SCORED, DIVERGED, FORGET = "touch", "resume", "scored", "diverged", "forget"


class Ledger:
    """A file that only grows, a record a line; each line's checksum covers all lines before it.

    A line is on the disk before what it tells of happens. A last line that a kill cut short tells of nothing that happened, and
    is dropped; damage anywhere else is an error. Several processes may write: a lock beside the file makes them wait.

    Args:
        path: of the file; its folder is there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def records(self) -> list[dict[str, Any]]:
        """All records, checked.

        Raises:
            DataError: a line was changed or taken out.
        """
        return self._read()[0]

    def sums(self) -> list[str]:
        """The checksum of each line.

        Raises:
            DataError: a line was changed or taken out.
        """
        found, whole, _ = self._read()
        lines = self.path.read_bytes()[:whole].splitlines() if found else []
        return [json.loads(line)["sum"] for line in lines]

    def state(self, method: str, seed: int) -> dict[str, Any] | None:
        """The last record of a contender's seed that counts.

        Args:
            method: name of the contender.
            seed: of the run.

        Returns:
            A `touch`, `resume`, `scored` or `diverged` record; None where the test split was not touched, or that was forgotten.
        """
        last = None
        for record in self.records():
            if record["method"] == method and record["seed"] == seed:
                last = None if record["event"] == FORGET else record
        return last

    def touch(self, method: str, seed: int, *, adapter: str, scores: Path) -> bool:
        """Write down that the test split is about to be touched.

        Args:
            method: name of the contender.
            seed: of the run.
            adapter: SHA-256 of the weights that will score it.
            scores: file that the scores go to.

        Returns:
            Whether it may be touched; False where its scores are stored, whole and the same, or were not finite.

        Raises:
            ConfigError: it was touched before, and what was stored then is gone or changed, or the weights are others.
        """
        with self._locked():
            before, what = self.state(method, seed), f"test split (of {method}, seed {seed})"
            remedy = f"Put it back, or open the split again by --forget {method}, which is recorded."
            if before is None:
                if scores.exists():
                    raise ConfigError(
                        f"{what} must be touched with a record in {self.path}, but {scores} is there without one: the ledger was "
                        f"taken away. {remedy}"
                    )
                self._append(TOUCH, method, seed, adapter=adapter)
                return True
            if before["adapter"] != adapter:
                raise ConfigError(
                    f"{what} must be touched once, but it was with other weights ({before['adapter'][:12]}, now {adapter[:12]}): "
                    f"the run was trained again. {remedy}"
                )
            if before["event"] == DIVERGED:
                return False
            if before["event"] != SCORED:
                # The same weights give the same scores: what was cut short is ended, nothing new is learned.
                self._append(RESUME, method, seed, adapter=adapter)
                return True
            if not scores.is_file():
                raise ConfigError(f"{what} must be touched once, but its scores ({scores}) are gone. {remedy}")
            if digest(scores) != before["scores"]:
                raise ConfigError(f"{what} must be touched once, but its scores ({scores}) were changed. {remedy}")
            return False

    def scored(self, method: str, seed: int, *, adapter: str, scores: Path) -> None:
        """Write down that the scores are stored.

        Args:
            method: name of the contender.
            seed: of the run.
            adapter: as for `touch`.
            scores: the file.
        """
        with self._locked():
            self._append(SCORED, method, seed, adapter=adapter, scores=digest(scores))

    def diverged(self, method: str, seed: int, *, adapter: str) -> None:
        """Write down that the scores are not finite; nothing is stored.

        Args:
            method: name of the contender.
            seed: of the run.
            adapter: as for `touch`.
        """
        with self._locked():
            self._append(DIVERGED, method, seed, adapter=adapter)

    def forget(self, method: str, seed: int, scores: Path) -> None:
        """Open the test split again for a run; the scores go aside, and the record stays.

        Args:
            method: name of the contender.
            seed: of the run.
            scores: the file, which may be gone.
        """
        with self._locked():
            number = len(self.records()) + 1
            if scores.exists():
                os.replace(scores, scores.with_name(f"{scores.stem}.forgotten-{number}{scores.suffix}"))
            self._append(FORGET, method, seed)

    def _append(self, event: str, method: str, seed: int, **more: str) -> None:
        found, whole, last = self._read()
        record = {
            "line": len(found) + 1,
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "event": event,
            "method": method,
            "seed": seed,
            **more,
        }
        text = json.dumps(record, ensure_ascii=False)
        line = json.dumps({**record, "sum": _sum(last, text)}, ensure_ascii=False) + "\n"
        new = not self.path.exists()
        with self.path.open("r+b" if not new else "xb", buffering=0) as file:
            file.truncate(whole)
            file.seek(whole)
            file.write(line.encode())
            os.fsync(file.fileno())
        if new:
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _read(self) -> tuple[list[dict[str, Any]], int, str]:
        """Records, where the whole lines end, and the last checksum."""
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content.rfind(b"\n") + 1
        found: list[dict[str, Any]] = []
        last = ""
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                record = json.loads(line)
                stated = record.pop("sum")
                right = stated == _sum(last, json.dumps(record, ensure_ascii=False)) and record["line"] == number
            except (ValueError, KeyError, TypeError, AttributeError):
                right = False
            if not right:
                raise DataError(
                    f"ledger ({self.path}) must have all its lines as they were written, but line {number} is not, or one "
                    "before it is gone. Restore the file, or begin anew in another folder."
                )
            found.append(record)
            last = stated
        return found, whole, last

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.path.with_suffix(".lock")):
            yield


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock while a block runs; the system gives it back when the process ends, however it ends.

    Args:
        path: of the lock's file, which stays; its folder is made.
        wait: for other processes that hold it.

    Returns:
        Whether it is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Args:
        path: of the file.
    """
    with path.open("rb") as file:
        found = hashlib.sha256()
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def _sum(last: str, text: str) -> str:
    return hashlib.sha256(f"{last}{text}".encode()).hexdigest()[:32]
