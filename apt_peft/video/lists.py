"""List files, lines of `path label` -> clips."""

import re
import shlex
from pathlib import Path

from ..errors import DataError
from .clip import Clip, DataSplits

# Without names, a number too high would make that many classes.
MAX_LABELS = 65_536
_BELOW = re.compile(r"-\d+", re.ASCII)
_BLANKS = re.compile("[ \r\n]+")  # those of shlex; a path may have other spaces


def read_lists(root: Path, files: dict[str, Path], names: list[str] | None) -> DataSplits:
    """Read clips from list files.

    Args:
        root: folder that the paths are relative to.
        files: split -> list file.
        names: of the classes; None for lists of numbers, which are their own names, or for the sorted names that occur.

    Returns:
        The clips in the order of the lists.

    Raises:
        DataError: lists that are missing or empty, and all lines that cannot be used.
    """
    absent = [str(file) for file in files.values() if not file.is_file()]
    if absent:
        raise DataError(f"list files ({', '.join(absent)}) must exist, but there are no such files.")
    wrong: list[str] = []
    entries = {split: _entries(file, wrong) for split, file in files.items()}
    _raise_wrong(wrong)
    empty = [str(files[split]) for split, found in entries.items() if not found]
    if empty:
        raise DataError(f"list files ({', '.join(empty)}) must have lines of `path label`, but they have none.")
    texts = [label for found in entries.values() for _, _, label in found]
    if names is None:
        names = _names(texts)
    number = {name: label for label, name in enumerate(names)}
    places = {str(place): place for place in range(len(names))}
    if not any(name.isdigit() for name in names):
        number |= places
    elif number.keys().isdisjoint(texts):  # names that are numbers and places never stand side by side
        number = places
    result = DataSplits(labels=names)
    for split, found in entries.items():
        clips = []
        for line, path, label in found:
            file = root / path
            if label not in number:
                wrong.append(f"{files[split]}:{line}: label {label!r} is not among the {len(names)} labels")
            elif not file.is_file():
                wrong.append(f"{files[split]}:{line}: there is no file {file}")
            else:
                clips.append(Clip(file, number[label]))
        setattr(result, split, clips)
    _raise_wrong(wrong)
    return result


def text_lines(file: Path) -> list[str]:
    """The lines of a text file.

    Args:
        file: of text in UTF-8.

    Returns:
        Lines without their ends.

    Raises:
        DataError: it is something else.
    """
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"file ({file}) must be text in UTF-8, but it is not. Save it as UTF-8.") from None


def fields_of_lines(file: Path, second: str = "label") -> list[tuple[str, str]]:
    """The two fields of each line that is not empty, read as those of a list.

    Args:
        file: of lines `path something`.
        second: what stands behind the path, for messages.

    Returns:
        Both fields of each line.

    Raises:
        DataError: lines of more or fewer fields, all named.
    """
    wrong: list[str] = []
    entries = _entries(file, wrong, second)
    _raise_wrong(wrong)
    return [(path, other) for _, path, other in entries]


def line_of(path: str, label: str) -> str | None:
    """A line of a list that reads back as what was written.

    Args:
        path: of the clip.
        label: number or name.

    Returns:
        The line without its end: fields with a space between, in quotes where they need some, else with a tab between; None
        where no line can hold them (line breaks, a tab, both kinds of quotes with spaces at the ends, no text in UTF-8).
    """
    spaced = [
        (path, label),
        (f'"{path}"', label),
        (path, f'"{label}"'),
        (f'"{path}"', f'"{label}"'),
        (f"'{path}'", label),
    ]
    for text in [*(f"{first} {second}" for first, second in spaced), f"{path}\t{label}"]:
        if text.splitlines() == [text] and _fields(text.strip()) == [path, label] and not text.startswith("\ufeff"):
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                return None
            return text
    return None


def _entries(file: Path, wrong: list[str], second: str = "label") -> list[tuple[int, str, str]]:
    """Line number, path, label of each line that is not empty."""
    entries = []
    for line, text in enumerate(text_lines(file), start=1):
        if not text.strip():
            continue
        fields = _fields(text.strip())
        if len(fields) == 2 and all(fields):
            entries.append((line, fields[0], fields[1]))
        else:
            hint = "separate them by a space or a tab" if len(fields) < 2 else "put a path with spaces in quotes"
            wrong.append(
                f"{file}:{line}: {len(fields)} field{'s' * (len(fields) != 1)} instead of a path and a {second}, {hint}"
            )
    return entries


def _fields(text: str) -> list[str]:
    if "\t" in text:
        return [part.strip() for part in text.split("\t")]
    if '"' not in text and not text.startswith("'"):  # shlex would take long for the same
        return [part for part in _BLANKS.split(text) if part]
    # Backslashes stay what they are: a path may have them.
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    # An apostrophe inside a name is no quotation mark.
    lexer.quotes = '"' if not text.startswith("'") else "'"
    try:
        return list(lexer)
    except ValueError:
        return text.split()


def _names(texts: list[str]) -> list[str]:
    if not all(text.isascii() and text.isdigit() for text in texts):
        below = sorted({text for text in texts if _BELOW.fullmatch(text)})
        if below and all(text.lstrip("-").isdigit() for text in texts):
            raise DataError(
                f"label ({', '.join(below[:10])}) must be a number from 0, as all others are, or a name. Leave clips without a "
                "label out of the lists, or name the classes."
            )
        return sorted(set(texts))
    # By length first: Python refuses to read numbers of thousands of digits.
    highest = max((text.lstrip("0") or "0" for text in texts), key=lambda text: (len(text), text))
    if len(highest) > len(str(MAX_LABELS)) or int(highest) >= MAX_LABELS:
        shown = highest if len(highest) <= 20 else f"{highest[:20]}..."
        raise DataError(f"label ({shown}) must be below {MAX_LABELS}, counted from 0.")
    return [str(label) for label in range(int(highest) + 1)]


def _raise_wrong(wrong: list[str]) -> None:
    if wrong:
        lines = "\n".join(f"  {line}" for line in wrong)
        raise DataError(
            f"list files ({len(wrong)} line{'s' * (len(wrong) > 1)}) must be usable, but these are not:\n{lines}"
        )
