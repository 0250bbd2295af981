"""Clips of a data set that outlast their files: one that cannot be read any more is named, and the run goes on."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError
from .clip import Clip
from .dataset import Prepared, VideoDataset
from .guard import TIME_LIMIT, check_time_limit, crew_for
from .source import UnreadableVideoError
from .views import VideoViews

logger = logging.getLogger(__name__)
# Attributes that the process which reads does not need.
_OWN = frozenset({"clips", "time_limit", "on_error", "_journal", "_lost", "_reasons", "_crew"})


class LastingDataset(VideoDataset):
    """Clips of labelled videos, each read in a process of its own, which a broken file may crash or block.

    In place of a training clip that cannot be read comes the next one of its class that can, from the first epoch on, so that
    what is drawn still depends on seed, epoch and index only. A test clip that cannot be read is an error, as elsewhere.

    Args:
        clips: the videos.
        on_error: `"skip"`; with `"stop"` a training clip that cannot be read is an error too, and nothing is remembered.
        time_limit: seconds for one file.
        journal: file that names what cannot be read, a JSON line each; what it names already is not tried again.
        **settings: of `VideoDataset`.

    Raises:
        ConfigError: a value that cannot be used.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        on_error: str = "skip",
        time_limit: float = TIME_LIMIT,
        journal: str | os.PathLike | None = None,
        **settings: Any,
    ) -> None:
        check_time_limit(time_limit)
        super().__init__(clips, **settings)
        self.on_error, self.time_limit = on_error, time_limit
        self._journal = None if journal is None else Path(journal)
        known = lost_clips(self._journal)
        self._reasons = {place: known[clip.name] for place, clip in enumerate(self.clips) if clip.name in known}
        # In shared memory, so that workers hear what another one found.
        self._lost = torch.zeros(len(self.clips), dtype=torch.uint8).share_memory_()
        self._lost[list(self._reasons)] = 1
        self._crew: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_crew": None}

    def draw(self, index: int, occurrence: int = 0) -> dict[str, Any]:
        """Read one clip as `VideoDataset` does, or for training the one in its place.

        Args:
            index: of the clip.
            occurrence: how often it came before in this epoch.

        Returns:
            See `VideoDataset`.

        Raises:
            UnreadableVideoError: a test clip cannot be read, or with `"stop"` any.
            DataError: no training clip can be read.
        """
        if not self.training or self.on_error != "skip":
            return super().draw(index, occurrence)
        for place in self._places(index % len(self.clips)):
            if not self._lost[place]:
                try:
                    return super().draw(place, occurrence)
                except UnreadableVideoError as error:
                    logger.warning("Skipped %s: %s.", error.name, error.reason)
                    self._lose(place, error)
        raise DataError(
            f"training clips ({len(self.clips)}) must be readable, but none of them is any more. Repair them."
        )

    def test_views(self, index: int) -> VideoViews:
        """Read all test views of one video, as `VideoDataset` does.

        Args:
            index: of the clip.

        Returns:
            The views.

        Raises:
            UnreadableVideoError: the file cannot be read, or could not before.
        """
        place = index % len(self.clips)
        if place in self._reasons:
            raise UnreadableVideoError(self.clips[place].name, self._reasons[place])
        try:
            return super().test_views(place)
        except UnreadableVideoError as error:
            if self.on_error == "skip":
                self._lose(place, error)
            raise

    def keep(self, clip: Clip) -> None:
        """Read a clip into the cache, in this process: this is called where files are guarded already."""
        super()._prepared(clip, None)

    def _prepared(self, clip: Clip, generator: torch.Generator | None) -> Prepared:
        state = None if generator is None else generator.get_state()
        found = self._reader().do((clip, state), clip.name)
        if isinstance(found, UnreadableVideoError):
            raise found
        prepared, state = found
        if generator is not None:
            generator.set_state(state)
        return prepared

    def _reader(self) -> Any:
        """What reads for this process; workers of a loader, which are forked, have one each."""
        if self._crew is None or self._crew[0] != os.getpid():
            bare = VideoDataset.__new__(VideoDataset)
            bare.__dict__ = {name: value for name, value in self.__dict__.items() if name not in _OWN} | {"clips": []}
            crew = crew_for(_Read(bare), time_limit=self.time_limit, transforms=True)
            # When this is gone or its process ends, whichever is first; never in a process that was forked from it.
            Finalize(self, crew.close, exitpriority=10)
            self._crew = (os.getpid(), crew)
        return self._crew[1]

    def _places(self, index: int) -> Iterator[int]:
        """The clip, those of its class that follow it, and the others."""
        yield index
        others = [(index + step) % len(self.clips) for step in range(1, len(self.clips))]
        label = self.clips[index].label
        yield from sorted(others, key=lambda place: self.clips[place].label != label)

    def _lose(self, place: int, error: UnreadableVideoError) -> None:
        self._lost[place] = 1
        self._reasons[place] = error.reason
        if self._journal is not None:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"name": self.clips[place].name, "reason": error.reason}) + "\n"
            # One write, so that lines of several processes stay whole.
            with self._journal.open("ab", buffering=0) as file:
                file.write(line.encode())


def lost_clips(journal: Path | None) -> dict[str, str]:
    """What a journal names.

    Args:
        journal: the file, which need not be there.

    Returns:
        Names of clips -> what is wrong with them.
    """
    found: dict[str, str] = {}
    if journal is not None and journal.is_file():
        for line in journal.read_text(encoding="utf-8").split("\n"):
            try:
                row = json.loads(line)
                found.setdefault(row["name"], row["reason"])
            except (ValueError, TypeError, KeyError):  # the last line of a process that was killed
                continue
    return found


class _Read:
    """Reads a clip in another process: its prepared frames, and the state of what draws afterwards."""

    def __init__(self, dataset: VideoDataset) -> None:
        self.dataset = dataset

    def __call__(self, item: tuple[Clip, torch.Tensor | None]) -> tuple[Prepared, torch.Tensor | None]:
        clip, state = item
        generator = None if state is None else torch.Generator()
        if generator is not None:
            generator.set_state(state)
        prepared = self.dataset._prepared(clip, generator)
        return prepared, None if generator is None else generator.get_state()
