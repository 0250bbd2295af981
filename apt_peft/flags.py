"""Flags about the clips that are read and those that cannot be, which several commands share."""

from typing import Any

from apt_peft.settings import INTEGER, NUMBER, TEXT, above, setting, within
from apt_peft.video.guard import TIME_LIMIT
from apt_peft.video.layouts import CHOICES


def on_error(help: str, group: str = "general") -> Any:
    """What to do about clips that cannot be read; `raise`, the word of Python's functions, is `stop` here.

    Args:
        help: a line for `--help`.
        group: heading of `--help`.

    Returns:
        A dataclass field.
    """
    return setting(TEXT, help, "stop", choices=("stop", "skip"), aliases={"raise": "stop"}, group=group)


def time_limit(group: str = "general") -> Any:
    """How long one file may take when clips are looked over.

    Args:
        group: heading of `--help`.

    Returns:
        A dataclass field.
    """
    return setting(
        NUMBER, "for reading one clip, in seconds; one that takes longer cannot be read", TIME_LIMIT, rule=above(0),
        group=group, metavar="SECONDS",
    )  # fmt: skip


def look_over(group: str = "general") -> Any:
    """How much of each clip is read before the first is used.

    Args:
        group: heading of `--help`.

    Returns:
        A dataclass field.
    """
    return setting(
        TEXT,
        "what is read of each clip before the first is used, in processes that a broken file may crash or block: its first "
        "frame, or every frame",
        "first",
        choices=("first", "whole"),
        group=group,
    )


def layout(group: str = "general") -> Any:
    """Which public data set the data is.

    Args:
        group: heading of `--help`.

    Returns:
        A dataclass field.
    """
    help = "a public data set as it is downloaded; auto: known by its own lists; none: do not look for one"
    return setting(TEXT, help, "auto", choices=CHOICES, group=group)


def split_number(group: str = "general") -> Any:
    """Which of several published splits of the data.

    Args:
        group: heading of `--help`.

    Returns:
        A dataclass field.
    """
    help = "which of the published splits of UCF101 and HMDB51"
    return setting(INTEGER, help, 1, rule=within(1, 3), group=group, metavar="1|2|3")
