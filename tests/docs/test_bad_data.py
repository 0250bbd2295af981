"""Data folders and lists that cannot be used: the rows of docs/errors.md. No video is opened for any of them."""

from pathlib import Path

import pytest
from helpers import raises_exactly

from apt_peft import DataError
from apt_peft.video import read_data
from apt_peft.video.clip import VIDEO_SUFFIXES


@pytest.fixture
def data(tmp_path) -> Path:
    """Two classes of files that are videos by their names."""
    for name in ("jump", "sit"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.mp4").touch()
    return tmp_path / "data"


def test_no_folder(tmp_path):
    with raises_exactly(
        DataError,
        f"data ({tmp_path / 'no'}) must be a folder of videos, but there is no such folder. For a data set on the Hugging "
        "Face Hub write hf://datasets/OWNER/NAME.",
    ):
        read_data(tmp_path / "no")


def test_no_videos(tmp_path):
    (tmp_path / "jump").mkdir()
    (tmp_path / "jump" / "notes.txt").touch()
    with raises_exactly(
        DataError,
        f"data ({tmp_path}) must have a folder of videos for each class, but there are no videos in it. Known suffixes: "
        f"{' '.join(sorted(VIDEO_SUFFIXES))}.",
    ):
        read_data(tmp_path)


def test_videos_outside_of_classes(data):
    (data / "loose.mp4").touch()
    with raises_exactly(
        DataError,
        f"data ({data}) must have every video in the folder of its class, but these lie outside: {data / 'loose.mp4'}. "
        "Move them, or give list files.",
    ):
        read_data(data)


def test_classes_beside_splits(data):
    (data / "train" / "jump").mkdir(parents=True)
    (data / "train" / "jump" / "b.mp4").touch()
    (data / "sit" / "a.mp4").unlink()
    with raises_exactly(
        DataError,
        f"data ({data}) must have split folders or class folders, but it has both: ['train'] and ['jump']. "
        "Move the classes into the split folders.",
    ):
        read_data(data)


def test_lines_of_a_list(data):
    file = data.parent / "train.txt"
    file.write_text("jump/a.mp4 jump\njump/with a space.mp4 jump\nsit/a.mp4\nsit/gone.mp4 sit\n")
    with raises_exactly(
        DataError,
        "list files (2 lines) must be usable, but these are not:\n"
        f"  {file}:2: 4 fields instead of a path and a label, put a path with spaces in quotes\n"
        f"  {file}:3: 1 fields instead of a path and a label, separate them by a space or a tab",
    ):
        read_data(data, train_list=file)
    file.write_text("jump/a.mp4 jump\nsit/gone.mp4 sit\njump/gone.mp4 jump\nsit/a.mp4 2\n")
    with raises_exactly(
        DataError,
        "list files (3 lines) must be usable, but these are not:\n"
        f"  {file}:2: there is no file {data / 'sit/gone.mp4'}\n"
        f"  {file}:3: there is no file {data / 'jump/gone.mp4'}\n"
        f"  {file}:4: label '2' is not among the 2 labels",
    ):
        read_data(data, train_list=file, labels=["jump", "sit"])


def test_lists_that_are_not_there(data):
    with raises_exactly(
        DataError, f"list files ({data / 'a.txt'}, {data / 'b.txt'}) must exist, but there are no such files."
    ):
        read_data(data, train_list=data / "a.txt", test_list=data / "b.txt")


def test_labels_named_twice(data):
    (data / "labels.txt").write_text("jump\nsit\nsit\n")
    with raises_exactly(
        DataError,
        f"labels ({data / 'labels.txt'}) must name each class once, but these stand there more than once: ['sit'].",
    ):
        read_data(data)


def test_classes_without_a_name(data):
    (data / "wave").mkdir()
    (data / "wave" / "a.mp4").touch()
    with raises_exactly(DataError, "classes (['wave']) must be among the labels, but these are ['jump', 'sit']."):
        read_data(data, labels=["jump", "sit"])
