"""Kinetics-400 (also 600 and 700): `annotations/train.csv` and `train/ID_000010_000020.mp4`, in class folders or flat.

Source: the archives and lists of the CVDF's download, https://github.com/cvdfoundation/kinetics-dataset; what tools of other
projects accept was read off torchvision's `Kinetics` and MMAction2's tools.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import DataError
from ..clip import SPLIT_NAMES
from ..lists import text_lines
from .listing import Entry, Listing, raise_wrong
from .places import annotation_files, plain, video_files

TITLE = "Kinetics"
_SPLITS = SPLIT_NAMES | {"validate": "val"}
_COLUMNS = ("youtube_id", "time_start", "time_end")
# YouTube's names have 11 letters, digits, - and _; a file may have lost the times, or the zeros in them.
_NAME = re.compile(r"(?P<id>[\w-]{11})(?:_(?P<start>\d{1,7})(?:_(?P<end>\d{1,7}))?)?", re.ASCII)
_TIMED = re.compile(r"(?P<id>[\w-]{11})_\d{6}_\d{6}", re.ASCII)


def is_annotation(file: Path) -> bool:
    """Whether a file is a list of this set by its first line.

    Args:
        file: any file.

    Returns:
        True where the columns are named there.
    """
    with file.open("rb") as opened:
        first = opened.read(1024).split(b"\n")[0].decode("utf-8", "replace")
    return set(_COLUMNS) <= {name.strip().strip('"').casefold() for name in first.lstrip("\ufeff").split(",")}


def find(root: Path) -> list[Path] | None:
    """The lists, where a data folder has some.

    Args:
        root: the data folder.

    Returns:
        The files, or None.
    """
    return [file for file in annotation_files(root, r".+\.csv") if is_annotation(file)] or None


def read(root: Path, files: list[Path], split_number: int) -> Listing:
    """What the lists say.

    Args:
        root: the data folder.
        files: the lists.
        split_number: 1, for there is one split.

    Returns:
        Training, validation and test videos, as far as they have labels.

    Raises:
        DataError: a line cannot be used.
    """
    wrong: list[str] = []
    rows: dict[tuple[str, str, int, int], tuple[str, str]] = {}
    unlabelled: dict[Path, int] = {}
    for file in files:
        for where, row in _rows(file):
            split = _SPLITS.get(row.get("split", "").casefold()) or _split_of(file)
            label = row.get("label", "").replace('"', "")
            try:
                start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
            except (KeyError, ValueError, OverflowError):
                wrong.append(f"{where}: time_start and time_end must be seconds")
                continue
            if split is None or not row["youtube_id"]:
                wrong.append(f"{where}: {'no split train, val or test' if row['youtube_id'] else 'no youtube_id'}")
            elif not label:
                unlabelled[file] = unlabelled.get(file, 0) + 1
            else:
                known = rows.setdefault((split, row["youtube_id"], start, end), (label, where))
                if known[0] != label:
                    wrong.append(f"{where}: {row['youtube_id']} is {label!r}, but {known[0]!r} in {known[1]}")
    raise_wrong(TITLE, wrong)
    by_stem: dict[str, list[Path]] = {}
    by_id: dict[str, list[tuple[Path, int | None]]] = {}
    for file in video_files(root):
        by_stem.setdefault(file.stem, []).append(file)
        if found := _NAME.fullmatch(file.stem):
            by_id.setdefault(found["id"], []).append((file, int(found["start"]) if found["start"] else None))
    entries = []
    for (split, youtube, start, end), (label, where) in rows.items():
        stem = f"{youtube}_{start:06}_{end:06}"
        exact = _best(by_stem.get(stem, []), root, split, label)
        loose = _best([f for f, at in by_id.get(youtube, []) if at in (None, start)], root, split, label)
        entries.append(Entry(split, where, label, f"{stem}.mp4", tuple(exact), tuple(loose)))
    warnings = [f"{count} videos of {file.name} have no label and are left out." for file, count in unlabelled.items()]
    return Listing(sorted({label for label, _ in rows.values()}), entries, warnings)


def group(path: Path) -> str | None:
    """The video that a clip was cut from: its name at YouTube.

    Args:
        path: of the clip.

    Returns:
        The name; None for a name of another kind.
    """
    found = _TIMED.fullmatch(path.stem)
    return found["id"] if found else None


def _rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """File and line, and the texts by column."""
    reader = csv.reader(text_lines(file))
    header = [name.strip().casefold() for name in next(reader, [])]
    try:
        for values in reader:
            if any(value.strip() for value in values):
                row = dict(zip(header, (value.strip() for value in values), strict=False))
                yield f"{file}:{reader.line_num}", {"youtube_id": ""} | row
    except csv.Error as error:
        raise DataError(f"list ({file}:{reader.line_num}) must be csv, but: {error}. Download it anew.") from None


def _split_of(file: Path) -> str | None:
    words = [_SPLITS[word] for word in plain(file.stem).split("_") if word in _SPLITS]
    return words[0] if words else None


def _best(files: list[Path], root: Path, split: str, label: str) -> list[Path]:
    """Of several copies that which is meant: a replacement of a damaged one, then by folders of split and class, then mp4."""
    if len(files) < 2:
        return files

    def rank(file: Path) -> tuple[bool, ...]:
        folders = [plain(part) for part in file.relative_to(root).parts[:-1]]
        words = {_SPLITS.get(word) for folder in folders for word in folder.split("_")}
        replaces = any(folder.startswith("replacement") for folder in folders)
        return (not replaces, split not in words, plain(label) not in folders, file.suffix.lower() != ".mp4")

    ranks = {file: rank(file) for file in files}
    best = min(ranks.values())
    return [file for file in files if ranks[file] == best]
