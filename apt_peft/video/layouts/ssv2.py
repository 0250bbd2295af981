"""Something-Something V2: `20bn-something-something-v2/74225.webm` and `labels` with labels.json, train.json, validation.json.

Source: the set's own archives; what tools of other projects accept was read off MMAction2's tools.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..lists import text_lines
from .listing import Entry, Listing, raise_wrong
from .places import annotation_files, video_files

TITLE = "Something-Something V2"
_PREFIX = r"(?:something-something-v2-)?"
_FILES = {
    "labels": r"labels\.json",
    "train": r"train\.json",
    "val": r"val(?:idation)?\.json",
    "test": r"test\.json",
    "answers": r"test[-_]answers\.csv",
}


def find(root: Path) -> dict[str, Path] | None:
    """The files of annotations, where a data folder has them.

    Args:
        root: the data folder.

    Returns:
        The files by what they are: `labels`, `train`, `val`, `test`, `answers`; None without the first two.
    """
    for labels in annotation_files(root, _PREFIX + _FILES["labels"]):
        there = sorted(labels.parent.iterdir())
        found = {
            what: file
            for what, pattern in _FILES.items()
            for file in there
            if re.fullmatch(_PREFIX + pattern, file.name, re.IGNORECASE)
        }
        if "train" in found and _has_templates(found["train"]):
            return found
    return None


def read(root: Path, files: dict[str, Path], split_number: int) -> Listing:
    """What the annotations say.

    Args:
        root: the data folder.
        files: as `find` found them.
        split_number: 1, for there is one split.

    Returns:
        Training and validation videos, and test videos where their labels are there.

    Raises:
        DataError: a file or an entry cannot be used.
    """
    numbers = _labels(files["labels"])
    by_case = {name.casefold(): name for name in numbers}
    videos: dict[str, list[Path]] = {}
    for file in video_files(root):
        videos.setdefault(file.stem, []).append(file)
    wrong: list[str] = []
    entries = []

    def add(split: str, where: str, number: str, text: str) -> None:
        label = by_case.get(text.replace("[", "").replace("]", "").strip().casefold())
        if label is None:
            wrong.append(f"{where}: {text!r} is no label of {files['labels'].name}")
        else:
            entries.append(Entry(split, where, label, f"{number}.webm", tuple(videos.get(number, ()))))

    for split in ("train", "val"):
        for place, row in enumerate(_rows(files[split]) if split in files else [], 1):
            where = f"{files[split]}: entry {place}"
            text = row.get("template", row.get("label")) if isinstance(row, dict) else None
            if not isinstance(text, str) or not isinstance(row.get("id"), (str, int)):
                wrong.append(f"{where}: {str(row)[:60]!r} instead of an id and a template")
            else:
                add(split, where, str(row["id"]), text)
    for line, text in enumerate(text_lines(files["answers"]) if "answers" in files else [], 1):
        number, mark, label = text.strip().partition(";")
        if mark:
            add("test", f"{files['answers']}:{line}", number.strip(), label.strip().strip('"'))
        elif text.strip():
            wrong.append(f"{files['answers']}:{line}: {text.strip()!r} instead of an id, a semicolon and a label")
    raise_wrong(TITLE, wrong)
    warnings = []
    if "test" in files and "answers" not in files:
        warnings.append(
            f"The {len(_rows(files['test']))} test videos of {TITLE} have no labels here (test-answers.csv) and are left out."
        )
    return Listing(list(numbers), entries, warnings)


def group(path: Path) -> str | None:
    """Nothing: each clip of this set was filmed on its own.

    Args:
        path: of the clip.

    Returns:
        None.
    """
    return None


def _has_templates(file: Path) -> bool:
    with file.open("rb") as opened:
        return b'"template"' in opened.read(8192)


def _labels(file: Path) -> dict[str, int]:
    """Name -> number, in the order of the numbers."""
    table = _load(file)
    found = {str(k): int(v) for k, v in table.items() if str(v).isdecimal()} if isinstance(table, dict) else {}
    if not found or len(found) < len(table) or sorted(found.values()) != list(range(len(found))):
        raise DataError(
            f"labels ({file}) must be a table of names and their numbers 0, 1, 2, ... without gaps, but it is none. "
            "Download it anew."
        )
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _rows(file: Path) -> list[Any]:
    rows = _load(file)
    if not isinstance(rows, list):
        raise DataError(f"annotations ({file}) must be a list of videos, but they are a {type(rows).__name__}. "
                        "Download them anew.")  # fmt: skip
    return rows


def _load(file: Path) -> Any:
    try:
        return json.loads("\n".join(text_lines(file)))
    except (json.JSONDecodeError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(
            f"annotations ({os.fspath(file)}{line}) must be JSON, but: {getattr(error, 'msg', error)}. Download them anew."
        ) from None
