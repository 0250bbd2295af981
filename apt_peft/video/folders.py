"""A folder per class, or train, val and test folders of these -> clips."""

import os
from pathlib import Path

from ..errors import DataError
from .clip import SPLIT_NAMES, VIDEO_SUFFIXES, Clip, DataSplits, unknown_labels


def read_folders(root: Path, names: list[str] | None) -> DataSplits:
    """Read clips from folders named after their classes.

    Hidden files and files without a video's suffix are left out. Videos may lie in folders inside a class's folder. Links
    are followed; a video whose link is broken counts as a video, so that looking for unreadable ones finds it.

    Args:
        root: the data folder.
        names: of the classes, or None for the sorted names of the folders.

    Returns:
        The clips; a folder without split folders is all training clips.

    Raises:
        DataError: no videos, videos outside any class, two folders for one split, broken links that may have been folders,
            or classes that `names` lacks.
    """
    folders = _visible_folders(root)
    # A class may be called "test": it is a split only if classes lie in it.
    splits = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    if not any(_visible_folders(folder) for folder in splits):
        splits = []
    ignored: list[str] = []
    if splits:
        others = [folder.name for folder in folders if folder not in splits and any(_videos(folder, []))]
        if others:
            raise DataError(
                f"data ({root}) must have split folders or class folders, but it has both: {[s.name for s in splits]} and "
                f"{others}. Move the classes into the split folders."
            )
        by_split = [(SPLIT_NAMES[folder.name.lower()], folder) for folder in splits]
        taken = [split for split, _ in by_split]
        if len(set(taken)) < len(taken):
            raise DataError(
                f"data ({root}) must have one folder for each split, but {[s.name for s in splits]} are two of one. "
                "Keep one of them."
            )
    else:
        by_split = [("train", root)]
    loose = [video for base in dict.fromkeys([root, *(folder for _, folder in by_split)]) for video in _loose(base)]
    if loose:
        raise DataError(
            f"data ({root}) must have every video in the folder of its class, but these lie outside: {_listed(loose)}. "
            "Move them, or give list files."
        )
    found = {
        split: {folder.name: _videos(folder, ignored) for folder in _visible_folders(base)} for split, base in by_split
    }
    entries = {*root.iterdir(), *(entry for _, base in by_split for entry in _files(base, []))}
    broken = [str(entry) for entry in sorted(entries) if not entry.suffix and _is_broken(entry)]
    if broken:
        raise DataError(
            f"data ({root}) must have whole links, but these lead nowhere and may have been folders of videos: "
            f"{_listed(broken)}. Repair or remove them."
        )
    classes = {name for by_class in found.values() for name, videos in by_class.items() if videos}
    if not classes:
        raise DataError(
            f"data ({root}) must have a folder of videos for each class, but there are no videos in it. "
            f"Known suffixes: {' '.join(sorted(VIDEO_SUFFIXES))}."
        )
    for base in (folder for _, folder in by_split):
        ignored += [
            f"{folder} (a folder without videos)" for folder in _visible_folders(base) if folder.name not in classes
        ]
    if names is None:
        names = sorted(classes)
    elif classes - set(names):
        raise unknown_labels(classes - set(names), names)
    number = {name: label for label, name in enumerate(names)}
    result = DataSplits(labels=names, ignored=sorted(ignored))
    for split, by_class in found.items():
        clips = [Clip(video, number[name]) for name, videos in sorted(by_class.items()) for video in videos]
        setattr(result, split, clips)
    nested = {
        name: sorted({video.relative_to(base / name).parts[0] for video in videos})
        for split, base in by_split
        for name, videos in found[split].items()
        if videos and not _loose(base / name)
    }
    if nested:
        name, inner = next(iter(nested.items()))
        result.warnings.append(
            f"Class folders with no videos of their own, only folders of videos: {_listed(list(nested))} (in {name}: "
            f"{_listed(inner)}). If those are the classes, give the folder that they lie in as the data."
        )
    return result


def _visible_folders(folder: Path) -> list[Path]:
    """Folders right in a folder; a link back to it or to what holds it is none."""
    above = _with_parents(folder)
    entries = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return [entry for entry in entries if os.path.realpath(entry) not in above]


def _with_parents(folder: Path) -> set[str]:
    real = Path(os.path.realpath(folder))
    return {str(real), *map(str, real.parents)}


def _loose(folder: Path) -> list[str]:
    """Videos right in a folder that should have folders only."""
    return [str(entry) for entry in sorted(folder.iterdir()) if _is_video(entry) and not entry.name.startswith(".")]


def _videos(folder: Path, ignored: list[str]) -> list[Path]:
    """Videos in a folder and below it, sorted; other visible files go to `ignored`."""
    videos = []
    for entry in _files(folder, ignored):
        if _is_video(entry):
            videos.append(entry)
        elif entry.is_file():
            ignored.append(str(entry))
        elif _is_broken(entry):
            ignored.append(f"{entry} (a broken link)")
    return videos


def _files(folder: Path, ignored: list[str]) -> list[Path]:
    """All visible entries in a folder and below it that are no folders, sorted; each folder is read once."""
    entries: list[Path] = []
    seen = _with_parents(folder)
    for place, folders, files in os.walk(folder, followlinks=True):
        entries += [Path(place, name) for name in files if not name.startswith(".")]
        # Links may lead back up, so that following them would never end.
        inner = {name: os.path.realpath(Path(place, name)) for name in sorted(folders) if not name.startswith(".")}
        folders.clear()
        for name, real in inner.items():
            if real in seen:
                ignored.append(f"{Path(place, name)} (a folder that is read under another name)")
            else:
                seen.add(real)
                folders.append(name)
    return sorted(entries)


def _is_broken(path: Path) -> bool:
    return path.is_symlink() and not path.exists() and not path.name.startswith(".")


def _is_video(path: Path) -> bool:
    return is_video_name(path) and (path.is_file() or _is_broken(path))


def is_video_name(path: Path) -> bool:
    """Whether a file's suffix is a video's."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
