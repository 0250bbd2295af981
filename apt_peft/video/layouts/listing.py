"""What the lists of a public data set name -> clips: missing videos counted, renamed ones found where it is clear."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import DataError
from ..clip import SPLITS, Clip, DataSplits, unknown_labels

# Part of a split's videos that may be missing: of Kinetics, which is fetched from YouTube, always some are.
MISSING_LIMIT = 0.1
_TITLES = {"train": "training", "val": "validation", "test": "test"}
_SHOWN = 10


@dataclass(frozen=True)
class Entry:
    """One video that a list names.

    Args:
        split: `train`, `val` or `test`.
        where: file and line that name it.
        label: name of its class.
        wanted: its name, as the list has it.
        exact: the files of that name.
        loose: the files of a similar name, for where there is none of just that name.
    """

    split: str
    where: str
    label: str
    wanted: str
    exact: Sequence[Path]
    loose: Sequence[Path] = ()


@dataclass
class Listing:
    """What the lists of a data set say.

    Args:
        labels: names of the classes, by label.
        entries: all videos, in the order of the lists.
        warnings: what was passed over, as sentences.
    """

    labels: list[str]
    entries: list[Entry]
    warnings: list[str] = field(default_factory=list)


def assemble(root: Path, title: str, listing: Listing, names: list[str] | None, on_error: str) -> DataSplits:
    """Find the videos of a listing.

    Args:
        root: of the data set.
        title: what to call the set in messages.
        listing: what its lists say.
        names: of the classes, in another order; None for the set's own.
        on_error: `"raise"` refuses a split of which more than `MISSING_LIMIT` is missing, `"skip"` takes what there is.

    Returns:
        The clips; what is missing is named in `missing` and counted in `warnings`.

    Raises:
        DataError: too many videos are missing, or `names` lacks a class.
    """
    if names is None:
        names = listing.labels
    unknown = {entry.label for entry in listing.entries} - set(names)
    if unknown:
        raise unknown_labels(unknown, names)
    number = {name: label for label, name in enumerate(names)}
    taken = {file for entry in listing.entries if len(entry.exact) == 1 for file in entry.exact}
    others = {
        entry: [file for file in entry.loose if file not in taken] for entry in listing.entries if not entry.exact
    }
    wanted = Counter(found[0] for found in others.values() if len(found) == 1)
    result = DataSplits(labels=names, warnings=list(listing.warnings))
    missing: dict[str, list[str]] = {split: [] for split in SPLITS}
    renamed: list[str] = []
    for entry in listing.entries:
        files: Sequence[Path] = entry.exact or others[entry]
        if len(files) == 1 and (entry.exact or wanted[files[0]] == 1):
            getattr(result, entry.split).append(Clip(files[0], number[entry.label]))
            if not entry.exact:
                renamed.append(f"{entry.wanted} is {_relative(files[0], root)}")
        else:
            missing[entry.split].append(f"{entry.where}: {_why(entry, files, root)}")
    if not any(getattr(result, split) for split in SPLITS):
        several = any(entry.exact or others[entry] for entry in listing.entries)
        found = "is clear. Keep one copy of each" if several else "lies below it. Put them there, or link their folder"
        raise DataError(
            f"data ({root}) must have the videos that the lists of {title} name, but none of {len(listing.entries)} {found}.\n"
            f"{_lines([line for s in SPLITS for line in missing[s]])}"
        )
    _check_limit(root, title, listing, missing, on_error)
    for split, lines in missing.items():
        total = len(lines) + len(getattr(result, split))
        if lines:
            result.warnings.append(
                f"Missing and left out, of {total} {_TITLES[split]} videos of {title} ({len(lines)}): {_some(lines, '; ')}."
            )
    if renamed:
        result.warnings.append(
            f"Videos of {title} with other names than in its lists, found all the same ({len(renamed)}): "
            f"{_some(renamed, ', ', 3)}."
        )
    result.missing = [line for split in SPLITS for line in missing[split]]
    return result


def raise_wrong(title: str, wrong: Sequence[str]) -> None:
    """Raise one error that names all lines that cannot be used.

    Args:
        title: what to call the set in messages.
        wrong: `file:line: what is wrong`.

    Raises:
        DataError: there are some.
    """
    if wrong:
        raise DataError(
            f"lists of {title} ({len(wrong)} line{'s' * (len(wrong) > 1)}) must be as they are published, but these are "
            f"not. Download the lists anew, or correct the lines.\n{_lines(wrong)}"
        )


def _check_limit(root: Path, title: str, listing: Listing, missing: dict[str, list[str]], on_error: str) -> None:
    totals = Counter(entry.split for entry in listing.entries)
    over = [split for split, lines in missing.items() if len(lines) > MISSING_LIMIT * totals[split]]
    if over and on_error != "skip":
        counts = ", ".join(f"{len(missing[split])} of {totals[split]} {_TITLES[split]} videos" for split in over)
        raise DataError(
            f"data ({root}) must have at least {1 - MISSING_LIMIT:.0%} of the videos that the lists of {title} name, but "
            f"{counts} are missing. Complete them, or train on what there is with --on-error skip.\n"
            + _lines([line for split in over for line in missing[split]])
        )


def _why(entry: Entry, files: Sequence[Path], root: Path) -> str:
    if not files:
        return f"there is no {entry.wanted}"
    if len(files) == 1:
        return f"{entry.wanted} is not clear, for {_relative(files[0], root)} could be several of those missing"
    return f"{entry.wanted} is not clear, for it could be {_some([_relative(file, root) for file in files], ' or ')}"


def _relative(file: Path, root: Path) -> str:
    return os.path.relpath(file, root)


def _lines(lines: Sequence[str]) -> str:
    return "  " + _some(lines, "\n  ")


def _some(texts: Sequence[str], between: str, shown: int = _SHOWN) -> str:
    more = len(texts) - shown
    return between.join(texts[:shown]) + (f"{between}and {more} more" if more > 0 else "")
