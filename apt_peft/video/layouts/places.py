"""Where the annotations of a data set may lie, and its videos by their names."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..clip import VIDEO_SUFFIXES

# Names of folders for annotations: `ucfTrainTestlist`, `testTrainMulti_7030_splits`, `labels`, `annotations`, `metafile`.
_ANNOTATIONS = re.compile("anno|label|list|split|meta|csv|kinetics", re.IGNORECASE)


def annotation_folders(root: Path) -> list[Path]:
    """Folders in which annotations may lie: the root, its folders and, by their names, those one level below.

    Args:
        root: of the data set.

    Returns:
        Folders from the top down, each level sorted.
    """
    folders = _folders(root)
    inner = [inner for folder in folders for inner in _folders(folder, _ANNOTATIONS)]
    return [root, *folders, *inner]


def annotation_files(root: Path, pattern: str) -> list[Path]:
    """Files of annotations by their names.

    Args:
        root: of the data set.
        pattern: regular expression for the whole name, in any case.

    Returns:
        The files, those of a folder sorted.
    """
    matches = re.compile(pattern, re.IGNORECASE)
    found = []
    for folder in annotation_folders(root):
        if folder == root or _ANNOTATIONS.search(folder.name):
            with os.scandir(folder) as entries:
                found += sorted(Path(e.path) for e in entries if matches.fullmatch(e.name) and e.is_file())
    return found


def video_files(root: Path) -> Iterator[Path]:
    """All videos below a folder by their suffixes, links followed, each folder once, hidden ones left out.

    Args:
        root: the folder.

    Yields:
        Paths, sorted by folder and name.
    """
    seen = {os.path.realpath(root)}
    for place, folders, files in os.walk(root, followlinks=True):
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(place, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith("."):
                yield Path(place, name)


def plain(name: str) -> str:
    """What is left of a name that tools change: small letters and digits, all other marks as one `_`.

    Args:
        name: of a class, a folder or a file.

    Returns:
        `massaging_person_s_head` for `Massaging person's head`.
    """
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


class ByName:
    """Videos of class folders, found by the names of class and file.

    Args:
        files: videos, each right in the folder of its class or one below it.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._exact: dict[tuple[str, str], list[Path]] = {}
        self._plain: dict[tuple[str, str], list[Path]] = {}
        for file in files:
            for folder in {file.parent.name, file.parent.parent.name}:
                self._exact.setdefault((folder, file.name), []).append(file)
                self._plain.setdefault((plain(folder), plain(file.stem)), []).append(file)

    def exact(self, folder: str, name: str) -> list[Path]:
        """The files of just this name.

        Args:
            folder: of the class.
            name: of the file.

        Returns:
            Files; several where the set lies there twice.
        """
        return self._exact.get((folder, name), [])

    def loose(self, folder: str, name: str) -> list[Path]:
        """The files of this name without regard to suffix, case and marks (`#`, `&`, spaces), which unpacking tools change.

        Args:
            folder: of the class.
            name: of the file.

        Returns:
            Files.
        """
        return self._plain.get((plain(folder), plain(Path(name).stem)), [])


def _folders(folder: Path, pattern: re.Pattern | None = None) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            found = [
                entry.path
                for entry in entries
                if not entry.name.startswith(".") and (pattern is None or pattern.search(entry.name)) and entry.is_dir()
            ]
    except OSError:  # a folder that may not be looked into holds no annotations for us
        return []
    return [Path(path) for path in sorted(found)]
