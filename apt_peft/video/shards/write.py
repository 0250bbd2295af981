"""Clips -> a folder of shards, which a run that was killed goes on with: what may stand in the folder, and the run."""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError
from ..clip import DataSplits, clip_name, clip_size
from ..groups import AUTO, Rule, group_clips
from ..groups import NONE as NO_GROUPS
from ..guard import TIME_LIMIT
from ..readable import check_on_error
from .index import INDEX, VERSION, ShardIndex, read_index, read_json, write_json
from .read import LABELS_FILE
from .writer import PLAN, WRITING, SplitWriter

LOCK = "lock"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardPlan:
    """What decides on the content of shards, besides the clips.

    Args:
        seed: of the order.
        shuffle: put clips into a random order; without it they stay in that of the data.
        max_bytes: of a shard; a video that is larger has one for itself.
        max_clips: of a shard.

    Raises:
        ConfigError: a limit is below 1.
    """

    seed: int = 0
    shuffle: bool = True
    max_bytes: int = 1_000_000_000
    max_clips: int = 10_000

    def __post_init__(self) -> None:
        wrong = [f"{name} ({getattr(self, name)})" for name in ("max_bytes", "max_clips") if getattr(self, name) < 1]
        if wrong:
            raise ConfigError(f"{', '.join(wrong)} must be at least 1.")


def write_shards(
    splits: DataSplits,
    out: str | os.PathLike,
    plan: ShardPlan | None = None,
    *,
    root: str = "",
    group_by: str = AUTO,
    on_error: str = "raise",
    verify: bool = False,
    time_limit: float = TIME_LIMIT,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> ShardIndex:
    """Write clips into WebDataset shards, or go on where an earlier call was stopped.

    For each clip, the tar files hold its video byte by byte, its label (`.cls`) and what else is known (`.json`: its name and
    what it was cut from); beside them lie `labels.txt` and `index.json`. The same clips and plan give the same bytes.

    Args:
        splits: the clips.
        out: folder: new, empty, or of an earlier call with the same clips and plan.
        plan: order and sizes; None takes the defaults.
        root: the data folder, which names of clips are relative to.
        group_by: which clips were cut from one video, see `group_clips`.
        on_error: `"raise"` (or `"stop"`) stops at videos that cannot be read and names all of them, `"skip"` leaves them out.
        verify: compare shards that are there with their checksums too, not by their sizes alone; those that differ are
            written anew, as are those whose size differs.
        time_limit: seconds that opening one video may take.
        workers: processes that look at videos; None is one for each CPU core.
        progress: called after each shard with the number of clips that are done with it.

    Returns:
        What was written, as in `index.json`.

    Raises:
        ConfigError: the folder holds something else, or shards of other clips or another plan, or is being written to; a
            `group_by` that does not fit.
        DataError: videos that cannot be read, among them some that crash the decoder or block it; no clips.
        MissingExtraError: PyAV is not installed.
    """
    check_on_error(on_error)
    out, plan = Path(out), plan or ShardPlan()
    clips = dict(splits.items())
    if not clips:
        raise DataError("splits must have clips to write, but they have none.")
    groups, rule = _groups(splits, root, group_by)
    made_from = {
        **asdict(plan),
        "clips": {split: len(of_split) for split, of_split in clips.items()},
        "grouped_by": rule.name,
        "layout": splits.layout,
        "fingerprint": _fingerprint(splits, root, groups),
        "version": VERSION,
    }
    with _folder(out, made_from):
        index = read_index(out)
        before = index.records if index is not None else {}
        writer = SplitWriter(
            out,
            plan,
            splits.labels,
            before,
            root=root,
            on_error=on_error,
            verify=verify,
            time_limit=time_limit,
            workers=workers,
        )
        records, later = {}, [clip for of_split in clips.values() for clip in of_split]
        for split, of_split in clips.items():
            later = later[len(of_split) :]
            records[split] = writer.write(split, of_split, groups[split], progress, later)
        if index is None or not index.folder.joinpath(INDEX).exists() or records != before:
            index = ShardIndex(list(splits.labels), made_from, records, out)
            (out / LABELS_FILE).write_text("".join(f"{name}\n" for name in splits.labels), encoding="utf-8")
            index.write()
        if not any(index.splits.values()):
            shown = "".join(f"\n  {name}: {reason}" for name, reason in index.skipped[:20])
            raise DataError(f"videos ({len(index.skipped)}) must have one that can be read, but none can.{shown}")
    return index


@contextmanager
def _folder(out: Path, made_from: dict[str, Any]) -> Iterator[None]:
    """The folder for one run alone, if it is new or of the same run; what only helps the run is taken away at the end."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out ({out}) must be a folder, but it is a file. Choose another place.")
    writing = out / WRITING
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    began = read_json(writing / PLAN)
    if began is None and INDEX in names:
        index = read_index(out)
        began = index.made_from if index is not None else None
    begun = [path.name for path in writing.iterdir()] if writing.is_dir() else []
    fresh = not set(names) - {WRITING} and all(name == LOCK or name.endswith(".part") for name in begun)
    if began is None and not fresh:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise ConfigError(
            f"out ({out}) must be new or empty, or hold shards of the same data, but it holds {shown}. Choose another place."
        )
    if began is not None and began != made_from:
        changed = [name for name in {**began, **made_from} if began.get(name) != made_from.get(name)]
        told = ", ".join(f"{name} was {began.get(name)!r} and is {made_from.get(name)!r}" for name in changed)
        raise ConfigError(
            f"out ({out}) must hold shards of the same data and settings, but {told}. Repeat them, or choose another place."
        )
    writing.mkdir(parents=True, exist_ok=True)
    with _lock(writing / LOCK, out):
        for torn in [*out.glob(".*.tar.part"), *out.glob(f".{INDEX}.*.part"), *writing.glob(".*.part")]:
            torn.unlink()
        if not (writing / PLAN).exists():
            write_json(writing / PLAN, made_from)
        yield
        # The plan goes last: what a kill leaves here is still known to be ours.
        for record in writing.glob("*-*.json"):
            record.unlink()
        shutil.rmtree(writing)


@contextmanager
def _lock(path: Path, out: Path) -> Iterator[None]:
    """Two processes at once would write the same files; the system frees the lock of one that was killed."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"out ({out}) must be written by one process, but another one is at it. Wait until it has ended."
            ) from None
        except OSError:  # a file system without locks
            with suppress(OSError):
                yield
            return
        yield


def _groups(splits: DataSplits, root: str, group_by: str) -> tuple[dict[str, list[str | None]], Rule]:
    """What each clip of a split was cut from, where a rule tells; and the rule."""
    clips = splits.items()
    every = [clip for _, of_split in clips for clip in of_split]
    found, rule = group_clips(every, root, group_by=group_by, layout=splits.layout)
    if (warning := rule.warning()) is not None:
        logger.warning("%s", warning)
    rest = iter(found)
    groups = {split: [next(rest) for _ in of_split] for split, of_split in clips}
    if rule.name == NO_GROUPS:
        return {split: [None] * len(names) for split, names in groups.items()}, rule
    return {split: list(names) for split, names in groups.items()}, rule


def _fingerprint(splits: DataSplits, root: str, groups: Mapping[str, Sequence[str | None]]) -> str:
    """Changes with the clips' order, names, groups, labels and sizes, and with the names of the classes."""
    digest = hashlib.sha256(repr(list(splits.labels)).encode())
    for split, clips in splits.items():
        for clip, group in zip(clips, groups[split], strict=True):
            try:
                size = clip_size(clip)
            except OSError:  # it is told where the clip is looked at
                size = -1
            digest.update(repr((split, clip_name(clip, root), clip.label, size, group)).encode())
    return digest.hexdigest()[:16]
