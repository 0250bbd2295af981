"""What the names of shards say: braces, lists of them, and the split that they belong to."""

import itertools
import re
from pathlib import Path

from ...errors import DataError
from ..clip import SPLIT_NAMES

SUFFIX = ".tar"
# A slip in a range would otherwise fill the memory with names.
MOST = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand(pattern: str) -> list[str]:
    """The names that a pattern stands for, as a shell would expand it.

    Args:
        pattern: with `{000..127}` and `{train,val}` in it, several of them side by side, and commas between patterns.

    Returns:
        Names in order; a range keeps the zeros of its start.

    Raises:
        DataError: a brace without its partner or within braces, an empty choice, or more than a million names.
    """
    names = [name for part in _split(pattern) for name in _one(part.strip(), pattern)]
    if not all(names):
        raise _wrong(pattern, "a name in it is empty")
    return names


def split_of(name: str) -> str | None:
    """The split that the name of a shard begins with: `train-000000.tar`, `val_3.tar`, `test.tar`.

    Args:
        name: without its folder.

    Returns:
        `train`, `val`, `test` or None.
    """
    return SPLIT_NAMES.get(re.split(r"[^a-z]", name.lower(), maxsplit=1)[0])


def is_tar(name: str) -> bool:
    """Whether a name, list of names or pattern is of tar files.

    Args:
        name: what a user gave as data.
    """
    return any(part.strip().lower().endswith(SUFFIX) for part in name.split(","))


def common_folder(paths: list[str]) -> str:
    """The innermost folder that all files lie in.

    Args:
        paths: of the files.
    """
    parents = [Path(path).parent.parts for path in dict.fromkeys(paths)]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*parents, strict=False))
    return str(Path(*(parts[0] for parts in shared)))


def _split(pattern: str) -> list[str]:
    """Parts between commas that stand outside of braces."""
    parts, depth = [""], 0
    for letter in pattern:
        depth += (letter == "{") - (letter == "}")
        if not 0 <= depth <= 1:
            raise _wrong(pattern, "its braces do not pair, or stand within each other")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise _wrong(pattern, "its braces do not pair, or stand within each other")
    return parts


def _one(part: str, pattern: str) -> list[str]:
    pieces = _BRACES.split(part)
    choices = [[piece] if place % 2 == 0 else _choices(piece, pattern) for place, piece in enumerate(pieces)]
    count = 1
    for options in choices:
        count *= len(options)
    if count > MOST:
        raise _wrong(pattern, f"it stands for {count:,} names, and {MOST:,} are the most")
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(inside: str, pattern: str) -> list[str] | list:
    span = _RANGE.fullmatch(inside)
    if span is None:
        options = inside.split(",")
        if len(options) < 2:
            raise _wrong(pattern, f"{{{inside}}} is neither a range such as {{000..127}} nor a choice such as {{a,b}}")
        return options
    first, last = int(span[1]), int(span[2])
    if last < first or last - first >= MOST:
        raise _wrong(pattern, f"{{{inside}}} must rise, by less than {MOST:,}")
    width = len(span[1]) if span[1].startswith("0") else 0
    return [str(number).zfill(width) for number in range(first, last + 1)]


def _wrong(pattern: str, why: str) -> DataError:
    return DataError(f"data ({pattern}) must name shards, for example shards/train-{{000..127}}.tar, but {why}.")
