"""Folders, lists and data sets -> clips with labels, split into train, val and test."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import ConfigError, DataError
from .clip import SPLITS, Clip, DataSplits
from .folders import read_folders
from .groups import group_clips
from .layouts import AUTO, NONE, find_layout, read_layout
from .layouts.k400 import is_annotation
from .lists import read_lists, text_lines
from .readable import check_on_error
from .sampling import clip_generator
from .shards.read import is_shards, read_shards
from .splitting import split_groups
from .tables import HUB_PREFIX, is_table, read_table

if TYPE_CHECKING:
    import datasets

LABELS_FILE = "labels.txt"


def read_data(
    data: "str | os.PathLike | datasets.Dataset | datasets.DatasetDict",
    *,
    train_list: str | os.PathLike | None = None,
    val_list: str | os.PathLike | None = None,
    test_list: str | os.PathLike | None = None,
    labels: str | os.PathLike | Sequence[str] | None = None,
    video_column: str | None = None,
    label_column: str | None = None,
    layout: str = "auto",
    split_number: int = 1,
    on_error: str = "raise",
) -> DataSplits:
    """Find the clips of a data set; no video is opened.

    Args:
        data: a folder with a folder for each class; a folder with train, val and test folders of these; a folder that list
            files refer to (given, or named `train.csv`, `val.csv` and `test.csv` in it); a public data set as it is
            downloaded, see `layout`; a folder that `datasets` reads (saved by it, of parquet files, or a videofolder with
            metadata); `hf://datasets/OWNER/NAME`; a data set of `datasets` itself; or shards: a folder of them, or names such as
            `shards/train-{000..127}.tar`.
        train_list: file of lines `path label`, paths relative to `data`; a path with spaces stands in quotes, or a tab
            stands before the label.
        val_list: likewise.
        test_list: likewise.
        labels: names of the classes in the order of their numbers, or a file of them, one a line; None takes `labels.txt`
            in `data`, or the sorted names that occur.
        video_column: of a `datasets` data set; None finds it.
        label_column: of a `datasets` data set; None finds it.
        layout: `"ucf101"`, `"hmdb51"`, `"ssv2"` or `"k400"`: that data set with its own lists; `"auto"` knows them by these;
            `"none"` for none of them.
        split_number: which of the published splits of UCF101 and HMDB51, 1 to 3.
        on_error: `"raise"` refuses a public data set of which more than a tenth is missing, `"skip"` takes what there is.

    Returns:
        The clips of each split and the names of the classes.

    Raises:
        ConfigError: an unknown `layout`, or a split that it has not.
        DataError: nothing can be made of it; all wrong lines, files or names are listed.
        MissingExtraError: `datasets` is needed and not installed.
    """
    given = {"train": train_list, "val": val_list, "test": test_list}
    list_files = {split: Path(file) for split, file in given.items() if file is not None}
    if isinstance(data, (str, os.PathLike)) and is_shards(data) and not (list_files and os.path.isdir(data)):
        if list_files:
            raise DataError(
                f"{', '.join(f'{split}_list' for split in list_files)} must not be given with shards, whose labels are in them. "
                "Give the folder of the videos, or leave the list out."
            )
        return read_shards(data, _label_names(labels))
    if not isinstance(data, (str, os.PathLike)) or str(data).startswith(HUB_PREFIX):
        if list_files:
            raise DataError(
                f"{', '.join(f'{split}_list' for split in list_files)} must not be given with a `datasets` data set, which "
                "has its own splits. Give the folder of the videos instead."
            )
        return read_table(data, _label_names(labels), video_column, label_column)
    check_on_error(on_error)
    root = Path(data)
    if not root.is_dir():
        found = "it is a file" if root.exists() else "there is no such folder"
        raise DataError(
            f"data ({root}) must be a folder of videos, but {found}. For a data set on the Hugging Face Hub write "
            "hf://datasets/OWNER/NAME."
        )
    if labels is None and (root / LABELS_FILE).is_file():
        labels = root / LABELS_FILE
    names = _label_names(labels)
    if list_files and layout not in (AUTO, NONE):
        raise ConfigError(
            f"layout ({layout!r}) must be left out where list files are given, for it has lists of its own, but "
            f"{', '.join(f'{split}_list' for split in list_files)} was given. Choose one."
        )
    if not list_files and layout in (AUTO, NONE):
        list_files = {split: file for split in SPLITS if (file := root / f"{split}.csv").is_file()}
        # Kinetics' own lists have these names too.
        list_files = {split: file for split, file in list_files.items() if layout == NONE or not is_annotation(file)}
    if list_files:
        return read_lists(root, list_files, names)
    if (public := find_layout(root, layout)) is not None:
        return read_layout(root, *public, names, split_number=split_number, on_error=on_error)
    if is_table(root):
        return read_table(root, names, video_column, label_column)
    return read_folders(root, names)


def _label_names(labels: str | os.PathLike | Sequence[str] | None) -> list[str] | None:
    """The names of the classes, checked."""
    if labels is None:
        return None
    if isinstance(labels, (str, os.PathLike)):
        path = Path(labels)
        if not path.is_file():
            raise DataError(
                f"labels ({path}) must be a file with the name of one class a line, but there is no such file."
            )
        names = [line.strip() for line in text_lines(path) if line.strip()]
        where = str(path)
    else:
        names, where = [str(name) for name in labels], "as given"
    doubled = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if doubled:
        raise DataError(f"labels ({where}) must name each class once, but these stand there more than once: {doubled}.")
    if not names:
        raise DataError(f"labels ({where}) must name the classes, but there is no name.")
    return names


def stratified_split(clips: Sequence[Clip], fraction: float, seed: int = 0) -> tuple[list[Clip], list[Clip]]:
    """Hold out a part of every class.

    Every class with two clips or more gives at least one and keeps at least one; a class with a single clip keeps it.

    Args:
        clips: labelled clips.
        fraction: part to hold out, above 0 and below 1.
        seed: of the choice; the same seed, clips and order give the same split.

    Returns:
        Clips to keep and clips held out, both in the given order.

    Raises:
        ConfigError: `fraction` is out of its range.
        DataError: no class has two clips.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"fraction ({fraction}) must be above 0 and below 1.")
    by_label: dict[int | None, list[int]] = {}
    for place, clip in enumerate(clips):
        by_label.setdefault(clip.label, []).append(place)
    held: set[int] = set()
    for label, places in by_label.items():
        count = min(max(round(len(places) * fraction), 1), len(places) - 1)
        order = torch.randperm(len(places), generator=clip_generator(seed, 0, -1 if label is None else label))
        held.update(places[place] for place in order[:count].tolist())
    if not held:
        raise nothing_to_hold_out(len(clips), "clips")
    return (
        [clip for place, clip in enumerate(clips) if place not in held],
        [clip for place, clip in enumerate(clips) if place in held],
    )


def hold_out(
    clips: Sequence[Clip],
    fraction: float,
    seed: int = 0,
    *,
    root: str | os.PathLike,
    layout: str | None = None,
    group_by: str = "auto",
) -> tuple[list[Clip], list[Clip]]:
    """Hold out a part of every class, and no part of a video where it is known which clips were cut from one.

    Args:
        clips: labelled clips.
        fraction: part to hold out, above 0 and below 1.
        seed: of the choice.
        root: the data folder.
        layout: name of the public data set that the clips lie as, if any.
        group_by: which clips were cut from one video, see `group_clips`.

    Returns:
        Clips to keep and clips held out, both in the given order; as `stratified_split` where nothing tells.

    Raises:
        ConfigError: `fraction` is out of its range, or `group_by` does not fit.
        DataError: no class has clips of two videos.
    """
    return hold_out_groups(clips, group_clips(clips, root, group_by=group_by, layout=layout)[0], fraction, seed)


def hold_out_groups(
    clips: Sequence[Clip], groups: Sequence[str], fraction: float, seed: int = 0
) -> tuple[list[Clip], list[Clip]]:
    """`hold_out` of clips whose groups are known.

    Args:
        clips: labelled clips.
        groups: of each.
        fraction: part to hold out, above 0 and below 1.
        seed: of the choice.

    Returns:
        As `hold_out`.

    Raises:
        ConfigError: `fraction` is out of its range.
        DataError: no class has clips of two groups.
    """
    if len(set(groups)) == len(clips):
        return stratified_split(clips, fraction, seed)
    if not 0 < fraction < 1:
        raise ConfigError(f"fraction ({fraction}) must be above 0 and below 1.")
    labels = [clip.label for clip in clips]
    if len(set(zip(groups, labels, strict=True))) == len(set(labels)):
        raise nothing_to_hold_out(len(clips), "videos")
    parts = split_groups(groups, labels, (1 - fraction, fraction), seed=seed)
    kept, held = ([clip for clip, part in zip(clips, parts, strict=True) if part == wanted] for wanted in (0, 1))
    return kept, held


def nothing_to_hold_out(count: int, what: str) -> DataError:
    """The error of a set of which no part can be held out.

    Args:
        count: of clips.
        what: `clips` or `videos`, of which a class must have two.

    Returns:
        The error, to be raised.
    """
    other = "" if what == "clips" else " (clips of one video stay together)"
    return DataError(
        f"clips ({count}) must have a class with two {what} or more to hold a part out{other}, but no class has. "
        "Give validation clips instead."
    )
