"""UCF101: `UCF-101/Archery/v_Archery_g01_c01.avi` and `ucfTrainTestlist` with classInd.txt, trainlist01.txt, testlist01.txt.

Source: the set's own archives; what tools of other projects accept was read off torchvision's `UCF101` and MMAction2's tools.
"""

import re
from pathlib import Path

from ...errors import DataError
from ..lists import text_lines
from .listing import Entry, Listing, raise_wrong
from .places import ByName, annotation_files, plain, video_files

TITLE = "UCF101"
_LINE = re.compile(r"(?P<folder>[^/\\]+)[/\\](?P<name>.+?)(?:\s+(?P<label>\d+))?")
_NAME = re.compile(r"v_(.+)_g(\d+)_c\d+", re.IGNORECASE)


def find(root: Path) -> Path | None:
    """The folder of the lists, where a data folder has one.

    Args:
        root: the data folder.

    Returns:
        The folder, or None.
    """
    for file in annotation_files(root, r"classInd\.txt"):
        if any(re.fullmatch(r"(train|test)list0[1-3]\.txt", other.name, re.I) for other in file.parent.iterdir()):
            return file.parent
    return None


def read(root: Path, lists: Path, split_number: int) -> Listing:
    """What the lists of one split say.

    Args:
        root: the data folder.
        lists: the folder of the lists.
        split_number: 1, 2 or 3.

    Returns:
        Training and test videos.

    Raises:
        DataError: a list is missing, or a line cannot be used.
    """
    by_name = {file.name.casefold(): file for file in lists.iterdir()}
    files = {split: f"{split}list{split_number:02}.txt" for split in ("train", "test")}
    absent = [name for name in files.values() if name not in by_name]
    if absent:
        raise DataError(
            f"split_number ({split_number}) must be one whose lists are there, but {lists} has no {' and no '.join(absent)}. "
            "Choose another one, or download the lists anew."
        )
    wrong: list[str] = []
    numbers = _classes(by_name["classind.txt"], wrong)
    by_plain = {plain(name): name for name in numbers}
    videos = ByName(video_files(root))
    entries = []
    for split, file in files.items():
        for line, text in enumerate(text_lines(by_name[file]), 1):
            if not text.strip():
                continue
            where, found = f"{by_name[file]}:{line}", _LINE.fullmatch(text.strip())
            if found is None:
                wrong.append(f"{where}: {text.strip()!r} instead of Class/video.avi")
                continue
            folder, name, number = found["folder"], found["name"], found["label"]
            label = by_plain.get(plain(folder))
            if label is None:
                wrong.append(f"{where}: {folder} is no class of classInd.txt")
            elif number is not None and int(number) != numbers[label]:
                wrong.append(f"{where}: label {number}, but {label} is {numbers[label]} in classInd.txt")
            else:
                exact, loose = videos.exact(folder, name), videos.loose(folder, name)
                entries.append(Entry(split, where, label, f"{folder}/{name}", tuple(exact), tuple(loose)))
    raise_wrong(TITLE, wrong)
    return Listing(list(numbers), entries)


def group(path: Path) -> str | None:
    """The video that a clip was cut from: clips of a group (`g01`) of a class show one person in one place.

    Args:
        path: of the clip.

    Returns:
        Class and group; None for a name of another kind.
    """
    found = _NAME.fullmatch(path.stem)
    return f"{found[1].casefold()}_g{found[2]}" if found else None


def _classes(file: Path, wrong: list[str]) -> dict[str, int]:
    """Name -> number as it is written, in the order of the numbers."""
    found: dict[str, int] = {}
    for line, text in enumerate(text_lines(file), 1):
        number, _, name = text.strip().partition(" ")
        if number.isascii() and number.isdigit() and len(number) < 6 and name.strip():
            found[name.strip()] = int(number)
        elif text.strip():
            wrong.append(f"{file}:{line}: {text.strip()!r} instead of a number and a class")
    doubled = len(set(found.values())) < len(found)
    if doubled:
        wrong.append(f"{file}: a number stands before several classes")
    return dict(sorted(found.items(), key=lambda item: item[1]))
