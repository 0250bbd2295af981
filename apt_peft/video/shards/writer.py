"""Shards of one split, one after another, each written aside and moved in when it is whole."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..clip import Clip, clip_name, original_name
from ..decode import probe
from ..guard import guarded
from ..readable import unreadable_error
from ..sampling import clip_generator
from ..source import UnreadableVideoError
from .index import INDEX, read_json, shard_from_json, shard_to_json, write_json
from .samples import Sample
from .scan import Shard
from .tar import TarWriter, padded
from .verify import is_whole

if TYPE_CHECKING:
    from .write import ShardPlan

# Records of shards that are whole, while others are still to come, and what all of them are made from.
WRITING = ".writing"
PLAN = "plan.json"
# Videos that are looked at together: starting to takes a moment.
_AHEAD = 1000
LookedAt = tuple[int, Clip, UnreadableVideoError | None]


class SplitWriter:
    """Writes the shards of a split: which clips a shard has follows from those before it.

    Args:
        out: folder of the shards.
        plan: order and sizes.
        labels: names of the classes.
        before: records of an index that is there, by split.
        root: the data folder, which names of clips are relative to.
        on_error: `"raise"` or `"skip"`.
        verify: compare checksums of shards that are there.
        time_limit: seconds that opening one video may take.
        workers: processes that look at videos.
    """

    def __init__(
        self,
        out: Path,
        plan: "ShardPlan",
        labels: Sequence[str],
        before: Mapping[str, Sequence[dict[str, Any]]],
        *,
        root: str,
        on_error: str,
        verify: bool,
        time_limit: float,
        workers: int | None,
    ) -> None:
        self.out, self.plan, self.labels, self.before = out, plan, list(labels), before
        self.root, self.on_error, self.verify = root, on_error, verify
        self.time_limit, self.workers = time_limit, workers

    def write(
        self,
        split: str,
        clips: Sequence[Clip],
        groups: Sequence[str | None],
        progress: Callable[[int], object] | None,
        later: Sequence[Clip] = (),
    ) -> list[dict[str, Any]]:
        """Write what is not whole yet.

        Args:
            split: its name.
            clips: all of it.
            groups: what each clip was cut from, where that is known.
            progress: called after each shard with its number of clips.
            later: clips of the splits that are written after this one, to name with its own those that cannot be read.

        Returns:
            A record of each shard.

        Raises:
            DataError: videos that cannot be read, where that stops it.
        """
        order = self._order(clips)
        records: list[dict[str, Any]] = []
        place, looked_at, ahead = 0, _PushBack(iter(())), -1
        while place < len(clips):
            record = self._known(split, len(records), place)
            if record is None:
                if ahead != place:
                    looked_at = _PushBack(self._look(clips, order, place, later))
                record = self._write_shard(split, len(records), place, looked_at, order, groups)
                ahead = record["next"]
            records.append(record)
            place = record["next"]
            if progress is not None:
                progress(place - record["first"])
        return records

    def _order(self, clips: Sequence[Clip]) -> list[int]:
        if not self.plan.shuffle:
            return list(range(len(clips)))
        # No epoch's number, so that this is no order that a training draws.
        return torch.randperm(len(clips), generator=clip_generator(self.plan.seed, -1, len(clips))).tolist()

    def _known(self, split: str, number: int, place: int) -> dict[str, Any] | None:
        """The record of a shard that is whole."""
        record = read_json(self._record(split, number))
        if record is None and number < len(self.before.get(split, ())):
            record = self.before[split][number]
        try:
            # Where videos must not be left out, those that were are looked at again.
            if record is None or record["first"] != place or (record["skipped"] and self.on_error != "skip"):
                return None
            whole = record["file"] is None or is_whole(shard_from_json(record, self.out), sha256=self.verify)
        except (KeyError, TypeError, ValueError):
            return None
        return record if whole else None

    def _record(self, split: str, number: int) -> Path:
        return self.out / WRITING / f"{split}-{number:06d}.json"

    def _write_shard(
        self,
        split: str,
        number: int,
        first: int,
        looked_at: "_PushBack",
        order: list[int],
        groups: Sequence[str | None],
    ) -> dict[str, Any]:
        self._forget_index()
        path = self.out / f"{split}-{number:06d}.tar"
        temporary = path.with_name(f".{path.name}.part")
        shard, skipped, place = Shard(str(path), 0), [], first
        with temporary.open("wb") as file:
            tar = TarWriter(file)
            for item in looked_at:
                position, clip, error = item
                index, sample = order[position], None
                if error is None:
                    try:
                        sample = Sample(clip, index, original_name(clip, self.root), self.labels, groups[index])
                    except UnreadableVideoError as lost:  # it could be read when it was looked at
                        if self.on_error != "skip":
                            raise
                        error = lost
                if error is not None:
                    skipped.append([clip_name(clip, self.root), error.reason])
                elif sample is not None:
                    try:
                        if shard.rows and not self._fits(tar.size + sample.room(), len(shard.rows)):
                            looked_at.push_back(item)
                            break
                        shard.rows.append(sample.write(tar))
                    finally:
                        sample.close()
                place = position + 1
            shard.sha256, shard.size = tar.close(), tar.size
            file.flush()
            os.fsync(file.fileno())
        record: dict[str, Any] = {"file": None}
        if shard.rows:
            os.replace(temporary, path)
            record = shard_to_json(shard)
        else:
            temporary.unlink()
        record |= {"first": first, "next": place, "skipped": skipped}
        write_json(self._record(split, number), record)
        return record

    def _fits(self, size: int, count: int) -> bool:
        return count < self.plan.max_clips and padded(size) <= self.plan.max_bytes

    def _forget_index(self) -> None:
        """An index must not stand beside shards that it may not describe; what it says is kept in records."""
        if not (self.out / INDEX).exists():
            return
        for split, records in self.before.items():
            for number, record in enumerate(records):
                write_json(self._record(split, number), record)
        (self.out / INDEX).unlink()

    def _look(self, clips: Sequence[Clip], order: list[int], start: int, later: Sequence[Clip]) -> Iterator[LookedAt]:
        """Clips from a place in the order on, and what is wrong with each; many are looked at ahead, side by side."""
        for first in range(start, len(order), _AHEAD):
            part = range(first, min(first + _AHEAD, len(order)))
            errors = self._errors([clips[order[position]] for position in part])
            if self.on_error != "skip" and any(errors):
                rest = [*(clips[place] for place in sorted(order[first:])), *later]
                bad = [error for error in self._errors(rest) if error]
                raise unreadable_error(bad, len(clips) + len(later), self.on_error)
            for position, error in zip(part, errors, strict=True):
                yield position, clips[order[position]], error

    def _errors(self, clips: Sequence[Clip]) -> list[UnreadableVideoError | None]:
        names = [clip.name for clip in clips]
        return guarded(_open, clips, names=names, time_limit=self.time_limit, workers=self.workers)


class _PushBack:
    """An iterator to which the last item can be given back."""

    def __init__(self, items: Iterator[LookedAt]) -> None:
        self._items, self._waiting = items, list[LookedAt]()

    def __iter__(self) -> Iterator[LookedAt]:
        return self

    def __next__(self) -> LookedAt:
        return self._waiting.pop() if self._waiting else next(self._items)

    def push_back(self, item: LookedAt) -> None:
        self._waiting.append(item)


def _open(clip: Clip) -> None:
    probe(clip.source)
