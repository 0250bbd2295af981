"""Labels compared with names of files and folders: a clip called `wave_3.mp4` among the jumps."""

import os
import re
from collections.abc import Sequence
from pathlib import PurePath

# Shorter names of classes, and numbers, occur in names of files for other reasons.
_SHORTEST = 3


class ClassNames:
    """The classes that a file's or folder's name may name.

    Words count, however they are joined: `v_HandStandPushups_g01` names `HandstandPushups`, `jumping` does not name `jump`. Where
    one class's name is contained in another's (`jump`, `jump rope`), the longer one is meant.

    Args:
        labels: names of the classes, by label.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels: dict[str, list[int]] = {}
        self._words = 1
        for label, name in enumerate(labels):
            words = _words(name)
            joined = "".join(words)
            if len(joined) >= _SHORTEST and not joined.isdigit():
                self._labels.setdefault(joined, []).append(label)
                self._words = max(self._words, len(words))

    def named_in(self, name: str) -> set[int]:
        """Labels of the classes that a name names.

        Args:
            name: of a file without its suffix, or of a folder.
        """
        words = _words(name)
        # Camel case splits a name finer than its class may be written, so runs may be longer than the longest class.
        found = [
            (start, end, self._labels[joined])
            for start in range(len(words))
            for end in range(start + 1, min(len(words), start + 2 * self._words + 2) + 1)
            if (joined := "".join(words[start:end])) in self._labels
        ]
        longest = [
            labels
            for start, end, labels in found
            if not any(s <= start and end <= e and (s, e) != (start, end) for s, e, _ in found)
        ]
        return {label for labels in longest for label in labels}


def contradiction(path: str, root: str, label: int, names: ClassNames) -> tuple[str, set[int]] | None:
    """The part of a path that names other classes than the clip's.

    Args:
        path: of the file.
        root: the folder below which names count.
        label: of the clip.
        names: of the classes.

    Returns:
        The name of the file or of a folder, the lowest first, and the labels of the classes that it names; None where none
        does, or where that name, or the file's, names the clip's class too.
    """
    inside = PurePath(os.path.relpath(path, root))
    parts = [inside.stem, *reversed(inside.parts[:-1])]
    for part in parts:
        named = names.named_in(part)
        if label in named:
            return None
        if named:
            return part, named
    return None


def common_root(paths: Sequence[str]) -> str:
    """The folder that all files lie below; of one file its folder's folder, for a folder's name counts."""
    folders = {os.path.dirname(path) for path in paths}
    root = os.path.commonpath(folders) if folders else ""
    return os.path.dirname(root) if len(folders) == 1 else root


def _words(name: str) -> list[str]:
    """Words and numbers of a name in small letters: split at what is neither, at digits, and at camel case."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+", name)
    return [part.lower() for part in parts]
