"""Which clips can be read: found out before training, for all files at once."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from ..errors import ConfigError, DataError
from .clip import Clip
from .dataset import VideoDataset
from .decode import probe
from .examine import examine
from .guard import TIME_LIMIT, guarded
from .source import UnreadableVideoError, VideoInfo

ON_ERROR = ("raise", "skip")
# The command line's word for "raise".
STOP = "stop"


def keep_readable(
    clips: Sequence[Clip],
    *,
    on_error: str = "raise",
    whole: bool = False,
    time_limit: float = TIME_LIMIT,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[list[Clip], list[UnreadableVideoError]]:
    """Open every video and decode its first frame, in processes that a broken file may crash or block.

    Args:
        clips: to look at.
        on_error: `"raise"` (or `"stop"`) stops with all unreadable files listed, `"skip"` leaves them out.
        whole: decode every frame.
        time_limit: seconds for one file.
        workers: processes, each with a file at a time; None is one for each CPU core.
        progress: called with 1 after each file.

    Returns:
        The clips that can be read, in order, and an error for each of the others.

    Raises:
        ConfigError: an unknown `on_error`, or a `time_limit` that is not above 0.
        DataError: files that cannot be read, with `"raise"`; no file that can, with `"skip"`.
    """
    check_on_error(on_error)
    errors = errors_of(clips, whole=whole, time_limit=time_limit, workers=workers, progress=progress)
    kept = [clip for clip, error in zip(clips, errors, strict=True) if error is None]
    unreadable = [error for error in errors if error is not None]
    if unreadable and (on_error != "skip" or not kept):
        raise unreadable_error(unreadable, len(clips), on_error)
    return kept, unreadable


def errors_of(
    clips: Sequence[Clip],
    *,
    whole: bool = False,
    time_limit: float = TIME_LIMIT,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[UnreadableVideoError | None]:
    """What is wrong with each video: as `keep_readable`, of which nothing may be left, as in a part of a data set.

    Args:
        clips: to look at.
        whole: decode every frame.
        time_limit: seconds for one file.
        workers: processes, each with a file at a time; None is one for each CPU core.
        progress: called with 1 after each file.

    Returns:
        An error for each clip, None for one that can be read.

    Raises:
        ConfigError: a `time_limit` that is not above 0.
    """
    names = [clip.name for clip in clips]
    work = partial(_error_of, whole=whole)
    return guarded(work, clips, names=names, time_limit=time_limit, workers=workers, progress=progress)


def unreadable_error(unreadable: Sequence[UnreadableVideoError], total: int, on_error: str) -> DataError:
    """The error that lists all unreadable files.

    Args:
        unreadable: an error for each file.
        total: number of files looked at.
        on_error: what was asked for: `"stop"`, the word of the command line, has its flag named.

    Returns:
        The error, to be raised: a line for the rule and one for each file.
    """
    flag = "--on-error skip" if on_error == STOP else "on_error='skip'"
    remedy = "Repair them." if len(unreadable) == total else f"Repair or remove them, or leave them out with {flag}."
    lines = "\n".join(f"  {error.name}: {error.reason}" for error in unreadable)
    return DataError(f"videos ({len(unreadable)} of {total}) must be readable, but these are not. {remedy}\n{lines}")


def check_on_error(on_error: str) -> None:
    """Refuse an unknown `on_error`.

    Raises:
        ConfigError: it is not one of `ON_ERROR`.
    """
    if on_error not in (*ON_ERROR, STOP):
        raise ConfigError(f"on_error ({on_error!r}) must be one of {', '.join(map(repr, ON_ERROR))}.")


def _error_of(clip: Clip, whole: bool) -> None:
    if whole:
        examine(clip.source)
    else:
        probe(clip.source)


def describe(
    clips: Sequence[Clip], *, time_limit: float = TIME_LIMIT, workers: int | None = None
) -> list[VideoInfo | UnreadableVideoError]:
    """Describe videos as `probe` does, in processes that a broken file may crash or block.

    Args:
        clips: to look at.
        time_limit: seconds for one file.
        workers: processes, each with a file at a time; None is one for each CPU core.

    Returns:
        For each clip what is in it, or why it cannot be read.
    """
    names = [clip.name for clip in clips]
    return guarded(_described, clips, names=names, time_limit=time_limit, workers=workers)


def _described(clip: Clip) -> VideoInfo:
    return probe(clip.source)


def read_views(
    dataset: VideoDataset, *, time_limit: float = TIME_LIMIT, workers: int | None = None
) -> list[Tensor | UnreadableVideoError]:
    """Read the test views of all clips of a data set, in processes that a broken file may crash or block.

    Args:
        dataset: of a few clips, since all views are in memory at once; not for training.
        time_limit: seconds for one file.
        workers: processes, each with a file at a time; None is one for each CPU core.

    Returns:
        For each clip float32 (views, T, C, size, size), or why it cannot be read.
    """
    bare = copy.copy(dataset)
    bare.clips = []
    names = [clip.name for clip in dataset.clips]
    work = partial(_views, dataset=bare)
    return guarded(work, dataset.clips, names=names, transforms=True, time_limit=time_limit, workers=workers)


def _views(clip: Clip, dataset: VideoDataset) -> Tensor:
    dataset.clips = [clip]
    return dataset[0]["pixel_values"]


def fill_cache(
    datasets: Mapping[str, VideoDataset],
    clips: Sequence[tuple[str, Clip]],
    *,
    time_limit: float = TIME_LIMIT,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[UnreadableVideoError]:
    """Decode clips into the caches of data sets, in processes that a broken file may crash or block.

    Args:
        datasets: with a cache each; only how they make frames of a clip counts, not which clips they have.
        clips: each with the name of its data set.
        time_limit: seconds for one file.
        workers: processes, each with a file at a time; None is one for each CPU core.
        progress: called with 1 after each file.

    Returns:
        An error for each clip that cannot be read.
    """
    bare = {name: copy.copy(dataset) for name, dataset in datasets.items()}
    for dataset in bare.values():
        dataset.clips = []
    results = guarded(
        partial(_keep, datasets=bare),
        clips,
        names=[clip.name for _, clip in clips],
        transforms=True,
        time_limit=time_limit,
        workers=workers,
        progress=progress,
    )
    return [error for error in results if error is not None]


def _keep(job: tuple[str, Clip], datasets: Mapping[str, VideoDataset]) -> None:
    name, clip = job
    datasets[name].keep(clip)
