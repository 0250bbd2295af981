"""Which clips stay together: by the names of public data sets, by folders, by a file, by an expression."""

from pathlib import Path

import pytest
from helpers import raises_exactly
from layouts import BUILDERS

from apt_peft import ConfigError, DataError
from apt_peft.training.clips import IMAGENET_MEAN, IMAGENET_STD, ClipSettings
from apt_peft.training.data import load_data
from apt_peft.training.settings import TrainSettings
from apt_peft.video import Clip, DataSplits, hold_out, read_data, stratified_split
from apt_peft.video.groups import Rule, group_clips, shared_groups, shared_groups_or_unknown

NAMES = ["a/1_x.mp4", "a/1_y.mp4", "a/deep/2_x.mp4", "b/1_x.mp4", "b/deep/3.mp4"]


def clips(*names: str) -> list[Clip]:
    return [Clip(Path("/data") / name, int(name.startswith("b"))) for name in names]


def test_without_a_rule_each_clip_is_its_own():
    for group_by in ("auto", "none"):
        assert group_clips(clips(*NAMES), "/data", group_by=group_by) == (NAMES, Rule("none"))


def test_by_folder():
    groups = group_clips(clips(*NAMES, "loose.mp4"), "/data", group_by="folder")
    assert groups == (["a", "a", "a/deep", "b", "b/deep", "loose.mp4"], Rule("folder"))


def test_by_an_expression():
    found, rule = group_clips(clips(*NAMES), "/data", group_by=r"\d")
    assert (found, str(rule)) == (["1", "1", "2", "1", "3"], "expression")
    found, _ = group_clips(clips(*NAMES), "/data", group_by=r"(\w)/(?:deep/)?(\d)(_)?")
    assert found == ["a\0001\0_", "a\0001\0_", "a\0002\0_", "b\0001\0_", "b\0003\0"]


def test_by_a_file(tmp_path):
    file = tmp_path / "groups.txt"
    file.write_text(
        "".join(f'"{name}" person {n // 2}\n'.replace("person ", "person-") for n, name in enumerate(NAMES))
    )
    found, rule = group_clips(clips(*NAMES), "/data", group_by=str(file))
    assert (found, str(rule)) == (["person-0", "person-0", "person-1", "person-1", "person-2"], "file")


def test_what_cannot_group(tmp_path):
    rule = "must be auto, folder, none, a file, or a regular expression"
    with raises_exactly(
        ConfigError,
        f"group_by ('(x') {rule}, but there is no such file, and as an expression: missing ), unterminated subpattern at "
        "position 0.",
    ):
        group_clips(clips(*NAMES), "/data", group_by="(x")
    with raises_exactly(
        ConfigError,
        f"group_by ('_x') {rule} that finds the video in each clip's name, but it finds nothing in 2 of 5: a/1_y.mp4, "
        "b/deep/3.mp4.",
    ):
        group_clips(clips(*NAMES), "/data", group_by="_x")
    file = tmp_path / "groups.txt"
    file.write_text("a/1_x.mp4 1\n")
    with raises_exactly(
        DataError,
        f"group_by ({file}) must have a line `path group` for each clip, but it has none for 4 of 5: {', '.join(NAMES[1:])}. "
        "Paths are relative to the data folder.",
    ):
        group_clips(clips(*NAMES), "/data", group_by=str(file))
    file.write_text("a/1_x.mp4\n")
    with raises_exactly(
        DataError,
        f"list files (1 line) must be usable, but these are not:\n  {file}:1: 1 field instead of a path and a group, separate "
        "them by a space or a tab",
    ):
        group_clips(clips(*NAMES), "/data", group_by=str(file))
    file.write_text("".join(f"{name} {name[0]}\n" for name in (*NAMES, NAMES[0])))
    assert group_clips(clips(*NAMES), "/data", group_by=str(file))[0] == ["a", "a", "a", "b", "b"]
    file.write_text(file.read_text() + "a/1_y.mp4 c\nb/deep/3.mp4 a\n")
    with raises_exactly(
        DataError,
        f"group_by ({file}) must name one group for each clip, but it has several for 2: a/1_y.mp4 (a and c), b/deep/3.mp4 "
        "(a and b). Keep one line of each.",
    ):
        group_clips(clips(*NAMES), "/data", group_by=str(file))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Trees of empty files, by name."""

    def touch(path: Path, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    return {name: build(tmp_path_factory.mktemp(name), touch) for name, build in BUILDERS.items()}


def groups_of(root: Path, **settings) -> tuple[dict[str, str], str]:
    data = read_data(root, **settings)
    every = [clip for _, found in data.items() for clip in found]
    found, rule = group_clips(every, root, layout=data.layout)
    return {Path(clip.source).name: group for clip, group in zip(every, found, strict=True)}, str(rule)


def test_the_groups_of_public_data_sets(trees):
    found, rule = groups_of(trees["ucf101"])
    assert (rule, len(found), len(set(found.values()))) == ("ucf101", 24, 12)
    assert found["v_HandStandPushups_g01_c01.avi"] == found["v_HandStandPushups_g01_c02.avi"] == "handstandpushups_g01"
    found, rule = groups_of(trees["hmdb51"])
    assert (rule, len(found)) == ("hmdb51", 18)
    assert found["Pirates_(5)_[HD]_0_brush_hair_u_nm_np1_fr_goo_2.avi"] == "Pirates_(5)_[HD]_0"
    found, rule = groups_of(trees["hmdb51"], split_number=3)
    shared = {name: group for name, group in found.items() if "Shared" in name}
    assert set(shared.values()) == {"prelinger_Shared_1"}
    assert len(shared) == 3  # of three classes
    found, rule = groups_of(trees["k400"])
    assert (rule, found["a_1_2_3_4_5_000037_000047.mp4"]) == ("k400", "a_1_2_3_4_5")
    assert found["train21----.mp4"] == "k400/train/train21----.mp4"
    found, rule = groups_of(trees["ssv2"])
    assert (rule, len(set(found.values()))) == ("none", 21)


def test_names_tell_without_the_lists_too(trees):
    assert groups_of(trees["ucf101"] / "UCF-101")[1] == "ucf101"
    assert groups_of(trees["hmdb51"] / "hmdb51_org")[1] == "hmdb51"
    alike = [Clip(b"bytes", 0), Clip(b"other", 0)]
    assert group_clips(alike, "/data") == ([f"{alike[0].name} 0", f"{alike[0].name} 1"], Rule("none"))


def test_the_rule_that_most_names_follow(tmp_path):
    """One name of another kind switches nothing off: it stands alone, which is told."""
    names = [f"v_A_g{group:02}_c{clip:02}.avi" for group in (1, 2) for clip in (1, 2)]
    found, rule = group_clips(clips(*names, "extra.avi", "more.avi"), "/data")
    assert found == ["a_g01", "a_g01", "a_g02", "a_g02", "extra.avi", "more.avi"]
    assert rule == Rule("ucf101", ("extra.avi", "more.avi"))
    assert str(rule) == "ucf101 (2 clips stand alone, by another name)"
    assert rule.warning() == (
        "Clips of one video are known by the rule ucf101, but it tells nothing of 2 names, which stand alone: extra.avi, "
        "more.avi."
    )
    assert str(group_clips(clips(*names, "extra.avi"), "/data")[1]) == "ucf101 (1 clip stands alone, by another name)"
    # Most follow that of Kinetics, fewer that of UCF101.
    youtube = [f"0wR5jVB-WPk_00000{n}_00001{n}.mp4" for n in range(6)]
    found, rule = group_clips(clips(*names, *youtube), "/data")
    assert (found[:5], rule.name) == ([*names, "0wR5jVB-WPk"], "k400")


def test_a_rule_that_few_names_follow_is_told_and_not_taken():
    few = clips("v_A_g01_c01.avi", "v_A_g01_c02.avi", "x.avi", "y.avi")
    found, rule = group_clips(few, "/data")
    assert found == ["v_A_g01_c01.avi", "v_A_g01_c02.avi", "x.avi", "y.avi"]
    assert rule.name == str(rule) == "none"
    assert rule.warning() == (
        "2 of 4 names look like those of UCF101, which tell clips of one video, but they are too few to go by: each clip is "
        "taken for a video of its own."
    )
    assert Rule("none").warning() is None
    assert group_clips([], "/data") == ([], Rule("none"))


def test_names_in_a_table_tell_too():
    """Rows of a data set hold the names of their files; rows that only have a name in common stay apart."""
    datasets = pytest.importorskip("datasets")

    def read(*names: str) -> list[Clip]:
        rows = [{"bytes": name.encode(), "path": name} for name in names]
        table = datasets.Dataset.from_dict({"video": rows, "label": [n % 2 for n in range(len(rows))]})
        return read_data(table.cast_column("video", datasets.Video(decode=False))).train

    found, rule = group_clips(read("v_A_g01_c01.avi", "v_A_g01_c02.avi", "v_A_g02_c01.avi"), "/data")
    assert (found, rule.name) == (["a_g01", "a_g01", "a_g02"], "ucf101")
    found, rule = group_clips(read("clip.mp4", "clip.mp4", "other.mp4"), "/data")
    assert (len(set(found)), rule.name) == (3, "none")


def test_clips_of_one_video_in_several_splits_are_told():
    one, other = (clips(f"v_A_g{group:02}_c01.avi", f"v_A_g{group:02}_c02.avi") for group in (1, 2))
    assert shared_groups(DataSplits(train=one, test=other), "/data") == []
    mixed = DataSplits(train=[one[0], other[0]], val=[other[1]], test=[one[1]])
    assert shared_groups(mixed, "/data") == [
        "Clips of one video lie in several splits (train and val and test), which flatters the score: 2 of 2 videos by "
        "the rule ucf101, such as 'a_g01'. `apt-peft lists --pool` divides clips in files anew."
    ]
    assert shared_groups(DataSplits(train=one[:1], test=one[1:], layout="ucf101"), "/data") == [], "published splits"
    assert shared_groups(DataSplits(train=one), "/data") == []
    assert shared_groups(mixed, "/data", group_by="none") == []
    assert shared_groups_or_unknown(mixed, "/data") == shared_groups(mixed, "/data")
    assert shared_groups_or_unknown(mixed, "/data", group_by="_g02") == [
        "Nobody knows whether clips of one video lie in several splits: group_by ('_g02') must be auto, folder, none, a file, or "
        "a regular expression that finds the video in each clip's name, but it finds nothing in 2 of 4: v_A_g01_c01.avi, "
        "v_A_g01_c02.avi."
    ]


def test_validation_clips_are_held_out_by_video(trees):
    data = read_data(trees["ucf101"])
    kept, held = hold_out(data.train, 0.3, 1, root=trees["ucf101"], layout=data.layout)
    groups = [{Path(clip.source).stem[:-4] for clip in found} for found in (kept, held)]
    assert not groups[0] & groups[1]
    assert (len(kept), len(held)) == (12, 6)
    assert sorted(clip.label for clip in held) == [0, 0, 1, 1, 2, 2]
    assert sorted(kept + held, key=data.train.index) == data.train
    assert (kept, held) == hold_out(data.train, 0.3, 1, root=trees["ucf101"], layout=data.layout)


def test_clips_without_groups_are_held_out_as_ever():
    own = clips(*(f"{label}/{n}.mp4" for label in "ab" for n in range(10)))
    assert hold_out(own, 0.2, 5, root="/data") == stratified_split(own, 0.2, 5)


def test_training_holds_out_by_video(layout_tree, tmp_path):
    settings = TrainSettings(
        model="m",
        data=str(layout_tree("ucf101")),
        out=str(tmp_path / "out"),
        progress=False,
        cache="none",
        val_fraction=0.3,
    )
    found = load_data(settings, ClipSettings(4, "even", 4, 16, "crop", IMAGENET_MEAN, IMAGENET_STD, 1, 1))
    groups = {split: {name[:-7] for name in found.names(split)} for split in ("train", "val", "test")}
    assert found.held_out
    assert found.describe() == (
        "12 training, 6 validation, 6 test clips (validation held out of training, videos kept whole by: ucf101)"
    )
    assert found.as_dict()["validation_grouped_by"] == "ucf101"
    assert [len(groups[split]) for split in groups] == [6, 3, 3]
    assert len(set.union(*groups.values())) == 12


def test_nothing_to_hold_out():
    one = [Clip(Path(f"/data/v_A_g01_c0{n}.avi"), 0) for n in range(3)]
    two = [Clip(Path(f"/data/v_B_g01_c0{n}.avi"), 1) for n in range(3)]
    message = (
        "clips (6) must have a class with two videos or more to hold a part out (clips of one video stay together), but no "
        "class has. Give validation clips instead."
    )
    with raises_exactly(DataError, message):
        hold_out(one + two, 0.5, root="/data")
    with raises_exactly(ConfigError, "fraction (1.5) must be above 0 and below 1."):
        hold_out(one + two, 1.5, root="/data")
