"""Which clips can be read: found out before training, for all files at once."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..errors import ConfigError, DataError
from .clip import Clip
from .decode import probe
from .source import UnreadableVideoError

ON_ERROR = ("raise", "skip")
Item = TypeVar("Item")
Result = TypeVar("Result")


def keep_readable(
    clips: Sequence[Clip],
    *,
    on_error: str = "raise",
    num_threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[list[Clip], list[UnreadableVideoError]]:
    """Open every video and decode its first frame.

    Args:
        clips: to look at.
        on_error: `"raise"` stops with all unreadable files listed, `"skip"` leaves them out.
        num_threads: files looked at together; None is one for each CPU core.
        progress: called with 1 after each file.

    Returns:
        The clips that can be read, in order, and an error for each of the others.

    Raises:
        ConfigError: an unknown `on_error`.
        DataError: files that cannot be read, with `"raise"`; no file that can, with `"skip"`.
    """
    check_on_error(on_error)
    errors = in_threads(_error_of, clips, num_threads, progress)
    kept = [clip for clip, error in zip(clips, errors, strict=True) if error is None]
    unreadable = [error for error in errors if error is not None]
    if unreadable and (on_error == "raise" or not kept):
        raise DataError(unreadable_message(unreadable, len(clips)))
    return kept, unreadable


def unreadable_message(unreadable: Sequence[UnreadableVideoError], total: int) -> str:
    """The message that lists all unreadable files.

    Args:
        unreadable: an error for each file.
        total: number of files looked at.

    Returns:
        A line for the rule and one for each file.
    """
    remedy = "Repair or remove them, or leave them out with on_error='skip'."
    if len(unreadable) == total:
        remedy = "Repair them."
    lines = "\n".join(f"  {error.name}: {error.reason}" for error in unreadable)
    return f"videos ({len(unreadable)} of {total}) must be readable, but these are not. {remedy}\n{lines}"


def check_on_error(on_error: str) -> None:
    """Refuse an unknown `on_error`.

    Raises:
        ConfigError: it is not one of `ON_ERROR`.
    """
    if on_error not in ON_ERROR:
        raise ConfigError(f"on_error ({on_error!r}) must be one of {', '.join(map(repr, ON_ERROR))}.")


def in_threads(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    num_threads: int | None,
    progress: Callable[[int], object] | None,
) -> list[Result]:
    """Work on items side by side (FFmpeg gives Python's lock back) and return the results in order."""
    results = []
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
        for result in pool.map(work, items):
            results.append(result)
            if progress is not None:
                progress(1)
    return results


def _error_of(clip: Clip) -> UnreadableVideoError | None:
    try:
        probe(clip.source)
    except UnreadableVideoError as error:
        return error
    return None
