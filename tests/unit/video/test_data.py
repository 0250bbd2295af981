"""Folders and lists become clips; whatever is wrong with them is said at once."""

from pathlib import Path

import pytest
from clips import write_classes
from helpers import raises_exactly

from apt_peft.errors import ConfigError, DataError
from apt_peft.video import Clip, DataSplits, audit, read_data, stratified_split

SUFFIXES = ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv"


def touch(root: Path, *names: str) -> Path:
    """Empty files: no video is opened while clips are looked for."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(clips: list[Clip], root: Path) -> list[tuple[str, int | None]]:
    return [(Path(clip.source).relative_to(root).as_posix(), clip.label) for clip in clips]


def test_a_folder_for_each_class(tmp_path):
    touch(tmp_path, "wave/b.mp4", "wave/a.AVI", "jump/deep/c.mkv", "jump/.hidden.mp4", "jump/notes.txt", ".git/x/y.mp4")
    (tmp_path / "empty").mkdir()
    splits = read_data(tmp_path)
    assert splits.labels == ["jump", "wave"]
    assert splits.id2label == {0: "jump", 1: "wave"}
    assert found(splits.train, tmp_path) == [("jump/deep/c.mkv", 0), ("wave/a.AVI", 1), ("wave/b.mp4", 1)]
    assert splits.items() == [("train", splits.train)]
    assert splits.ignored == [str(tmp_path / "empty") + " (a folder without videos)", str(tmp_path / "jump/notes.txt")]


def test_links_are_followed(tmp_path):
    """Linked videos and folders count; each folder is read once, so that a link back up ends."""
    touch(tmp_path / "store", "1.mp4", "deep/2.mp4")
    data = touch(tmp_path / "data", "wave/own.mp4", "jump/3.mp4")
    (data / "wave" / "more").symlink_to(tmp_path / "store", target_is_directory=True)
    (data / "wave" / "once_more").symlink_to(tmp_path / "store" / "deep", target_is_directory=True)
    (data / "wave" / "up").symlink_to(data, target_is_directory=True)
    (data / "again").symlink_to(data, target_is_directory=True)
    (data / "run").symlink_to(tmp_path / "store", target_is_directory=True)
    (data / "jump" / "4.mp4").symlink_to(tmp_path / "store" / "1.mp4")
    splits = read_data(data)
    assert splits.labels == ["jump", "run", "wave"]
    assert found(splits.train, data) == [
        ("jump/3.mp4", 0),
        ("jump/4.mp4", 0),
        ("run/1.mp4", 1),
        ("run/deep/2.mp4", 1),
        ("wave/more/1.mp4", 2),
        ("wave/once_more/2.mp4", 2),
        ("wave/own.mp4", 2),
    ]
    other_name = "(a folder that is read under another name)"
    assert splits.ignored == [f"{data}/wave/more/deep {other_name}", f"{data}/wave/up {other_name}"]


def test_a_video_whose_link_is_broken_is_unreadable_not_gone(tmp_path):
    data = write_classes(tmp_path, ["jump", "wave"], clips=1, num_frames=4)
    for name in ("wave/lost.mp4", "wave/notes.txt"):
        (data / name).symlink_to("gone")
    (data / "wave" / "self.mp4").symlink_to("self.mp4")
    splits = read_data(data)
    assert found(splits.train, data)[1:] == [("wave/lost.mp4", 1), ("wave/self.mp4", 1), ("wave/wave_0.mp4", 1)]
    assert splits.ignored == [f"{data}/wave/notes.txt (a broken link)"]
    report = audit(splits)
    assert [Path(file.name).name for file in report.unreadable] == ["lost.mp4", "self.mp4"]
    assert report.problems == [
        "2 of 4 videos cannot be read. Repair or remove them, or leave them out with --on-error skip."
    ]


@pytest.mark.parametrize("split", ["", "train/"])
def test_broken_links_that_may_have_been_folders(tmp_path, split):
    touch(tmp_path, f"{split}a/1.mp4", f"{split}b/2.mp4")
    links = [f"{tmp_path}/{split}{name}" for name in ("a/part", "c")]
    for link in links:
        Path(link).symlink_to("gone")
    message = (
        f"data ({tmp_path}) must have whole links, but these lead nowhere and may have been folders of videos: "
        f"{links[0]}, {links[1]}. Repair or remove them."
    )
    _fails(tmp_path, message)


def test_split_folders(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "validation/a/3.mp4", "Test/b/4.mp4", "annotations/x.json")
    splits = read_data(str(tmp_path))
    assert splits.labels == ["a", "b"]
    assert found(splits.train, tmp_path) == [("train/a/1.mp4", 0), ("train/b/2.mp4", 1)]
    assert found(splits.val, tmp_path) == [("validation/a/3.mp4", 0)]
    assert found(splits.test, tmp_path) == [("Test/b/4.mp4", 1)]


def test_a_class_may_be_called_test(tmp_path):
    touch(tmp_path, "test/1.mp4", "play/2.mp4")
    assert read_data(tmp_path).labels == ["play", "test"]


def test_labels_give_the_order(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    assert found(read_data(tmp_path, labels=["b", "c", "a"]).train, tmp_path) == [("a/1.mp4", 2), ("b/2.mp4", 0)]
    (tmp_path / "labels.txt").write_text("\ufeffb\na\n\n", encoding="utf-8")
    assert read_data(tmp_path).labels == ["b", "a"]
    assert read_data(tmp_path, labels=["a", "b"]).labels == ["a", "b"]


def test_list_files(tmp_path):
    names = ["x/1.mp4", "x/two words.mp4", "x/it's.mp4", "x/3.mp4", "x/a  b.mp4"]
    touch(tmp_path, *names)
    lines = ['"x/two words.mp4" 1', "x/it's.mp4 0", "x/3.mp4\t1", "x/a  b.mp4\t0", "", "'x/two words.mp4' 0"]
    (tmp_path / "my.csv").write_text("x/1.mp4 0\n" + "\n".join(lines))
    (tmp_path / "other.txt").write_text(f"{tmp_path}/x/1.mp4 2\n")
    splits = read_data(tmp_path, train_list=tmp_path / "my.csv", test_list=tmp_path / "other.txt")
    assert found(splits.train, tmp_path) == [
        ("x/1.mp4", 0),
        ("x/two words.mp4", 1),
        ("x/it's.mp4", 0),
        ("x/3.mp4", 1),
        ("x/a  b.mp4", 0),
        ("x/two words.mp4", 0),
    ]
    assert found(splits.test, tmp_path) == [("x/1.mp4", 2)]
    assert splits.val == []
    assert splits.labels == ["0", "1", "2"]


def test_lists_in_the_data_folder_with_names(tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "train.csv").write_text('1.mp4 wave\n2.mp4 "long jump"\n')
    (tmp_path / "val.csv").write_text("2.mp4 wave\n")
    splits = read_data(tmp_path)
    assert splits.labels == ["long jump", "wave"]
    assert found(splits.train, tmp_path) == [("1.mp4", 1), ("2.mp4", 0)]
    assert found(splits.val, tmp_path) == [("2.mp4", 1)]
    (tmp_path / "labels.txt").write_text("wave\nlong jump\n")
    assert found(read_data(tmp_path).train, tmp_path) == [("1.mp4", 0), ("2.mp4", 1)]


def test_stratified_split_holds_out_of_every_class():
    clips = [Clip(f"{index}.mp4", label) for index, label in enumerate([0] * 10 + [1] * 2 + [2])]
    kept, held = stratified_split(clips, 0.2, seed=3)
    assert [sum(clip.label == label for clip in held) for label in range(3)] == [2, 1, 0]
    assert sorted(kept + held, key=clips.index) == clips
    assert kept == sorted(kept, key=clips.index)
    assert (kept, held) == stratified_split(clips, 0.2, seed=3)
    assert any(stratified_split(clips, 0.2, seed=seed) != (kept, held) for seed in range(3))


def test_a_fingerprint_changes_with_the_file(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    first = Clip(tmp_path / "a.mp4").fingerprint()
    assert first == Clip(str(tmp_path / "a.mp4")).fingerprint()
    assert first != Clip(tmp_path / "b.mp4").fingerprint()
    (tmp_path / "a.mp4").write_bytes(b"new")
    assert first != Clip(tmp_path / "a.mp4").fingerprint()
    assert Clip(b"abc").fingerprint() == Clip(b"abc").fingerprint() != Clip(b"abd").fingerprint()


def test_a_fingerprint_of_a_file_that_is_gone(tmp_path):
    message = (
        f"video ({tmp_path}/x.mp4) must be a readable video file, but opening it failed: no such file or directory."
    )
    with raises_exactly(DataError, message):
        Clip(tmp_path / "x.mp4").fingerprint()


def _fails(root, message, **settings):
    with raises_exactly(DataError, message):
        read_data(root, **settings)


def test_no_such_folder(tmp_path):
    hub = "For a data set on the Hugging Face Hub write hf://datasets/OWNER/NAME."
    _fails(tmp_path / "x", f"data ({tmp_path}/x) must be a folder of videos, but there is no such folder. {hub}")
    touch(tmp_path, "a.mp4")
    _fails(tmp_path / "a.mp4", f"data ({tmp_path}/a.mp4) must be a folder of videos, but it is a file. {hub}")


def test_no_videos(tmp_path):
    touch(tmp_path, "a/notes.txt")
    message = (
        f"data ({tmp_path}) must have a folder of videos for each class, but there are no videos in it. "
        f"Known suffixes: {SUFFIXES}."
    )
    _fails(tmp_path, message)


def test_videos_outside_a_class(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/2.mp4", "test/3.mp4", *(f"{n:02}.mp4" for n in range(10)))
    listed = ", ".join(f"{tmp_path}/{n:02}.mp4" for n in range(10))
    message = (
        f"data ({tmp_path}) must have every video in the folder of its class, but these lie outside: {listed} and 2 more. "
        "Move them, or give list files."
    )
    _fails(tmp_path, message)


def test_splits_beside_classes(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "wave/2.mp4")
    message = (
        f"data ({tmp_path}) must have split folders or class folders, but it has both: ['train'] and ['wave']. "
        "Move the classes into the split folders."
    )
    _fails(tmp_path, message)


def test_two_folders_for_one_split(tmp_path):
    touch(tmp_path, "val/a/1.mp4", "validation/a/2.mp4")
    message = (
        f"data ({tmp_path}) must have one folder for each split, but ['val', 'validation'] are two of one. "
        "Keep one of them."
    )
    _fails(tmp_path, message)


def test_classes_that_the_labels_lack(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/1.mp4", "c/1.mp4")
    _fails(tmp_path, "classes (['b', 'c']) must be among the labels, but these are ['a'].", labels=["a"])
    many = [f"n{index}" for index in range(21)]
    message = f"classes (['a', 'b', 'c']) must be among the labels, but these are {[*many[:20], '...']}."
    _fails(tmp_path, message, labels=many)


def test_labels_that_cannot_be_used(tmp_path):
    touch(tmp_path, "a/1.mp4")
    labels = tmp_path / "names.txt"
    rule = f"labels ({labels}) must"
    _fails(tmp_path, f"{rule} be a file with the name of one class a line, but there is no such file.", labels=labels)
    labels.write_text("b\na\nb\n")
    _fails(tmp_path, f"{rule} name each class once, but these stand there more than once: ['b'].", labels=labels)
    labels.write_text("\n")
    _fails(tmp_path, f"{rule} name the classes, but there is no name.", labels=labels)
    _fails(tmp_path, "labels (as given) must name the classes, but there is no name.", labels=[])
    labels.write_bytes(b"\xff\xfea\x00")
    _fails(tmp_path, f"file ({labels}) must be text in UTF-8, but it is not. Save it as UTF-8.", labels=labels)


def test_lists_that_are_missing_or_empty(tmp_path):
    absent = [tmp_path / "a.csv", tmp_path / "b.csv"]
    message = f"list files ({absent[0]}, {absent[1]}) must exist, but there are no such files."
    _fails(tmp_path, message, train_list=absent[0], val_list=absent[1])
    touch(tmp_path, "train.csv")
    message = f"list files ({tmp_path}/train.csv) must have lines of `path label`, but they have none."
    _fails(tmp_path, message)


def test_data_sets_in_a_folder_are_read_as_classes_with_a_warning(tmp_path):
    touch(tmp_path, "a/run/1.mp4", "a/sit/x/2.mp4", "b/jump/3.mp4", "c/4.mp4", "c/more/5.mp4")
    splits = read_data(tmp_path)
    assert splits.labels == ["a", "b", "c"]
    assert splits.warnings == [
        "Class folders with no videos of their own, only folders of videos: a, b (in a: run, sit). "
        "If those are the classes, give the folder that they lie in as the data."
    ]
    assert audit(splits, on_error="skip").warnings[0] == splits.warnings[0]
    assert read_data(tmp_path / "b").warnings == []


def test_all_lines_that_have_no_two_fields(tmp_path):
    (tmp_path / "train.csv").write_text('two words.mp4 1\na.mp4,1\na.mp4\t1\t2\n\n"open.mp4 1 2\n')
    quotes = "instead of a path and a label, put a path with spaces in quotes"
    message = (
        f"list files (4 lines) must be usable, but these are not:\n"
        f"  {tmp_path}/train.csv:1: 3 fields {quotes}\n"
        f"  {tmp_path}/train.csv:2: 1 field instead of a path and a label, separate them by a space or a tab\n"
        f"  {tmp_path}/train.csv:3: 3 fields {quotes}\n"
        f"  {tmp_path}/train.csv:5: 3 fields {quotes}"
    )
    _fails(tmp_path, message)


def test_one_line_is_told_in_the_singular(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4,1\n")
    message = (
        "list files (1 line) must be usable, but these are not:\n"
        f"  {tmp_path}/train.csv:1: 1 field instead of a path and a label, separate them by a space or a tab"
    )
    _fails(tmp_path, message)


def test_numbers_below_zero_are_no_names(tmp_path):
    for name in "abc":
        touch(tmp_path, f"{name}.mp4")
    (tmp_path / "train.csv").write_text("a.mp4 -1\nb.mp4 1\nc.mp4 -2\n")
    message = (
        "label (-1, -2) must be a number from 0, as all others are, or a name. Leave clips without a label out of the lists, or "
        "name the classes."
    )
    _fails(tmp_path, message)
    (tmp_path / "train.csv").write_text("a.mp4 -1\nb.mp4 up\n")
    assert read_data(tmp_path).labels == ["-1", "up"]


def test_all_files_and_labels_that_are_not_there(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "train.csv").write_text("a.mp4 0\nb.mp4 1\na.mp4 2\n")
    (tmp_path / "test.csv").write_text("c.mp4 wave\n")
    message = (
        f"list files (3 lines) must be usable, but these are not:\n"
        f"  {tmp_path}/train.csv:2: there is no file {tmp_path}/b.mp4\n"
        f"  {tmp_path}/train.csv:3: label '2' is not among the 2 labels\n"
        f"  {tmp_path}/test.csv:1: there is no file {tmp_path}/c.mp4"
    )
    _fails(tmp_path, message, labels=["wave", "jump"])


def test_names_that_are_numbers_are_no_places(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "train.csv").write_text("a.mp4 3\na.mp4 2\n")
    message = (
        f"list files (1 line) must be usable, but these are not:\n"
        f"  {tmp_path}/train.csv:2: label '2' is not among the 3 labels"
    )
    _fails(tmp_path, message, labels=["3", "1", "0"])
    (tmp_path / "train.csv").write_text("a.mp4 3\na.mp4 0\n")
    assert [clip.label for clip in read_data(tmp_path, labels=["3", "1", "0"]).train] == [0, 2]


@pytest.mark.parametrize("label", ["65536", "9" * 5000])
def test_a_label_that_would_make_too_many_classes(tmp_path, label):
    touch(tmp_path, "a.mp4")
    (tmp_path / "train.csv").write_text(f"a.mp4 {label}\na.mp4 3\n")
    shown = label if len(label) < 20 else f"{label[:20]}..."
    _fails(tmp_path, f"label ({shown}) must be below 65536, counted from 0.")


@pytest.mark.parametrize("fraction", [0, 1, -0.1])
def test_a_fraction_out_of_its_range(fraction):
    with raises_exactly(ConfigError, f"fraction ({fraction}) must be above 0 and below 1."):
        stratified_split([Clip("a", 0), Clip("b", 0)], fraction)


def test_nothing_to_hold_out():
    message = (
        "clips (2) must have a class with two clips or more to hold a part out, but no class has. "
        "Give validation clips instead."
    )
    with raises_exactly(DataError, message):
        stratified_split([Clip("a", 0), Clip("b", 1)], 0.5)


def test_empty_splits_are_left_out():
    assert DataSplits(labels=["a"], test=[Clip("x", 0)]).items() == [("test", [Clip("x", 0)])]
