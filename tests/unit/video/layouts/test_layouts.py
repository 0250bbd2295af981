"""Public data sets as they are downloaded: what is read is what others read, and what is missing or unclear is named."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from helpers import raises_exactly
from layouts import BUILDERS, HMDB51_CLASSES, K400_LABELS, SSV2_LABELS, UCF101_CLASSES
from torchvision.datasets import HMDB51, UCF101

from apt_peft import ConfigError, DataError
from apt_peft.video import DataSplits, audit, read_data


@pytest.fixture
def empty(tmp_path):
    """Make a tree of empty files, for no video is opened while clips are looked for."""

    def touch(path: Path, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    return lambda name, **settings: BUILDERS[name](tmp_path / name, touch, **settings)


def found(splits: DataSplits, split: str, root: Path) -> list[tuple[str, str]]:
    """Paths and names of classes, sorted."""
    clips = getattr(splits, split)
    return sorted((Path(clip.source).relative_to(root).as_posix(), splits.labels[clip.label]) for clip in clips)


def counts(splits: DataSplits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.val), len(splits.test)


def kinetics_rows(root: Path) -> list[dict[str, str]]:
    lists = [root / "k400" / "annotations" / f"{split}.csv" for split in ("train", "val", "test")]
    return [row for file in lists for row in csv.DictReader(file.read_text().splitlines())]


def _fails(root: Path, message: str, kind: type[Exception] = DataError, **settings) -> None:
    with raises_exactly(kind, message):
        read_data(root, **settings)


def edit(file: Path, old: str, new: str) -> Path:
    text = file.read_bytes().decode()
    assert old in text
    file.write_bytes(text.replace(old, new).encode())
    return file


@pytest.mark.parametrize("split_number", [1, 2, 3])
@pytest.mark.parametrize("split", ["train", "test"])
def test_ucf101_reads_as_torchvision_does(layout_tree, split, split_number):
    root = layout_tree("ucf101")
    splits = read_data(root, split_number=split_number)
    assert (splits.layout, splits.labels, counts(splits)) == ("ucf101", list(UCF101_CLASSES), (18, 0, 6))
    theirs = UCF101.__new__(UCF101)
    theirs.root = str(root / "UCF-101")
    files = sorted(map(str, (root / "UCF-101").rglob("*.avi")))
    places = theirs._select_fold(files, str(root / "ucfTrainTestlist"), split_number, split == "train")
    ours = found(splits, split, root / "UCF-101")
    # torchvision drops in silence what the lists write in other letters
    same = [row for row in ours if row[1] != "HandstandPushups"]
    assert [root / "UCF-101" / name for name, _ in same] == [Path(files[place]) for place in places]
    assert len(ours) == len(same) * 3 / 2
    assert all(Path(name).parent.name == label for name, label in ours)


def test_ucf101_tells_of_the_letters_that_differ(layout_tree):
    warnings = read_data(layout_tree("ucf101")).warnings
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "Videos of UCF101 with other names than in its lists, found all the same (8): "
        "HandstandPushups/v_HandstandPushups_g02_c01.avi is UCF-101/HandstandPushups/v_HandStandPushups_g02_c01.avi, "
    )
    assert warnings[0].endswith(" and 5 more.")


@pytest.mark.parametrize("split_number", [1, 2, 3])
@pytest.mark.parametrize("split", ["train", "test"])
def test_hmdb51_reads_as_torchvision_does(layout_tree, split, split_number):
    root = layout_tree("hmdb51")
    splits = read_data(root, split_number=split_number)
    assert (splits.layout, splits.labels, counts(splits)) == ("hmdb51", list(HMDB51_CLASSES), (12, 0, 6))
    theirs = HMDB51.__new__(HMDB51)
    files = sorted(map(str, (root / "hmdb51_org").rglob("*.avi")))
    names = str(root / "testTrainMulti_7030_splits")
    places = theirs._select_fold(files, names, split_number, split == "train")
    ours = found(splits, split, root / "hmdb51_org")
    assert [root / "hmdb51_org" / name for name, _ in ours] == [Path(files[place]) for place in places]
    assert all(Path(name).parent.name == label for name, label in ours)
    assert splits.warnings == []


@pytest.mark.parametrize("suffix", ["webm", "mp4"])
@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_ssv2_has_the_labels_of_its_table(empty, prefix, suffix):
    root = empty("ssv2", suffix=suffix)
    labels = root / "labels"
    table = json.loads((labels / "labels.json").read_text())
    rows = [(s, row) for s in ("train", "validation") for row in json.loads((labels / f"{s}.json").read_text())]
    wanted = {row["id"]: int(table[row["template"].replace("[", "").replace("]", "")]) for _, row in rows}
    for line in (labels / "test-answers.csv").read_text().splitlines():
        wanted[line.split(";")[0]] = int(table[line.split(";")[1]])
    for file in list(labels.iterdir()):
        file.rename(labels / (prefix + file.name))
    splits = read_data(root)
    assert (splits.layout, counts(splits), splits.warnings) == ("ssv2", (12, 6, 3), [])
    assert {Path(clip.source).stem: clip.label for _, clips in splits.items() for clip in clips} == wanted
    assert {name: str(label) for label, name in splits.id2label.items()} == table
    assert sorted(splits.labels) == sorted(SSV2_LABELS) != splits.labels


def test_ssv2_without_the_answers_of_the_test(empty):
    splits = read_data(empty("ssv2", answers=False))
    assert counts(splits) == (12, 6, 0)
    assert splits.warnings == [
        "The 3 test videos of Something-Something V2 have no labels here (test-answers.csv) and are left out."
    ]


def test_k400_as_its_download_unpacks_it(layout_tree):
    root = layout_tree("k400")
    for place in (root, root / "k400"):
        splits = read_data(place)
        assert (splits.layout, splits.labels, counts(splits)) == ("k400", list(K400_LABELS), (14, 6, 3))
    file = root / "k400" / "annotations" / "train.csv"
    assert splits.missing == [f"{file}:12: there is no train20----_000007_000017.mp4"]
    assert splits.warnings == [
        f"Missing and left out, of 15 training videos of Kinetics (1): {splits.missing[0]}.",
        "Videos of Kinetics with other names than in its lists, found all the same (1): "
        "train21----_000017_000027.mp4 is train/train21----.mp4.",
    ]
    wanted = {row["youtube_id"]: row["label"] for row in kinetics_rows(root) if row["youtube_id"] != "train20----"}
    read = {Path(clip.source).stem[:11]: splits.labels[clip.label] for _, clips in splits.items() for clip in clips}
    assert read == wanted
    replaced = [name for name, _ in found(splits, "train", root) if "replacement" in name]
    assert replaced == ["k400/replacement/replacement_for_corrupted_k400/train11----_000017_000027.mp4"]


def test_every_clip_can_be_read_and_the_audit_names_the_missing_ones(layout_tree):
    for name in BUILDERS:
        splits = read_data(layout_tree(name))
        report = audit(splits)
        assert (name, report.fatal, report.unreadable, report.missing) == (name, False, [], splits.missing)
        assert ("\nMissing (1):\n" in str(report)) == (name == "k400")


def move(root: Path, layout: str) -> None:
    """Lay Kinetics' videos out in another way."""
    rows = {row["youtube_id"]: row for row in kinetics_rows(root)}
    for file in sorted((root / "k400").rglob("*.m[pk][4v]")):
        row = rows[file.stem[:11]]
        label = row["label"]
        folder = {
            "flat": root / "videos",
            "classes with spaces": root / row["split"] / label,
            "classes with underscores": root / "compress" / f"{row['split']}_256" / label.replace(" ", "_"),
        }[layout]
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / file.name).exists() or "replacement" in str(file):
            file.rename(folder / file.name)
        else:
            file.unlink()


@pytest.mark.parametrize("layout", ["flat", "classes with spaces", "classes with underscores"])
def test_k400_in_other_folders(empty, layout):
    root = empty("k400")
    move(root, layout)
    splits = read_data(root)
    assert counts(splits) == (14, 6, 3)
    assert len(splits.missing) == 1


def test_k400_with_its_lists_right_in_the_folder_under_the_names_of_our_own(empty):
    root = empty("k400")
    for file in (root / "k400" / "annotations").iterdir():
        file.rename(root / file.name)
    assert read_data(root).layout == "k400"
    # and a list of our own there is one
    (root / "train.csv").write_text("k400/val/val__00----_000007_000017.mp4 0\n")
    assert (read_data(root).layout, counts(read_data(root))) == (None, (1, 0, 0))
    assert counts(read_data(root, layout="k400")) == (0, 6, 3)


def test_k400_of_two_copies_takes_the_one_that_is_meant(empty):
    root = empty("k400")
    name = "train10----_000007_000017.mp4"
    for folder in ("val", "other", "train/massaging_person's_head", "train/playing"):
        (root / "k400" / folder).mkdir(exist_ok=True)
        (root / "k400" / folder / name).touch()
    (root / "k400" / "train" / name).with_suffix(".webm").touch()
    chosen = [name_ for name_, _ in found(read_data(root), "train", root) if name_.endswith(name)]
    assert chosen == [f"k400/train/massaging_person's_head/{name}"]
    (root / chosen[0]).unlink()
    missing = read_data(root, on_error="skip").missing
    assert missing[0] == (
        f"{root}/k400/annotations/train.csv:7: {name} is not clear, for it could be k400/train/{name} or "
        f"k400/train/playing/{name}"
    )


def test_all_videos_there_twice(empty):
    root = empty("ucf101")
    shutil.copytree(root / "UCF-101", root / "small")
    name = "ApplyEyeMakeup/v_ApplyEyeMakeup_g02_c01.avi"
    with pytest.raises(DataError) as caught:
        read_data(root)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        f"data ({root}) must have the videos that the lists of UCF101 name, but none of 24 is clear. Keep one copy of each."
    )
    file = root / "ucfTrainTestlist" / "trainlist01.txt"
    assert lines[1] == f"  {file}:1: {name} is not clear, for it could be UCF-101/{name} or small/{name}"


def test_a_file_without_times_that_could_be_two_clips_is_none_of_them(empty):
    root = empty("k400")
    csv_file = edit(root / "k400" / "annotations" / "train.csv", "train20----,7,17", "train21----,30,40")
    missing = read_data(root, on_error="skip").missing
    because = "is not clear, for k400/train/train21----.mp4 could be several of those missing"
    assert missing == [
        f"{csv_file}:12: train21----_000030_000040.mp4 {because}",
        f"{csv_file}:13: train21----_000017_000027.mp4 {because}",
    ]


def test_names_that_unpacking_changed(empty):
    root = empty("hmdb51")
    for file in sorted((root / "hmdb51_org").rglob("*.avi")):
        changed = "".join(mark if mark.isalnum() or mark in "._" else "_" for mark in file.name)
        file.rename(file.with_name(changed).with_suffix(".mp4"))
    (root / "hmdb51_org" / "ride_bike").rename(root / "hmdb51_org" / "Ride Bike")
    splits = read_data(root)
    assert (counts(splits), splits.missing) == ((12, 0, 6), [])


def test_a_similar_name_that_is_another_clip_is_not_taken_for_a_missing_one(empty):
    """`a#b` is missing and `a_b` is in the lists itself."""
    root = empty("hmdb51")
    folder, lists = root / "hmdb51_org" / "wave", root / "testTrainMulti_7030_splits" / "wave_test_split1.txt"
    gone = "Pirates_(5)_[HD]_2_wave_u_nm_np1_fr_goo_2.avi"
    (folder / gone).rename(folder / gone.replace("[HD]", "HD"))
    assert read_data(root).missing == []
    edit(lists, "April_09_2_wave_u_nm_np1_fr_goo_6.avi", gone.replace("[HD]", "HD"))
    assert read_data(root).missing == [f"{lists}:3: there is no wave/{gone}"]


def test_folders_inside_a_folder_of_a_class(empty):
    root = empty("hmdb51")
    for name in HMDB51_CLASSES:
        (root / "hmdb51_org" / name).rename(root / "moved")
        (root / "hmdb51_org" / name).mkdir()
        (root / "moved").rename(root / "hmdb51_org" / name / name)
    assert counts(read_data(root)) == (12, 0, 6)


def test_links_and_hidden_files(empty):
    root = empty("ssv2")
    (root / "20bn-something-something-v2").rename(root.parent / "store")
    (root / "videos").symlink_to(root.parent / "store", target_is_directory=True)
    (root / "videos" / "up").symlink_to(root, target_is_directory=True)
    (root / "videos" / "._74232.webm").touch()
    splits = read_data(root)
    assert (counts(splits), splits.missing) == ((12, 6, 3), [])


def test_names_of_classes_in_another_order(empty):
    root = empty("ucf101")
    names = list(reversed(UCF101_CLASSES))
    assert read_data(root, labels=["Other", *names]).labels == ["Other", *names]
    plain, turned = read_data(root), read_data(root, labels=names)
    assert [2 - clip.label for clip in plain.train] == [clip.label for clip in turned.train]
    message = "classes (['HandstandPushups']) must be among the labels, but these are ['ApplyEyeMakeup', 'Archery']."
    _fails(root, message, labels=list(UCF101_CLASSES[:2]))


def test_an_unknown_layout_is_read_as_before(empty):
    root = empty("ucf101")
    assert read_data(root, layout="none").layout is None
    videos = read_data(root / "UCF-101")
    assert (videos.layout, counts(videos)) == (None, (24, 0, 0))


def test_a_layout_that_is_not_there(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.mp4").touch()
    must = {
        "ucf101": "UCF101, with classInd.txt and trainlist01.txt in a folder such as ucfTrainTestlist",
        "hmdb51": "HMDB51, with CLASS_test_split1.txt in a folder such as testTrainMulti_7030_splits",
        "ssv2": "Something-Something V2, with labels.json and train.json with templates in a folder such as labels",
        "k400": "Kinetics, with csv files with the columns youtube_id, time_start and time_end in a folder such as "
        "annotations",
    }
    for layout, rule in must.items():
        message = (
            f"data ({tmp_path}) must be laid out as {rule}, but there is no such thing in it. "
            "Give the folder that holds both these and the videos."
        )
        _fails(tmp_path, message, layout=layout)
    message = "layout ('k4') must be one of auto, ucf101, hmdb51, ssv2, k400, none."
    _fails(tmp_path, message, ConfigError, layout="k4")


def test_two_data_sets_at_once(empty):
    root = empty("ucf101")
    BUILDERS["hmdb51"](root, lambda path, seed: None)
    message = (
        f"data ({root}) must be one data set, but it looks like ucf101 and hmdb51. Give the folder of one of them, or say "
        "which it is by --layout."
    )
    _fails(root, message)
    assert read_data(root, layout="ucf101").layout == "ucf101"


def test_a_layout_beside_list_files(empty):
    root = empty("ucf101")
    message = (
        "layout ('ucf101') must be left out where list files are given, for it has lists of its own, but val_list was "
        "given. Choose one."
    )
    _fails(root, message, ConfigError, layout="ucf101", val_list=root / "x.csv")


@pytest.mark.parametrize(("name", "rule"), [("ucf101", "1 to 3 for UCF101"), ("k400", "1 for Kinetics")])
def test_a_split_that_is_not_published(empty, name, rule):
    _fails(empty(name), f"split_number (4) must be {rule}.", ConfigError, split_number=4)


def test_a_split_whose_lists_are_not_there(empty):
    root = empty("ucf101")
    (root / "ucfTrainTestlist" / "testlist02.txt").unlink()
    message = (
        f"split_number (2) must be one whose lists are there, but {root}/ucfTrainTestlist has no testlist02.txt. "
        "Choose another one, or download the lists anew."
    )
    _fails(root, message, split_number=2)
    root = empty("hmdb51")
    (root / "testTrainMulti_7030_splits" / "wave_test_split3.txt").unlink()
    message = (
        f"split_number (3) must be one whose lists are there for every class, but {root}/testTrainMulti_7030_splits lacks "
        "wave_test_split3.txt. Choose another one, or download the lists anew."
    )
    _fails(root, message, split_number=3)


def test_no_video_at_all(empty):
    root = empty("ssv2", answers=False)
    shutil.rmtree(root / "20bn-something-something-v2")
    rows = json.loads((root / "labels" / "train.json").read_text())
    lines = [f"{root}/labels/train.json: entry {n}: there is no {row['id']}.webm" for n, row in enumerate(rows, 1)]
    message = (
        f"data ({root}) must have the videos that the lists of Something-Something V2 name, but none of 18 lies below it. "
        "Put them there, or link their folder.\n  " + "\n  ".join([*lines[:10], "and 8 more"])
    )
    for on_error in ("raise", "skip"):
        _fails(root, message, on_error=on_error)


def test_more_than_a_tenth_missing(empty):
    root = empty("k400")
    (root / "k400" / "train" / "train22----_000027_000037.mkv").unlink()
    (root / "k400" / "test" / "test_00----_000007_000017.mp4").unlink()
    lists = root / "k400" / "annotations"
    lines = [
        f"{lists}/train.csv:12: there is no train20----_000007_000017.mp4",
        f"{lists}/train.csv:14: there is no train22----_000027_000037.mp4",
        f"{lists}/test.csv:2: there is no test_00----_000007_000017.mp4",
    ]
    message = (
        f"data ({root}) must have at least 90% of the videos that the lists of Kinetics name, but 2 of 15 training videos, "
        "1 of 3 test videos are missing. Complete them, or train on what there is with --on-error skip.\n  "
        + "\n  ".join(lines)
    )
    _fails(root, message)
    splits = read_data(root, on_error="skip")
    assert (counts(splits), splits.missing) == ((13, 6, 2), lines)
    _fails(root, "on_error ('halt') must be one of 'raise', 'skip'.", ConfigError, on_error="halt")


def wrong_lines(title: str, *lines: str) -> str:
    return (
        f"lists of {title} ({len(lines)} line{'s' * (len(lines) > 1)}) must be as they are published, but these are not. "
        "Download the lists anew, or correct the lines.\n  " + "\n  ".join(lines)
    )


def test_lines_of_ucf101_that_cannot_be_used(empty):
    root = empty("ucf101")
    lists = root / "ucfTrainTestlist"
    (lists / "trainlist01.txt").write_text("\nArchery/v_Archery_g01_c01.avi 1\nArchery\nFencing/v.avi 4\n")
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 Archery\nThree HandstandPushups\n2 HandstandPushups\n")
    message = wrong_lines(
        "UCF101",
        f"{lists}/classInd.txt:3: 'Three HandstandPushups' instead of a number and a class",
        f"{lists}/classInd.txt: a number stands before several classes",
        f"{lists}/trainlist01.txt:2: label 1, but Archery is 2 in classInd.txt",
        f"{lists}/trainlist01.txt:3: 'Archery' instead of Class/video.avi",
        f"{lists}/trainlist01.txt:4: Fencing is no class of classInd.txt",
    )
    _fails(root, message)


def test_lines_of_hmdb51_that_cannot_be_used(empty):
    root = empty("hmdb51")
    file = root / "testTrainMulti_7030_splits" / "wave_test_split1.txt"
    file.write_text("a.avi 3\na.avi\n\n 1\n")
    rule = "instead of a video and 0, 1 or 2"
    message = wrong_lines("HMDB51", f"{file}:1: 'a.avi 3' {rule}", f"{file}:2: 'a.avi' {rule}", f"{file}:4: '1' {rule}")
    _fails(root, message)


def test_entries_of_ssv2_that_cannot_be_used(empty):
    root = empty("ssv2")
    labels = root / "labels"
    rows = json.loads((labels / "train.json").read_text())
    rows[1]["template"], rows[2] = "Eating [something]", {"template": "x"}
    (labels / "train.json").write_text(json.dumps([*rows, 7]))
    (labels / "test-answers.csv").write_text("74260;Nothing\n\n74260\n")
    message = wrong_lines(
        "Something-Something V2",
        f"{labels}/train.json: entry 2: 'Eating [something]' is no label of labels.json",
        f"{labels}/train.json: entry 3: \"{{'template': 'x'}}\" instead of an id and a template",
        f"{labels}/train.json: entry 13: '7' instead of an id and a template",
        f"{labels}/test-answers.csv:1: 'Nothing' is no label of labels.json",
        f"{labels}/test-answers.csv:3: '74260' instead of an id, a semicolon and a label",
    )
    _fails(root, message)


def test_files_of_ssv2_that_cannot_be_used(empty):
    root = empty("ssv2")
    labels = root / "labels"
    (labels / "validation.json").write_text('{"id": 1}')
    message = (
        f"annotations ({labels}/validation.json) must be a list of videos, but they are a dict. Download them anew."
    )
    _fails(root, message)
    (labels / "validation.json").write_text("[\n  {,\n]")
    message = (
        f"annotations ({labels}/validation.json:2) must be JSON, but: Expecting property name enclosed in double quotes. "
        "Download them anew."
    )
    _fails(root, message)
    message = (
        f"labels ({labels}/labels.json) must be a table of names and their numbers 0, 1, 2, ... without gaps, but it is none. "
        "Download it anew."
    )
    for wrong in ('{"a": "0", "b": "2"}', '{"a": "0", "b": "x"}', "[]", '["a"]', "{}"):
        (labels / "labels.json").write_text(wrong)
        _fails(root, message)


def test_lines_of_k400_that_cannot_be_used(empty):
    root = empty("k400")
    file = root / "k400" / "annotations" / "val.csv"
    lines = file.read_text().splitlines()
    lines[1] = lines[1].replace(",7,", ",early,")
    lines[2] = lines[2].replace(",val,", ",all,")
    lines[3] = lines[3].replace("val__10----", "")
    lines += [lines[4], lines[4].replace("massaging person's head", "wrong")]
    file.rename(file.with_name("kinetics_400.csv"))
    file = file.with_name("kinetics_400.csv")
    file.write_text("\n".join(lines))
    message = wrong_lines(
        "Kinetics",
        f"{file}:2: time_start and time_end must be seconds",
        f"{file}:3: no split train, val or test",
        f"{file}:4: no youtube_id",
        f"{file}:9: val__11---- is 'wrong', but \"massaging person's head\" in {file}:5",
    )
    _fails(root, message)


def test_a_list_of_k400_that_is_no_csv(empty):
    root = empty("k400")
    file = root / "k400" / "annotations" / "val.csv"
    with file.open("a") as opened:
        opened.write("a" * 200_000)
    _fails(root, f"list ({file}:8) must be csv, but: field larger than field limit (131072). Download it anew.")


def test_test_videos_of_k400_without_labels(empty):
    root = empty("k400")
    file = root / "k400" / "annotations" / "test.csv"
    lines = [line.split(",", 1)[1] for line in file.read_text().replace("a(", "a").splitlines()]
    file.with_name("kinetics_test.csv").write_text("\n".join(line.rsplit(",", 2)[0] for line in lines))
    file.unlink()
    splits = read_data(root)
    assert counts(splits) == (14, 6, 0)
    assert "3 videos of kinetics_test.csv have no label and are left out." in splits.warnings
