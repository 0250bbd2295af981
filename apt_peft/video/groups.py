"""Which clips were cut from one video: found from their names, or told by a file, a folder or an expression."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError, DataError
from .clip import Clip, clip_name
from .layouts import LAYOUTS
from .lists import fields_of_lines

AUTO, FOLDER, NONE = "auto", "folder", "none"
_SHOWN = 10


def group_clips(
    clips: Sequence[Clip], root: str | os.PathLike, *, group_by: str = AUTO, layout: str | None = None
) -> tuple[list[str], str]:
    """The group of each clip: those of a group must not be in two splits.

    Args:
        clips: any clips.
        root: the data folder, which names are relative to.
        group_by: `"auto"` takes the rule of the layout, or of that public data set whose names all clips have, or none;
            `"folder"` the folder that a clip lies in; `"none"` none; else a file of lines `path group`, or a regular expression
            that finds the group in a clip's name (its own groups, or all that it matches).
        layout: name of the public data set that the clips lie as, if any.

    Returns:
        A name for each clip's group, its own name for a clip without others; and the rule that was taken: `folder`, `none`,
        `file`, `expression`, or the name of a layout.

    Raises:
        ConfigError: an expression that is none, or that does not match all names.
        DataError: a file of groups that lacks clips or cannot be read.
    """
    # Bytes are called after their number, which tells nothing.
    names = [
        f"{clip.name} {place}" if isinstance(clip.source, bytes) else clip_name(clip, root)
        for place, clip in enumerate(clips)
    ]
    if group_by == AUTO:
        return _by_names(names, layout)
    if group_by == NONE:
        return names, NONE
    if group_by == FOLDER:
        return [name.rpartition("/")[0] or name for name in names], FOLDER
    if os.path.isfile(group_by):
        return _by_file(names, Path(group_by)), "file"
    return _by_expression(names, group_by), "expression"


def _by_names(names: list[str], layout: str | None) -> tuple[list[str], str]:
    for rule in [layout] if layout is not None else LAYOUTS:
        found = [LAYOUTS[rule].group(Path(name)) for name in names]
        if any(found) if layout is not None else found and all(found):
            return [group or name for group, name in zip(found, names, strict=True)], rule
    return names, NONE


def _by_expression(names: list[str], group_by: str) -> list[str]:
    try:
        expression = re.compile(group_by)
    except re.error as error:
        raise ConfigError(
            f"group_by ({group_by!r}) must be auto, folder, none, a file, or a regular expression, but there is no such file, "
            f"and as an expression: {error}."
        ) from None
    found = [expression.search(name) for name in names]
    lost = [name for name, match in zip(names, found, strict=True) if match is None]
    if lost:
        raise ConfigError(
            f"group_by ({group_by!r}) must be auto, folder, none, a file, or a regular expression that finds the video in each "
            f"clip's name, but it finds nothing in {len(lost)} of {len(names)}: {_some(lost)}."
        )
    # An expression without groups of its own: all that it matches.
    return ["\0".join(part or "" for part in match.groups() or (match[0],)) for match in found if match is not None]


def _by_file(names: list[str], file: Path) -> list[str]:
    groups = dict(fields_of_lines(file))
    lost = [name for name in names if name not in groups]
    if lost:
        raise DataError(
            f"group_by ({file}) must have a line `path group` for each clip, but it has none for {len(lost)} of {len(names)}: "
            f"{_some(lost)}. Paths are relative to the data folder."
        )
    return [groups[name] for name in names]


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
