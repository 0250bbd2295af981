"""Clips in shards still know which video they were cut from: in ours by name and group, in others' as far as these tell."""

import hashlib
import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from clips import write_clip
from helpers import raises_exactly
from tars import write_tar

from apt_peft import cli
from apt_peft.errors import ConfigError
from apt_peft.scores.origin import with_groups
from apt_peft.scores.result import EvaluationResult
from apt_peft.scoring import EvaluateSettings
from apt_peft.scoring.evaluating import _labelled_clips
from apt_peft.training.clips import IMAGENET_MEAN, IMAGENET_STD, ClipSettings
from apt_peft.training.data import load_data
from apt_peft.training.settings import TrainSettings
from apt_peft.video import Clip, audit, hold_out, read_data
from apt_peft.video.clip import clip_name, original_name
from apt_peft.video.groups import group_clips, shared_groups
from apt_peft.video.shards.index import read_index
from apt_peft.video.shards.scan import scan
from apt_peft.video.shards.write import ShardPlan, write_shards

CLIPS = ClipSettings(4, "even", 4, 16, "crop", IMAGENET_MEAN, IMAGENET_STD, 1, 1)


def write(folder: Path, out: Path, **settings) -> Path:
    write_shards(read_data(folder), out, ShardPlan(max_clips=5), root=str(folder), workers=1, **settings)
    return out


@pytest.fixture(scope="module")
def ucf101(layout_tree, tmp_path_factory) -> Path:
    """Shards of the miniature UCF101."""
    return write(layout_tree("ucf101"), tmp_path_factory.mktemp("ucf101") / "shards")


@pytest.fixture(scope="module")
def videos(layout_tree) -> dict[str, str]:
    """Checksum of each clip's content -> class and group, read off the names of its file by the test itself."""
    found = {}
    for path in layout_tree("ucf101").rglob("*.avi"):
        found[hashlib.sha256(path.read_bytes()).hexdigest()] = re.match(r"v_\w+_g\d\d", path.name)[0].lower()
    assert len(found) == 24
    return found


def video_of(clip: Clip, videos: dict[str, str]) -> str:
    return videos[hashlib.sha256(clip.source.read_bytes()).hexdigest()]


def kept_apart(clips: list[Clip], videos: dict[str, str], **settings) -> bool:
    """Whether no video is on both sides of a part that is held out, for several seeds."""
    sides = [hold_out(clips, 0.3, seed, root="/elsewhere", **settings) for seed in range(5)]
    return not any({video_of(c, videos) for c in kept} & {video_of(c, videos) for c in held} for kept, held in sides)


def test_no_video_is_on_both_sides(ucf101, videos, monkeypatch):
    train = read_data(ucf101).train
    assert len(train) == 18
    assert kept_apart(train, videos)
    assert not kept_apart(train, videos, group_by="none"), "which this test could see"
    monkeypatch.chdir(ucf101.parent)
    assert kept_apart(read_data("shards/train-{000000..000003}.tar").train, videos)


@pytest.mark.parametrize("name", ["hmdb51", "k400"])
def test_other_public_data_sets(name, layout_tree, tmp_path):
    """Their shards are divided as their files are, and their published splits are left alone."""
    loose = read_data(layout_tree(name), on_error="skip")
    out = tmp_path / "shards"
    write_shards(loose, out, root=str(layout_tree(name)), workers=1, on_error="skip")
    ours = read_data(out)
    assert (ours.layout, read_data(f"{out}/*.tar").layout) == (name, name)
    assert shared_groups(ours, out) == []
    files, clips = ([clip for _, found in splits.items() for clip in found] for splits in (loose, ours))
    wanted, _ = group_clips(files, layout_tree(name), layout=name)
    groups = dict(zip((original_name(clip, layout_tree(name)) for clip in files), wanted, strict=True))
    found, rule = group_clips(clips, out, layout=ours.layout)
    assert rule.name == "shards"
    assert len(set(found)) < len(found) or name == "k400"
    assert found == [groups[original_name(clip, "")] for clip in clips]


def test_what_shards_tell_of_each_clip(ucf101, layout_tree, videos):
    files = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in layout_tree("ucf101").rglob("*.avi")}
    index = read_index(ucf101)
    assert index.made_from["grouped_by"] == index.made_from["layout"] == "ucf101"
    for shard in (shard for shards in index.splits.values() for shard in shards):
        assert [row[:5] for row in shard.rows] == [row[:5] for row in scan(shard.path).rows]
        assert [row[5:] for row in shard.rows] == [row[5:] for row in scan(shard.path).rows], "of the JSON beside it"
    for _, clips in read_data(ucf101).items():
        for clip in clips:
            path = files[hashlib.sha256(clip.source.read_bytes()).hexdigest()]
            assert original_name(clip, "") == path.relative_to(layout_tree("ucf101")).as_posix()
            assert f"v_{clip.source.group}" == video_of(clip, videos)


@pytest.mark.parametrize("kind", ["version 1", "no index", "moved away"])
def test_shards_whose_index_says_nothing(ucf101, videos, tmp_path, kind):
    """The JSON beside each video tells its name, in shards of the first version too, which had no groups."""
    out = Path(shutil.copytree(ucf101, tmp_path / "out"))
    index = json.loads((out / "index.json").read_text())
    for records in index["splits"].values():
        for record in records:
            del record["names"], record["groups"]
    (out / "index.json").write_text(json.dumps({**index, "version": 1}))
    if kind != "version 1":
        (out / "index.json").unlink()
    data = out if kind != "moved away" else shutil.move(out / "train-000000.tar", tmp_path / "x.tar")
    clips = read_data(data).train
    assert all(clip.source.original and clip.source.group for clip in clips)
    assert kept_apart(clips, videos)


def test_a_folder_of_the_first_version_is_not_gone_on_with(ucf101, layout_tree, tmp_path):
    out = Path(shutil.copytree(ucf101, tmp_path / "out"))
    index = json.loads((out / "index.json").read_text())
    index["made_from"] = {**index["made_from"], "version": 1}
    del index["made_from"]["grouped_by"]
    (out / "index.json").write_text(json.dumps(index))
    with raises_exactly(
        ConfigError,
        f"out ({out}) must hold shards of the same data and settings, but version was 1 and is 2, grouped_by was None and is "
        "'ucf101'. Repeat them, or choose another place.",
    ):
        write(layout_tree("ucf101"), out)


def test_groups_of_a_file_or_an_expression_are_written_down(tmp_path, video, capsys):
    clips = tmp_path / "clips"
    for n, name in enumerate(["a/anna 1", "a/anna 2", "a/bert 1", "b/anna 3", "b/carl 1", "b/carl 2"]):
        write_clip(clips / f"{name}.mp4", num_frames=2, width=32, height=24, seed=n)
    words = ["shard", str(clips), str(tmp_path / "out"), "--group-by", r"/(\w+) \d", "--no-progress", "--workers", "1"]
    assert cli.main(words) == 0
    assert "clips of one video: 3 videos, by the rule expression\n" in capsys.readouterr().out
    train = read_data(tmp_path / "out").train
    groups, rule = group_clips(train, tmp_path / "out")
    assert rule.name == "shards"
    assert groups == [re.search("anna|bert|carl", original_name(clip, ""))[0] for clip in train]
    assert sorted(groups) == ["anna"] * 3 + ["bert"] + ["carl"] * 2
    groups, _ = group_clips(train, tmp_path / "out", group_by="folder")
    assert sorted(groups) == ["a"] * 3 + ["b"] * 3, "names are those that the clips had before"
    listed = tmp_path / "groups.txt"
    listed.write_text("".join(f'"{original_name(clip, "")}" {original_name(clip, "")[-5]}\n' for clip in train))
    groups, _ = group_clips(train, tmp_path / "out", group_by=str(listed))
    assert sorted(groups) == ["1"] * 3 + ["2"] * 2 + ["3"]
    write(clips, tmp_path / "again", group_by=str(listed))
    assert sorted(group_clips(read_data(tmp_path / "again").train, "")[0]) == sorted(groups)
    # From shards to shards, with other groups: names stay.
    write_shards(
        read_data(tmp_path / "out"), tmp_path / "third", root=str(tmp_path / "out"), group_by="folder", workers=1
    )
    third = read_data(tmp_path / "third").train
    assert {original_name(clip, "") for clip in third} == {original_name(clip, "") for clip in train}
    assert sorted(clip.source.group for clip in third) == ["a"] * 3 + ["b"] * 3
    with pytest.raises(ConfigError, match="grouped_by was 'expression' and is 'none'"):
        write_shards(read_data(clips), tmp_path / "out", root=str(clips), group_by="none")


def test_names_that_are_no_text(tmp_path, video):
    """A file's name may be bytes that are no UTF-8."""
    place = tmp_path / "clips" / "a"
    place.mkdir(parents=True)
    try:
        (place / "x\udcff 1.mp4").write_bytes(video)
    except OSError:
        pytest.skip("no such names on this file system")
    (place / "broken\udcff.mp4").write_bytes(b"")
    out = write(tmp_path / "clips", tmp_path / "out", on_error="skip", group_by=r"a/(.)")
    (clip,) = read_data(out).train
    assert (clip.source.original, clip.source.group) == ("a/x\udcff 1.mp4", "x")
    assert read_index(out).skipped[0][0] == "a/broken\udcff.mp4"
    (out / "index.json").unlink()
    (again,) = read_data(out).train
    assert (again.source.original, again.source.group) == ("a/x\udcff 1.mp4", "x")


# Shards that were not written by us.


def sample(key: str, video: bytes, label: int, **told) -> list[tuple[str, bytes]]:
    return [
        (f"{key}.mp4", video),
        (f"{key}.cls", str(label).encode()),
        *([(f"{key}.json", json.dumps(told).encode())] if told else []),
    ]


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> list[bytes]:
    """Twelve small videos, all different."""
    root = tmp_path_factory.mktemp("contents")
    sizes = {"num_frames": 4, "width": 32, "height": 24}
    return [write_clip(root / f"{n}.mp4", seed=n, **sizes).read_bytes() for n in range(12)]


def load(data: Path, tmp_path: Path, **given):
    settings = {"model": "m", "data": str(data), "out": str(tmp_path / "out"), "progress": False, "cache": "none"}
    return load_data(TrainSettings(**(settings | {"val_fraction": 0.4} | given)), CLIPS)


def sides(found, group_of: dict[bytes, str]) -> tuple[set[str], set[str]]:
    return tuple({group_of[clip.source.read_bytes()] for clip in found.splits[split]} for split in ("train", "val"))


@pytest.mark.parametrize("how", ["names", "groups", "numbers", "names in json"])
def test_what_others_tell(contents, tmp_path, caplog, how):
    """By the names of members, or by `name` or `group` in the JSON of a sample."""
    group_of, members = {}, []
    for n, content in enumerate(contents):
        group = f"v_a_g{n // 2:02}"
        group_of[content] = group
        told = {
            "names": {},
            "groups": {"group": group},
            "numbers": {"group": n // 2},
            "names in json": {"name": f"x/{group}_c{n % 2:02}.avi"},
        }[how]
        members += sample(f"{group}_c{n % 2:02}" if how == "names" else f"{n:05}", content, n % 4 // 2, **told)
    path = write_tar(tmp_path / "theirs.tar", members)
    found = load(path, tmp_path)
    kept, held = sides(found, group_of)
    assert held
    assert not kept & held
    told = "shards" if "json" not in how and how != "names" else "ucf101"
    assert found.describe().endswith(f"(validation held out of training, videos kept whole by: {told})")
    assert not caplog.records
    kept, held = sides(load(path, tmp_path, group_by="none"), group_of)
    assert kept & held, "which this test could see"


def test_a_name_that_many_have_is_no_video(contents, tmp_path):
    """A title, for example: clips that have it in common may be of several videos."""
    members = [part for n, video in enumerate(contents) for part in sample(f"{n:05}", video, n % 2, name="my clip")]
    found = load(write_tar(tmp_path / "theirs.tar", members), tmp_path)
    assert (len(found.splits["train"]), len(found.splits["val"])) == (8, 4)
    groups, rule = group_clips(read_data(tmp_path / "theirs.tar").train, "")
    assert (len(set(groups)), rule.name) == (12, "none")
    members = [
        part for n, v in enumerate(contents[:9]) for part in sample(f"{n:05}", v, n % 2, name="x", group=f"g{n // 3}")
    ]
    members += [part for n, v in enumerate(contents[9:]) for part in sample(f"{n:05}_", v, n % 2, name="x")]
    groups, rule = group_clips(read_data(write_tar(tmp_path / "mixed.tar", members)).train, "")
    assert groups == ["g0"] * 3 + ["g1"] * 3 + ["g2"] * 3 + ["x 9", "x 10", "x 11"]
    assert str(rule) == "shards (3 clips stand alone, by another name)"


UNTOLD = (
    "Validation clips are held out one by one: nothing in these shards tells which clips were cut from one video. Where some "
    "were, they may be on both sides, which flatters the validation score. Say it by --group-by or by a `group` in the JSON of "
    "each sample, give a validation split, or take --group-by none if each is a video of its own."
)


def test_shards_that_tell_nothing_are_warned_of(contents, tmp_path, caplog, capsys):
    members = [part for n, video in enumerate(contents) for part in sample(f"{n:05}", video, n % 2, caption="x")]
    path = write_tar(tmp_path / "theirs.tar", members)
    load(path, tmp_path)
    assert [record.getMessage() for record in caplog.records] == [UNTOLD]
    caplog.clear()
    load(path, tmp_path, group_by="none")
    load(path, tmp_path, val_fraction=0.0)
    assert not caplog.records
    found = load(path, tmp_path, group_by=r"(\d)\.mp4")
    assert found.describe().endswith("(validation held out of training, videos kept whole by: expression)")
    assert cli.main(["check", str(path), "--no-progress", "--no-decode"]) == 0
    assert UNTOLD in capsys.readouterr().out
    assert cli.main(["check", str(path), "--no-progress", "--no-decode", "--group-by", "none"]) == 0
    assert UNTOLD not in capsys.readouterr().out
    # Ours tell the names that the files had: as with files, these may say nothing, and nothing is said.
    folder = tmp_path / "clips"
    for n, content in enumerate(contents):
        (folder / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "ab"[n % 2] / f"{n}.mp4").write_bytes(content)
    caplog.clear()
    load(write(folder, tmp_path / "ours"), tmp_path)
    assert not caplog.records


def test_one_class_of_one_video_in_shards_cannot_be_held_out_of(contents, tmp_path, capsys):
    """`check` counts videos, not clips, as training does."""
    members = [part for n, v in enumerate(contents[:4]) for part in sample(f"{n:05}", v, n // 2, group=f"g{n // 2}")]
    path = write_tar(tmp_path / "theirs.tar", members)
    assert cli.main(["check", str(path), "--no-progress", "--no-decode"]) == 1
    assert "No class has two training videos, so none can be held out for validation." in capsys.readouterr().out
    assert cli.main(["check", str(path), "--no-progress", "--no-decode", "--group-by", "none"]) == 0


def test_videos_in_two_splits_of_shards(contents, tmp_path, caplog):
    for split, first in (("train", 0), ("test", 6)):
        members = [
            part
            for n, video in enumerate(contents[first : first + 6])
            for part in sample(f"{n:05}", video, n % 2, group=f"g{(first + n) // 4}")
        ]
        write_tar(tmp_path / "shards" / f"{split}-0.tar", members)
    splits = read_data(tmp_path / "shards")
    told = [
        "Clips of one video lie in several splits (train and test), which flatters the score: 1 of 3 videos by the rule "
        "shards, such as 'g1'. `apt-peft lists --pool` divides clips in files anew."
    ]
    assert shared_groups(splits, "") == told
    assert [
        warning for warning in audit(splits, decode=False, workers=1).warnings if "several splits" in warning
    ] == told
    load(tmp_path / "shards", tmp_path, val_fraction=0.0)
    assert [record.getMessage() for record in caplog.records] == told


def test_what_cannot_be_a_name_or_a_group(tmp_path, video):
    strange = [
        {"name": n, "group": g} for n, g in [(1.5, True), ([], {}), ("", None), ("x" * 5000, 10**30), ("\ud800", "a\0")]
    ]
    members = [part for n, told in enumerate(strange) for part in sample(f"{n:05}", video, 0, **told)]
    clips = read_data(write_tar(tmp_path / "x.tar", members)).train
    assert [(clip.source.original, clip.source.group) for clip in clips] == [(None, None)] * 4 + [("\ud800", "a\0")]
    assert read_data(tmp_path / "x.tar").train == clips, "from what was kept beside it"


@pytest.mark.parametrize("files", [True, False])
def test_evaluation_warns_of_videos_in_two_splits_and_saves_groups(files, contents, tmp_path, caplog):
    for split, first in (("train", 0), ("test", 6)):
        names = [f"v_a_g{(first + n) // 4:02}_c{n:02}" for n in range(6)]
        for n, (name, content) in enumerate(zip(names, contents[first : first + 6], strict=True)):
            path = tmp_path / "clips" / split / "ab"[n % 2] / f"{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    data = tmp_path / "clips" if files else write(tmp_path / "clips", tmp_path / "shards")
    caplog.clear()
    split, clips = _labelled_clips(EvaluateSettings(adapter="x", data=str(data)), ["a", "b"])
    assert (split, len(clips)) == ("test", 6)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(
        "Clips of one video lie in several splits (train and test), which flatters the score: 1 of 3 videos by"
    )
    names = tuple(clip_name(clip, data) for clip in clips)
    result = EvaluationResult(("a", "b"), names[1:], torch.zeros(5), torch.full((5, 2), 0.5))  # one could not be read
    groups = [re.search("a_g..", original_name(clip, data))[0] for clip in clips[1:]]
    assert list(with_groups(result, clips, str(data)).groups) == groups
    by_class = with_groups(result, clips, str(data), group_by="[ab]/v").groups
    assert list(by_class) == [original_name(clip, data).split("/")[1] + "/v" for clip in clips[1:]]
    bare = [Clip(path, 0) for path in (tmp_path / "a.mp4", tmp_path / "b.mp4")]
    assert with_groups(result, bare, str(tmp_path)) is result


# Names and labels.


def test_labels_are_compared_with_the_names_that_clips_had(tmp_path):
    """`check` of shards says what it says of the files that they were made from."""
    root = tmp_path / "clips"
    for n, name in enumerate(["jump/jump_0", "jump/wave_1", "wave/wave_0", "wave/sit/x_1", "sit/sit_0", "sit/x_1"]):
        write_clip(root / f"{name}.mp4", num_frames=2, width=32, height=24, seed=n)
    loose = audit(read_data(root), workers=1)
    ours = audit(read_data(write(root, tmp_path / "out")), workers=1)
    told = sorted(file.contrary for file in loose.files if file.contrary)
    assert told == [
        '"sit" names sit, but its class is wave',
        '"wave_1" names wave, but its class is jump',
    ]
    assert sorted(file.contrary for file in ours.files if file.contrary) == told
    assert "Videos that are named after another class than theirs: 2." in ours.warnings
    # Of others: by the names of members.
    video = (root / "sit" / "x_1.mp4").read_bytes()
    path = write_tar(
        tmp_path / "x.tar", [part for n, key in enumerate(("jump/1", "sit/2")) for part in sample(key, video, 1 - n)]
    )
    (tmp_path / "labels.txt").write_text("jump\nsit\n")
    found = audit(read_data(path), workers=1)
    assert [file.contrary for file in found.files] == [
        '"jump" names jump, but its class is sit',
        '"sit" names sit, but its class is jump',
    ]


def test_a_name_that_follows_no_rule_is_told(caplog, ucf101, layout_tree, tmp_path):
    """By `apt-peft shard`, and the rule is taken for the others."""
    root = Path(shutil.copytree(layout_tree("ucf101") / "UCF-101", tmp_path / "clips"))
    first = sorted(root.rglob("*.avi"))[0]
    first.rename(first.with_name("renamed.avi"))
    with caplog.at_level(logging.WARNING, "apt_peft"):
        write(root, tmp_path / "out")
    assert [record.getMessage() for record in caplog.records] == [
        "Clips of one video are known by the rule ucf101, but it tells nothing of 1 names, which stand alone: "
        "ApplyEyeMakeup/renamed.avi."
    ]
