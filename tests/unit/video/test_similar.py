"""Videos that show the same are found, others are not, and what the times and names of a file tell."""

import json
from itertools import pairwise

import numpy as np
import pytest
from clips import write_clip, write_cut, write_film

from apt_peft.video import Clip, DataSplits, audit
from apt_peft.video.examine import examine, examine_and_look, nothing_to_see
from apt_peft.video.naming import ClassNames, common_root, contradiction
from apt_peft.video.similar import _close, _to_course, find_alike
from apt_peft.video.timestamps import timestamp_findings


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Ten different ones."""
    root = tmp_path_factory.mktemp("films")
    return [write_film(root / f"{seed}.mp4", seed) for seed in range(10)]


ALTERED = {
    "another codec and size": {"codec": "mpeg4", "width": 64, "height": 48},
    "trimmed": {"skip": 2},
    "darker": {"gain": 0.8, "lift": 5},
    "stored on its side": {"turned": True},
}


@pytest.mark.parametrize("way", ALTERED)
def test_an_altered_copy_is_found_among_others(films, tmp_path, way):
    copy = write_film(tmp_path / "copy.mp4", 3, **ALTERED[way])
    looks = [examine_and_look(str(path))[1] for path in (*films, copy)]
    assert find_alike(looks) == [[3, 10]]


def test_what_cannot_be_compared_is_like_nothing():
    grey = np.full((4, 384), 128, np.uint8)
    picture = np.random.default_rng(0).integers(0, 255, (1, 384), np.uint8)
    assert (
        find_alike([]) == find_alike([None, None]) == find_alike([grey, grey]) == find_alike([picture, picture]) == []
    )


def test_the_distance_to_a_course_is_that_to_its_nearest_stretch():
    draw = np.random.default_rng(0)
    points, course = draw.normal(size=(5, 7)), draw.normal(size=(4, 7))
    along = np.linspace(0, 1, 2001)[:, None]
    fine = np.concatenate([a + along * (b - a) for a, b in pairwise(course)])
    expected = np.sqrt(((points[:, None] - fine) ** 2).mean(2)).min(1)
    np.testing.assert_allclose(_to_course(points, course), expected, atol=1e-3)


@pytest.mark.parametrize("count", [2, 60, 700])
def test_pairs_within_reach_are_all_found(count):
    draw = np.random.default_rng(count)
    points = draw.normal(size=(count, 40)) * np.linspace(0.5, 0.01, 40)
    points[1::2] = points[::2] + draw.normal(size=points[::2].shape) * 0.03
    square = ((points[:, None] - points[None]) ** 2).sum(2)
    near = {(int(a), int(b)) for a, b in np.argwhere(square <= 0.22**2) if a < b}
    assert near <= set(_close(points))


def test_a_crowd_that_nothing_tells_apart_costs_no_square():
    """Each is compared with some others, which is enough to see that all are one group."""
    points = np.random.default_rng(0).normal(size=(3000, 40)) * 1e-3
    pairs = _close(points)
    assert len(pairs) <= 32 * 3000
    assert {index for pair in pairs for index in pair} == set(range(3000))


def test_the_report_tells_of_copies_in_other_splits_and_classes(films, tmp_path):
    copy = write_film(tmp_path / "copy.mp4", 1, gain=0.85)
    inside = write_film(tmp_path / "inside.mp4", 0, width=64, height=48)
    splits = DataSplits(
        train=[Clip(films[0], 0), Clip(films[1], 0), Clip(inside, 0), Clip(films[2], 1)],
        test=[Clip(copy, 1)],
        labels=["aa", "bb"],
    )
    report = audit(splits)
    assert [[file.name for file in group] for group in report.alike] == [
        [str(films[0]), str(inside)],
        [str(films[1]), str(copy)],
    ]
    assert report.warnings == [
        "Groups of videos that show the same and lie in several splits, which flatters the score: 1.",
        "Groups of videos that show the same under several classes: 1.",
    ]
    text = str(report)
    assert f"Videos that show the same, in several splits (1):\n  {films[1]} (train) = {copy} (test)\n" in text
    assert f"Videos that show the same, in a split (1):\n  {films[0]} (train) = {inside} (train)\n" in text
    values = json.loads(json.dumps(report.to_dict()))
    assert values["alike"] == [[str(films[0]), str(inside)], [str(films[1]), str(copy)]]
    assert values["alike_across_splits"] == 1
    assert values["imbalance"]["train"] == {"largest": 3, "smallest": 1, "ratio": 3.0, "effective_classes": 1.755}
    assert audit(splits, decode=False).alike == []


# Times


def test_good_times_give_no_finding():
    frames = list(range(0, 400, 10))
    good = {"time_base": 0.01, "header_fps": 10.0, "header_seconds": 4.0}
    assert timestamp_findings(frames, frames, **good) == []
    assert timestamp_findings([], [], time_base=0.0) == []
    b_frames = [0, 30, 10, 20, 60, 40, 50]
    assert timestamp_findings(b_frames, [-20, -10, 0, 10, 20, 30, 40], time_base=0.01) == []


@pytest.mark.parametrize(
    ("shown", "decoded", "more", "finding"),
    [
        ([0, None, 20, 30], [0, 10, 20, 30], {}, "1 of its 4 frames have no time"),
        ([0, 10, 10, 30], [0, 10, 20, 30], {}, "1 of its frames have the time of another"),
        ([0, 10, 20, 30], [0, 20, 10, 30], {}, "its times go backwards 1 times"),
        (
            [0, 10, 20, 520, 530],
            [0, 10, 20, 520, 530],
            {},
            "its picture stands for 5.0 s at 0.2 s, since no frame has a time in between",
        ),
        ([0, 150, 300], [0, 150, 300], {}, "its times make 0.6667 frames a second"),
        ([0, 1, 2, 3], [0, 1, 2, 3], {"time_base": 1e-4}, "its times make 1e+04 frames a second"),
        ([0, 10, 20], [0, 10, 20], {"header_fps": 60.0}, "its header says 60 frames a second, its times 10"),
        (
            [0, 10, 20],
            [0, 10, 20],
            {"header_seconds": 9.0},
            "its header promises 9.0 s of video, its frames last 0.3 s",
        ),
    ],
)
def test_broken_times(shown, decoded, more, finding):
    assert timestamp_findings(shown, decoded, **{"time_base": 0.01, **more}) == [finding]


def test_times_of_real_files(tmp_path):
    gap = write_clip(tmp_path / "gap.mp4", num_frames=20, times=[n * 100 + 5000 * (n > 9) for n in range(20)])
    assert examine(gap).suspicions == ["its picture stands for 5.1 s at 0.9 s, since no frame has a time in between"]
    assert examine(gap, decode=False).suspicions == examine(gap).suspicions
    slow = write_clip(tmp_path / "slow.mp4", num_frames=5, times=[n * 4000 for n in range(5)])
    assert examine(slow).suspicions == ["its times make 0.25 frames a second"]


@pytest.mark.parametrize(
    "name", ["a.mp4", "a.mkv", "a.mov", "a.ts", "a.flv", "v.webm", "v8.webm", "p.avi", "h.mp4", "w.wmv"]
)
def test_good_files_of_every_kind_are_not_suspected(tmp_path, name):
    codecs = {"v": "libvpx-vp9", "v8": "libvpx", "p": "mpeg4", "h": "libx265", "w": "wmv2"}
    whole = write_clip(tmp_path / name, codec=codecs.get(name.split(".")[0], "libx264"), num_frames=20, open_gop=True)
    assert examine(whole).suspicions == []
    if name == "a.mkv":
        assert examine(write_cut(tmp_path / "cut.mkv", whole, 1)).suspicions == []


# Names

LABELS = ["jump", "jump rope", "HandstandPushups", "brush_hair", "a", "12", "catch"]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("jump_3", {0}),
        ("my jump-rope 2", {1}),
        ("JumpRope", {1}),
        ("jumping", set()),
        ("v_HandStandPushups_g01_c01", {2}),
        ("April_09_brush_hair_u_nm_np1_ba_goo_0", {3}),
        ("a 12", set()),
        ("jump-and-jump rope", {0, 1}),
        ("Catch_Me_If_You_Can_jump", {0, 6}),
    ],
)
def test_classes_named_in_a_name(name, labels):
    assert ClassNames(LABELS).named_in(name) == labels


def test_names_that_contradict_a_label():
    names, (jump, rope, catch) = ClassNames(LABELS), (0, 1, 6)
    assert contradiction("/d/train/jump/jump_1.mp4", "/d", jump, names) is None
    assert contradiction("/d/train/jump/catch_1.mp4", "/d", jump, names) == ("catch_1", {catch})
    assert contradiction("/d/catch/x.mp4", "/d", jump, names) == ("catch", {catch})
    assert contradiction("/d/catch/Jump_x.mp4", "/d", jump, names) is None
    assert contradiction("/d/jump/jump_rope_1.mp4", "/d", jump, names) == ("jump_rope_1", {rope})
    assert contradiction("/catch/x.mp4", "/catch", jump, names) is None
    assert common_root(["/d/train/jump/a.mp4", "/d/test/catch/b.mp4"]) == "/d"
    assert common_root(["/d/jump/a.mp4"]) == "/d"
    assert common_root([]) == ""


def test_the_report_tells_of_names(films):
    folder = films[0].parent
    splits = DataSplits(train=[Clip(films[0], 0), Clip(films[1], 1)], labels=[folder.name, "walk"])
    (folder / "walk_0.mp4").write_bytes(films[0].read_bytes())
    splits.train.append(Clip(str(folder / "walk_0.mp4"), 0))
    report = audit(splits, decode=False)
    told = f'"walk_0" names walk, but its class is {folder.name}'
    assert report.to_dict()["misnamed"][str(folder / "walk_0.mp4")] == told
    (folder_told, folder_first) = (f'"{folder.name}" names {folder.name}, but its class is walk', films[1])
    assert str(report).count(f"  {folder_first}: {folder_told}\n  {folder / 'walk_0.mp4'}: {told}\n") == 1
    assert "Videos that are named after another class than theirs: 2." in report.warnings


# Nothing to see


def test_pictures_of_nothing():
    draw = np.random.default_rng(0)
    pictures = [draw.integers(0, 255, (16, 16), np.uint8) for _ in range(12)]
    black, grey = np.full((16, 16), 16, np.uint8), np.full((16, 16), 120, np.uint8)
    assert nothing_to_see([]) == nothing_to_see(pictures) == nothing_to_see([*pictures, black]) == []
    assert nothing_to_see([black] * 4) == ["its pictures are black"]
    assert nothing_to_see([grey] * 4) == ["its pictures are of one colour"]
    assert nothing_to_see([*pictures[:6], black, grey, grey]) == ["33 % of its pictures are of one colour"]
    assert nothing_to_see([pictures[0]] * 3) == ["nothing moves in it"]
    assert nothing_to_see([*pictures[:4], *[pictures[4]] * 9]) == ["nothing moves in 67 % of it"]
    assert nothing_to_see([*pictures[:6], *[pictures[6]] * 6]) == []


def test_long_lists_are_cut_in_print_only(tmp_path):
    clips = [Clip(str(tmp_path / f"{number}.mp4"), 0) for number in range(60)]
    report = audit(DataSplits(train=clips, labels=["jump"]))
    assert str(report).count("no such file") == 50
    assert "\n  and 10 more: --json lists all\n" in str(report)
    assert len(report.to_dict()["unreadable"]) == 60
