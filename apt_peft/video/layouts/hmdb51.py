"""HMDB51: `hmdb51_org/brush_hair/*.avi` and `testTrainMulti_7030_splits/brush_hair_test_split1.txt`.

Source: the set's own archives; what tools of other projects accept was read off torchvision's `HMDB51` and MMAction2's tools.
"""

import re
from pathlib import Path

from ...errors import DataError
from ..lists import text_lines
from .listing import Entry, Listing, raise_wrong
from .places import ByName, annotation_files, video_files

TITLE = "HMDB51"
_LIST = re.compile(r"(?P<label>.+)_test_split(?P<number>[1-3])\.txt", re.IGNORECASE)
_TAGS = {"0": None, "1": "train", "2": "test"}
# Source and class, then: part of the body, camera moving or not, people, direction, quality, number.
_NAME = re.compile(r"(.+)_[fhlu]_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+", re.IGNORECASE)


def find(root: Path) -> Path | None:
    """The folder of the lists, where a data folder has one.

    Args:
        root: the data folder.

    Returns:
        The folder, or None.
    """
    files = annotation_files(root, _LIST.pattern)
    return files[0].parent if files else None


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
    found = [(match, file) for file in sorted(lists.iterdir()) if (match := _LIST.fullmatch(file.name))]
    labels = sorted({match["label"] for match, _ in found})
    files = {match["label"]: file for match, file in found if int(match["number"]) == split_number}
    absent = [f"{label}_test_split{split_number}.txt" for label in labels if label not in files]
    if absent:
        shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        raise DataError(
            f"split_number ({split_number}) must be one whose lists are there for every class, but {lists} lacks {shown}. "
            "Choose another one, or download the lists anew."
        )
    videos = ByName(video_files(root))
    wrong: list[str] = []
    entries = []
    for label in labels:
        for line, text in enumerate(text_lines(files[label]), 1):
            if not text.strip():
                continue
            where = f"{files[label]}:{line}"
            name, _, tag = text.strip().rpartition(" ")
            if tag not in _TAGS or not name.strip():
                wrong.append(f"{where}: {text.strip()!r} instead of a video and 0, 1 or 2")
            elif (split := _TAGS[tag]) is not None:
                name = name.strip()
                exact, loose = videos.exact(label, name), videos.loose(label, name)
                entries.append(Entry(split, where, label, f"{label}/{name}", tuple(exact), tuple(loose)))
    raise_wrong(TITLE, wrong)
    return Listing(labels, entries)


def group(path: Path) -> str | None:
    """The video that a clip was cut from: what stands before the class in its name, in whatever class it is used.

    Args:
        path: of the clip, in the folder of its class.

    Returns:
        The source's name; None for a name of another kind.
    """
    found = _NAME.fullmatch(path.stem)
    return found[1].removesuffix(f"_{path.parent.name}") if found else None
