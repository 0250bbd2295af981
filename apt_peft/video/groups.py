"""Which clips were cut from one video: found from their names, or told by a file, a folder or an expression."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, DataError
from .clip import Clip, DataSplits, original_name
from .layouts import LAYOUTS
from .lists import fields_of_lines
from .shards.source import LostVideo, ShardVideo

AUTO, FOLDER, NONE, FILE, EXPRESSION, SHARDS = "auto", "folder", "none", "file", "expression", "shards"
_SHOWN = 10


@dataclass(frozen=True)
class Rule:
    """What clips were grouped by.

    Args:
        name: `folder`, `none`, `file`, `expression`, `shards` (the groups that these hold), or the name of a layout.
        alone: names of which it tells nothing, each a group of its own.
        hint: with `none`, what a few names look like, as a sentence; else None.
    """

    name: str
    alone: tuple[str, ...] = ()
    hint: str | None = None

    def __str__(self) -> str:
        if not self.alone:
            return self.name
        count = len(self.alone)
        return f"{self.name} ({count} {'clip stands' if count == 1 else 'clips stand'} alone, by another name)"

    def warning(self) -> str | None:
        """What may have been misunderstood, as a sentence; None where all names are alike."""
        if self.hint is not None:
            return self.hint
        if not self.alone:
            return None
        return (
            f"Clips of one video are known by the rule {self.name}, but it tells nothing of {len(self.alone)} names, which stand "
            f"alone: {_some(self.alone)}."
        )


def group_clips(
    clips: Sequence[Clip], root: str | os.PathLike, *, group_by: str = AUTO, layout: str | None = None
) -> tuple[list[str], Rule]:
    """The group of each clip: those of a group must not be in two splits.

    Args:
        clips: any clips.
        root: the data folder, which names are relative to; clips in shards have the names that they had before.
        group_by: as for `group_names`; `"auto"` takes the groups that shards hold, where most clips have one.
        layout: name of the public data set that the clips lie as, if any.

    Returns:
        As `group_names`.

    Raises:
        ConfigError: as `group_names`.
        DataError: as `group_names`.
    """
    # Bytes are called after their number, which tells nothing.
    names = [
        f"{clip.name} {place}" if isinstance(clip.source, bytes) else original_name(clip, root)
        for place, clip in enumerate(clips)
    ]
    held = [clip.source.group if isinstance(clip.source, (ShardVideo, LostVideo)) else None for clip in clips]
    if group_by == AUTO and _most(held):
        groups, rule = _with_others(names, held, SHARDS)
    else:
        groups, rule = group_names(names, group_by=group_by, layout=layout)
    return _not_by_chance(clips, names, groups, rule), rule


def group_names(names: Sequence[str], *, group_by: str = AUTO, layout: str | None = None) -> tuple[list[str], Rule]:
    """What each name belongs to.

    Args:
        names: of clips.
        group_by: `"auto"` takes the rule of the layout, or of that public data set whose names most clips have, or none;
            `"folder"` the folder that a clip lies in; `"none"` none; else a file of lines `path group`, or a regular expression
            that finds the group in a clip's name (its own groups, or all that it matches).
        layout: name of the public data set that the clips lie as, if any.

    Returns:
        A name for each clip's group, its own name for a clip without others; and the rule that was taken.

    Raises:
        ConfigError: an expression that is none, or that does not match all names.
        DataError: a file of groups that lacks clips or cannot be read.
    """
    if group_by == AUTO:
        return _by_names(names, layout)
    if group_by == NONE:
        return list(names), Rule(NONE)
    if group_by == FOLDER:
        return [name.rpartition("/")[0] or name for name in names], Rule(FOLDER)
    if os.path.isfile(group_by):
        return _by_file(names, Path(group_by)), Rule(FILE)
    return _by_expression(names, group_by), Rule(EXPRESSION)


def shared_groups(splits: DataSplits, root: str | os.PathLike, *, group_by: str = AUTO) -> list[str]:
    """What splits have in common that they must not.

    Args:
        splits: of a data set.
        root: the data folder, which names are relative to.
        group_by: as for `group_clips`.

    Returns:
        A sentence where clips of one video lie in several splits; nothing else, nor of the published splits of a public data set.

    Raises:
        ConfigError: as `group_names`.
        DataError: as `group_names`.
    """
    by_split = splits.items()
    if len(by_split) < 2 or splits.layout is not None:
        return []
    groups, rule = group_clips([clip for _, clips in by_split for clip in clips], root, group_by=group_by)
    found: dict[str, set[str]] = {}
    for group, split in zip(groups, (split for split, clips in by_split for _ in clips), strict=True):
        found.setdefault(group, set()).add(split)
    shared = sorted(group for group, of in found.items() if len(of) > 1)
    if not shared:
        return []
    where = " and ".join(split for split, _ in by_split if any(split in found[group] for group in shared))
    return [
        f"Clips of one video lie in several splits ({where}), which flatters the score: {len(shared)} of "
        f"{len(found)} videos by the rule {rule.name}, such as {shared[0]!r}. `apt-peft lists --pool` divides clips in files "
        "anew."
    ]


def shared_groups_or_unknown(splits: DataSplits, root: str | os.PathLike, *, group_by: str = AUTO) -> list[str]:
    """As `shared_groups`, for a command that needs `group_by` for some of the clips only.

    Args:
        splits: of a data set.
        root: the data folder, which names are relative to.
        group_by: as for `group_clips`.

    Returns:
        As `shared_groups`; a sentence too where `group_by` does not tell of all clips.
    """
    try:
        return shared_groups(splits, root, group_by=group_by)
    except (ConfigError, DataError) as error:
        return [f"Nobody knows whether clips of one video lie in several splits: {error}"]


def held_out_warnings(clips: Sequence[Clip], rule: Rule, *, group_by: str = AUTO) -> list[str]:
    """What may spoil a validation split that is held out of clips.

    Args:
        clips: of which a part is held out.
        rule: that `group_clips` took.
        group_by: what it was asked for.

    Returns:
        Sentences.
    """
    if (warning := rule.warning()) is not None:
        return [warning]
    untold = sum(isinstance(clip.source, ShardVideo) and clip.source.original is None for clip in clips)
    if rule.name != NONE or group_by != AUTO or 2 * untold <= len(clips):
        return []
    return [
        "Validation clips are held out one by one: nothing in these shards tells which clips were cut from one video. Where "
        "some were, they may be on both sides, which flatters the validation score. Say it by --group-by or by a `group` in "
        "the JSON of each sample, give a validation split, or take --group-by none if each is a video of its own."
    ]


def _by_names(names: Sequence[str], layout: str | None) -> tuple[list[str], Rule]:
    found = {rule: [LAYOUTS[rule].group(Path(name)) for name in names] for rule in ([layout] if layout else LAYOUTS)}
    known = {rule: sum(group is not None for group in groups) for rule, groups in found.items()}
    best = max(known, key=lambda rule: known[rule])  # of equals the first
    if known[best] and (layout is not None or _most(found[best])):
        groups, rule = _with_others(names, found[best], best)
        # In the set's own layout, each of the other names is known to be a video of its own.
        return groups, rule if layout is None else Rule(best)
    if not known[best]:
        return list(names), Rule(NONE)
    return list(names), Rule(
        NONE,
        hint=(
            f"{known[best]} of {len(names)} names look like those of {LAYOUTS[best].title}, which tell clips of one video, but "
            "they are too few to go by: each clip is taken for a video of its own."
        ),
    )


def _not_by_chance(clips: Sequence[Clip], names: Sequence[str], groups: list[str], rule: Rule) -> list[str]:
    """Groups of which none is that of clips in shards or tables that only have a name in common, a title for example."""
    if len(set(names)) == len(names) or rule.name not in (NONE, SHARDS, *LAYOUTS):
        return groups
    own = set(names) if rule.name == NONE else set(rule.alone)
    count = Counter(names)
    return [
        f"{group} {place}"
        if group == name and name in own and count[name] > 1 and not isinstance(clip.source, (str, os.PathLike))
        else group
        for place, (clip, name, group) in enumerate(zip(clips, names, groups, strict=True))
    ]


def _with_others(names: Sequence[str], groups: Sequence[str | None], rule: str) -> tuple[list[str], Rule]:
    alone = tuple(name for name, group in zip(names, groups, strict=True) if group is None)
    return [name if group is None else group for group, name in zip(groups, names, strict=True)], Rule(rule, alone)


def _most(groups: Sequence[str | None]) -> bool:
    """Whether more than half have one."""
    return 2 * sum(group is not None for group in groups) > len(groups)


def _by_expression(names: Sequence[str], group_by: str) -> list[str]:
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


def _by_file(names: Sequence[str], file: Path) -> list[str]:
    told: dict[str, list[str]] = {}
    for name, group in fields_of_lines(file, "group"):
        told.setdefault(name, []).append(group)
    if apart := [f"{name} ({' and '.join(sorted(set(found)))})" for name, found in told.items() if len(set(found)) > 1]:
        raise DataError(
            f"group_by ({file}) must name one group for each clip, but it has several for {len(apart)}: {_some(apart)}. Keep one "
            "line of each."
        )
    groups = {name: found[0] for name, found in told.items()}
    lost = [name for name in names if name not in groups]
    if lost:
        raise DataError(
            f"group_by ({file}) must have a line `path group` for each clip, but it has none for {len(lost)} of {len(names)}: "
            f"{_some(lost)}. Paths are relative to the data folder."
        )
    return [groups[name] for name in names]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
