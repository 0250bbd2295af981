"""Flags about the clips that are read and those that cannot be, which several commands share."""

import re
from typing import TYPE_CHECKING, Any

from apt_peft.settings import INTEGER, NUMBER, TEXT, Kind, above, setting, within
from apt_peft.video.backends import DECODERS
from apt_peft.video.entry import FORMATS
from apt_peft.video.guard import TIME_LIMIT
from apt_peft.video.layouts import CHOICES

if TYPE_CHECKING:
    from apt_peft.video import DataSplits

# Of every command that takes `--data`, as `read_data` names them.
_OF_DATA = (
    "train_list",
    "val_list",
    "test_list",
    "labels",
    "video_column",
    "label_column",
    "layout",
    "split_number",
    "on_error",
)
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _bytes(text: str) -> Any:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]B|)", text.strip().upper())
    return text if found is None else int(float(found[1]) * _UNITS[found[2]])


def _is_size(value: Any) -> bool:
    number = _bytes(value) if isinstance(value, str) else value
    return INTEGER.accepts(number) and number > 0


BYTES = Kind("be a number of bytes above 0, or such as 500MB or 20GB", _is_size, str, lambda value: _bytes(str(value)))


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


def decoder(group: str = "general") -> Any:
    """Who decodes clips.

    Args:
        group: heading of `--help`.

    Returns:
        A dataclass field.
    """
    help = "what decodes clips; torchcodec leaves files to pyav of which it would give other frames; auto: pyav"
    return setting(TEXT, help, "auto", choices=DECODERS, group=group)


def group_by(group: str = "general", default: str = "auto", what: str = "which clips stay together") -> Any:
    """Which clips were cut from one video.

    Args:
        group: heading of `--help`.
        default: where the flag is not given.
        what: it decides on, the beginning of the line for `--help`.

    Returns:
        A dataclass field.
    """
    help = (
        f"{what}: a regular expression for the video in their names, a file of `path group` lines, the folder they lie in, "
        "none, or auto: as shards or the names of a public data set tell"
    )
    return setting(TEXT, help, default, group=group, metavar="REGEX|FILE|folder|none|auto")


def cache_format(group: str = "general") -> Any:
    """How decoded frames are kept.

    Args:
        group: heading of `--help`.

    Returns:
        A dataclass field.
    """
    help = "decoded frames as they are, or as JPEG (quality 95): a twelfth of the place, and clips change a little"
    return setting(TEXT, help, "raw", choices=FORMATS, group=group)


def cache_limit(group: str = "general") -> Any:
    """How much place decoded frames may take.

    Args:
        group: heading of `--help`.

    Returns:
        A dataclass field.
    """
    help = "what decoded frames may take, such as 20GB; then no more are kept (default: no limit)"
    return setting(BYTES, help, None, group=group, metavar="SIZE")


def read_clips(settings: Any, **changes: Any) -> "DataSplits":
    """Find the clips that a command's flags tell of.

    Args:
        settings: of a command that takes clips as `train --data` does.
        **changes: arguments of `read_data` in the place of flags.

    Returns:
        The clips by split; no video is opened.

    Raises:
        DataError: nothing can be made of the data.
    """
    from apt_peft.video import read_data

    given = {name: getattr(settings, name) for name in _OF_DATA if name not in changes}
    return read_data(settings.data, **given, **changes)
