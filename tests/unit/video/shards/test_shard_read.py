"""Clips come out of shards as they went in, from ours and from others'; what a shard lacks is named and can be left out."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import pytest
import torch
from helpers import raises_exactly
from tars import write_tar

from apt_peft.errors import DataError
from apt_peft.video import (
    ClipTransform,
    UnreadableVideoError,
    VideoDataset,
    audit,
    keep_readable,
    probe,
    read_data,
)
from apt_peft.video.clip import clip_name, clip_size
from apt_peft.video.shards.index import cache_folder, indexed
from apt_peft.video.shards.read import is_shards
from apt_peft.video.shards.source import ShardVideo
from apt_peft.video.shards.verify import verify_shards


def pairs(splits, split="train") -> list[tuple[bytes, str]]:
    """Content and class of each clip, sorted."""
    return sorted((clip.source.read_bytes(), splits.labels[clip.label]) for clip in getattr(splits, split))


def loose(folder, split="train") -> list[tuple[bytes, str]]:
    return sorted((path.read_bytes(), path.parent.name) for path in (folder / split).glob("*/*.mp4"))


def lost(splits, split="train") -> dict[str, str]:
    """What is said of the clips that cannot be read: they are found as those of any data are."""
    _, errors = keep_readable(getattr(splits, split), on_error="skip", workers=1)
    return {clip_name_of(error.name): error.reason for error in errors}


def clip_name_of(name: str) -> str:
    return "/".join(Path(name).parts[-2:]) if ".tar/" in name else Path(name).name


def test_every_way_to_name_them(shards, folder, monkeypatch):
    monkeypatch.chdir(shards.parent)
    for data in (
        "shards",
        shards,
        "shards/train-{000000..000002}.tar,shards/test-{000000..000001}.tar",
        "shards/t*.tar",
    ):
        splits = read_data(data)
        assert splits.labels == ["jump", "sit", "wave"]
        assert pairs(splits) == loose(folder)
        assert pairs(splits, "test") == loose(folder, "test")
    only = read_data("shards/train-000001.tar")
    assert [len(clips) for _, clips in only.items()] == [5]


def test_archives_beside_files_are_no_shards(shards, folder, video, tmp_path):
    """A stray archive beside videos and their list, or beside folders of them: what an index says counts all the same."""
    for name, write in {
        "list": lambda root: (root / "train.csv").write_text("a.mp4 0\nb.mp4 1\n"),
        "lists elsewhere": lambda root: (root / "other.csv").write_text("a.mp4 0\nb.mp4 1\n"),
    }.items():
        root = tmp_path / name
        root.mkdir()
        (root / "a.mp4").write_bytes(video)
        (root / "b.mp4").write_bytes(video)
        write_tar(root / "backup.tar", [("1.mp4", video), ("1.cls", b"0")])
        write(root)
        assert not is_shards(root)
    assert [clip.name for clip in read_data(tmp_path / "list").train] == [
        str(tmp_path / "list" / name) for name in ("a.mp4", "b.mp4")
    ]
    only_a_list = tmp_path / "only a list"
    write_tar(only_a_list / "backup.tar", [("1.mp4", video), ("1.cls", b"0")])
    assert is_shards(only_a_list)
    (only_a_list / "val.csv").write_text(f"{tmp_path / 'list' / 'a.mp4'} 0\n")
    assert not is_shards(only_a_list)
    ours = Path(shutil.copytree(shards, tmp_path / "ours"))
    (ours / "train.csv").write_text("a.mp4 0\n")
    (ours / "a.mp4").write_bytes(video)
    assert is_shards(ours)
    assert pairs(read_data(ours)) == loose(folder)


def test_names_and_labels_of_the_user(shards, folder):
    splits = read_data(shards, labels=["wave", "jump", "run", "sit"])
    assert pairs(splits) == loose(folder)
    with raises_exactly(
        DataError, "classes (['sit', 'wave']) must be among the labels, but these are ['jump', 'run']."
    ):
        read_data(shards, labels=["jump", "run"])
    with raises_exactly(
        DataError,
        "train_list must not be given with shards, whose labels are in them. Give the folder of the videos, or leave the "
        "list out.",
    ):
        read_data(str(shards / "train-000000.tar"), train_list="x.csv")


def test_clips_of_shards_give_what_loose_files_give(shards, folder):
    """The same frames for the same draws: where bytes come from changes nothing."""
    make = {"num_frames": 2, "transform": ClipTransform(16, augment="crop"), "training": True, "sampling": "uniform"}
    content = {clip.source.read_bytes(): clip for clip in read_data(folder).train}
    ours = read_data(shards).train
    for clips in (ours, [content[clip.source.read_bytes()] for clip in ours]):
        made = VideoDataset(clips, **make)
        items = [made[index] for index in range(len(made))]
        assert [item["labels"] for item in items] == [clip.label for clip in ours]
        if clips is ours:
            first = items
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(first, items, strict=True))


def test_a_clip_is_no_more_than_a_place(shards):
    clip = read_data(shards).train[3]
    assert clip.name == f"{shards}/train-000000.tar/{clip.source.member}"
    assert clip_name(clip, str(shards)) == f"train-000000.tar/{clip.source.member}"
    assert clip_size(clip) == len(clip.source.read_bytes()) == clip.source.size
    assert pickle.loads(pickle.dumps(clip)) == clip
    assert len(pickle.dumps(clip.source)) < 500
    assert probe(clip.source).num_frames == 4
    before = clip.fingerprint()
    moved = ShardVideo(clip.source.shard, clip.source.member, clip.source.offset + 512, clip.source.size)
    assert before != moved.fingerprint()
    os.utime(clip.source.shard, ns=(1, os.stat(clip.source.shard).st_mtime_ns))  # no more than a change of its times
    assert clip.fingerprint() != before


def test_names_stay_where_shards_are_moved(shards, tmp_path):
    moved = shutil.copytree(shards, tmp_path / "elsewhere")
    names = [[clip_name(clip, "x") for clip in read_data(place).train] for place in (shards, moved)]
    assert names[0] == names[1]


def test_frames_are_cached_under_a_name_of_the_place(shards, tmp_path):
    make = {"num_frames": 2, "transform": ClipTransform(16), "cache": tmp_path}
    first = VideoDataset(read_data(shards).train, **make)[2]
    held = sorted(tmp_path.rglob("*"))
    again = VideoDataset(read_data(shards).train, **make)[2]
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert sorted(tmp_path.rglob("*")) == held != []


def test_ten_thousand_clips_are_listed_quickly_and_read_within_one_clip_of_memory(tmp_path, video):
    with tarfile.open(tmp_path / "big.tar", "w") as tar:
        for number in range(10_000):
            for name, content in ((f"{number}.mp4", video), (f"{number}.cls", b"%d" % (number % 7))):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    clips = read_data(tmp_path / "big.tar").train
    assert len(clips) == 10_000
    tracemalloc.start()
    for clip in clips[::100]:
        clip.source.read_bytes()
    assert tracemalloc.get_traced_memory()[1] < 3 * len(video) + 50_000
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    again = read_data(tmp_path / "big.tar").train  # from the index beside it
    per_clip = (tracemalloc.get_traced_memory()[0] - before) / len(again)
    tracemalloc.stop()
    assert again == clips
    assert per_clip < 600


# Shards of others.


def test_foreign_shards_with_numbers(tmp_path, video):
    write_tar(tmp_path / "a-000.tar", [("x/1.mp4", video), ("x/1.cls", b"2\n"), ("x/2.MP4", video), ("x/2.cls", b"0")])
    write_tar(tmp_path / "a-001.tar", [("1.video.mp4", video), ("1.json", b'{"label": 1}'), ("1.txt", b"a caption")])
    splits = read_data(tmp_path)
    assert splits.labels == ["0", "1", "2"]
    assert [(clip.source.member, clip.label) for clip in splits.train] == [
        ("x/1.mp4", 2), ("x/2.MP4", 0), ("1.video.mp4", 1),
    ]  # fmt: skip
    assert [clip.source.read_bytes() for clip in splits.train] == [video] * 3
    (tmp_path / "labels.txt").write_text("no\nyes\nmaybe\n")
    assert read_data(tmp_path).labels == ["no", "yes", "maybe"]
    assert read_data(tmp_path, labels=["yes", "maybe", "no"]).train[0].label == 1, "by name, where there are names"
    assert read_data(str(tmp_path / "a-{000..001}.tar"), labels=["maybe", "yes", "no"]).train[0].label == 0


def test_foreign_shards_with_names_and_without_labels(tmp_path, video):
    write_tar(
        tmp_path / "n.tar", [("1.mp4", video), ("1.cls", b"walk"), ("2.mp4", video), ("2.json", b'{"label": "go"}')]
    )
    named = read_data(tmp_path / "n.tar")
    assert (named.labels, [clip.label for clip in named.train]) == (["go", "walk"], [1, 0])
    write_tar(tmp_path / "u.tar", [("1.mp4", video), ("2.mp4", video)])
    assert [clip.label for clip in read_data(tmp_path / "u.tar").train] == [None, None]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_other_letters_in_every_format(tmp_path, video, form):
    names = ["d/" * 60 + "long_" * 10, "ü" * 30, "plain"]
    if form != tarfile.USTAR_FORMAT:
        names.append("l" * 300)
    write_tar(tmp_path / "x.tar", [(f"{name}.mp4", video) for name in names], format=form)
    clips = read_data(tmp_path / "x.tar").train
    assert [clip.source.member for clip in clips] == [f"{name}.mp4" for name in names]
    assert all(clip.source.read_bytes() == video for clip in clips)


def test_gnu_tar_and_webdataset_write_what_is_read(tmp_path, video):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(video)
    (tmp_path / "in" / "a.cls").write_bytes(b"0")
    subprocess.run(["tar", "cf", tmp_path / "gnu.tar", "-C", tmp_path / "in", "a.mp4", "a.cls"], check=True)
    assert pairs(read_data(tmp_path / "gnu.tar")) == [(video, "0")]
    subprocess.run(["tar", "cf", tmp_path / "dot.tar", "-C", tmp_path / "in", "."], check=True)
    assert pairs(read_data(tmp_path / "dot.tar")) == [(video, "0")]
    pytest.importorskip("webdataset")
    code = (
        "import sys, webdataset\nwith webdataset.TarWriter(sys.argv[1]) as tar:\n"
        "    tar.write({'__key__': 'k', 'mp4': open(sys.argv[2], 'rb').read(), 'cls': 0})"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "wds.tar", tmp_path / "in" / "a.mp4"], check=True)
    assert pairs(read_data(tmp_path / "wds.tar")) == [(video, "0")]


def test_the_index_is_kept_beside_the_shard_or_in_the_cache(tmp_path, video, monkeypatch):
    path = write_tar(tmp_path / "s" / "x.tar", [("1.mp4", video), ("1.cls", b"0")])
    first = indexed(str(path))
    beside = path.with_name(".x.tar.index.json")
    assert [row.member for row in first.rows] == ["1.mp4"]
    assert beside.exists()
    monkeypatch.setattr("apt_peft.video.shards.index.scan", lambda path: pytest.fail("looked through again"))
    assert indexed(str(path)) == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_tar(path, [("2.mp4", video), ("2.cls", b"0"), ("3.mp4", video), ("3.cls", b"1")])
    assert [row.member for row in indexed(str(path)).rows] == ["2.mp4", "3.mp4"], "of a shard that has changed"
    beside.write_text("damaged")
    assert [row.member for row in indexed(str(path)).rows] == ["2.mp4", "3.mp4"]
    beside.unlink()
    beside.mkdir()  # nothing can be written there, whoever runs this
    indexed(str(path))
    assert len(list(cache_folder().iterdir())) == 1
    monkeypatch.setattr("apt_peft.video.shards.index.scan", lambda path: pytest.fail("looked through again"))
    assert [row.member for row in indexed(str(path)).rows] == ["2.mp4", "3.mp4"]


def test_splits_by_name_and_names_that_do_not_agree(tmp_path, video):
    one = [("1.mp4", video), ("1.cls", b"0")]
    for name in ("train-0.tar", "valid-0.tar", "test-0.tar"):
        write_tar(tmp_path / name, one)
    assert [split for split, _ in read_data(tmp_path).items()] == ["train", "val", "test"]
    write_tar(tmp_path / "extra.tar", one)
    with raises_exactly(
        DataError,
        f"shards ({tmp_path}) must all begin with the name of their split (train, val, test) or none, but "
        f"{tmp_path / 'extra.tar'} does not. Rename it, or leave it out.",
    ):
        read_data(tmp_path)


def test_labels_that_differ_between_folders(tmp_path, video):
    for name, labels in (("a", "x\ny\n"), ("b", "y\nx\n")):
        write_tar(tmp_path / name / "0.tar", [("1.mp4", video), ("1.cls", b"0")])
        (tmp_path / name / "labels.txt").write_text(labels)
    data = f"{tmp_path}/a/0.tar,{tmp_path}/b/0.tar"
    with raises_exactly(
        DataError,
        f"shards ({data}) must have the same labels, but those of {tmp_path / 'a'} and of {tmp_path / 'b'} differ. Put the "
        "same labels.txt beside all of them.",
    ):
        read_data(data)


def test_shards_that_are_not_there_or_named_twice(shards):
    with raises_exactly(
        DataError,
        f"shards ({shards}/x-0.tar, {shards}/x-1.tar) must be files, but there are no such files. Check the names.",
    ):
        read_data(f"{shards}/x-{{0..1}}.tar")
    with raises_exactly(
        DataError, f"shards ({shards}/x*.tar) must be files, but there are no such files. Check the names."
    ):
        read_data(f"{shards}/x*.tar")
    with raises_exactly(DataError, f"shards ({shards}/train-000000.tar) must be named once each, but are named twice."):
        read_data(f"{shards}/train-000000.tar,{shards}/train-{{000000..000001}}.tar")


# Damage.


def test_a_sample_with_something_wrong_is_named(tmp_path, video):
    good = [("0.mp4", video), ("0.cls", b"1")]
    link = tarfile.TarInfo("9.mp4")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = write_tar(
        tmp_path / "x.tar",
        [
            *good,
            ("1.cls", b"0"),
            ("2.mp4", video),
            ("3.mp4", video), ("3.cls", b"7"),
            ("4.mp4", video), ("4.mp4", video), ("4.cls", b"0"),
            ("0.mp4", video), ("0.cls", b"0"),
            ("../5.mp4", video), ("../5.cls", b"0"),
            ("6.mp4", video), ("6.webm", video), ("6.cls", b"0"),
            ("7.mp4", video), ("7.json", b"{"),
            ("8.mp4", video), ("8.cls", b""),
            ("8b.mp4", video), ("8b.json", b'{"label": [1]}'),
            ("8c.mp4", video), ("8c.cls", b"-1"),
            ("README.txt", b"no sample"),
        ],
    )  # fmt: skip
    with tarfile.open(path, "a") as tar:
        tar.addfile(link)
    (tmp_path / "labels.txt").write_text("no\nyes\n")
    splits = read_data(path)
    assert lost(splits) == {
        "x.tar/1": "there is a label and no video under this key",
        "x.tar/2.mp4": "it has no label: neither cls nor a label in json",
        "x.tar/3.mp4": "its label 7 is outside of the 2 labels",
        "x.tar/4.mp4": "its key 4 has mp4 twice",
        "x.tar/0.mp4": "its key 0 stands in the shard before it too",
        "../5.mp4": "its name leads out of the shard",
        "x.tar/6.mp4": "its key 6 has several videos: mp4, webm",
        "x.tar/7.mp4": "its JSON cannot be read",
        "x.tar/8.mp4": "its label (cls) is empty",
        "x.tar/8b.mp4": "its label ([1]) is neither a number nor a name",
        "x.tar/8c.mp4": "its label -1 is outside of the 2 labels",
        "x.tar/9.mp4": "it is a link or something else that holds no bytes of its own",
    }
    readable, _ = keep_readable(splits.train, on_error="skip", workers=1)
    assert [(clip.source.member, clip.label) for clip in readable] == [("0.mp4", 1)]
    report = audit(splits, on_error="stop")
    assert (len(report.unreadable), report.fatal) == (12, True)


@pytest.mark.parametrize(
    ("cut", "left", "reason"),
    [
        (-10240, 3, "it was cut short: the mark at the end of a tar file is missing"),
        (3 * 3072 - 1024, 3, "it ends in the middle of a file"),
        (2 * 3072 + 700, 2, "it ends in the middle of a file"),
        (2 * 3072 + 100, 2, None),
        (0, 0, None),
    ],
)
def test_a_foreign_shard_that_was_cut_short(tmp_path, cut, left, reason):
    whole = write_tar(
        tmp_path / "x.tar",
        [(f"{n}.{s}", b"v" * 1000) for n in range(3) for s in ("mp4", "cls")],
        format=tarfile.USTAR_FORMAT,
    )
    whole.write_bytes(whole.read_bytes()[: cut if cut >= 0 else 3 * 3072])
    shard = indexed(str(whole))
    good = [row for row in shard.rows if row.reason is None and row.offset + row.size <= shard.size]
    assert len(good) == left
    assert shard.rows[-1].member == ""
    if reason is not None:
        assert shard.rows[-1].reason == reason
    else:
        assert shard.rows[-1].reason.startswith(("it is no tar file, or a damaged one: ", "it was cut short"))


def test_a_header_that_is_damaged_in_the_middle(tmp_path, video):
    path = write_tar(tmp_path / "x.tar", [(f"{n}.mp4", video) for n in range(4)])
    held = bytearray(path.read_bytes())
    place = held.index(b"2.mp4")
    held[place + 148 : place + 156] = b"9999999\0"  # its checksum
    path.write_bytes(held)
    splits = read_data(path)
    assert lost(splits) == {"x.tar": f"it is damaged at byte {place:,}, and what follows cannot be found"}
    assert len(splits.train) == 3


def test_what_is_no_tar_file(tmp_path, video):
    (tmp_path / "text.tar").write_bytes(b"hello " * 1000)
    (tmp_path / "empty.tar").write_bytes(b"")
    write_tar(tmp_path / "plain.tar", [("1.mp4", video)])
    with tarfile.open(tmp_path / "gz.tar", "w:gz"):
        pass
    assert lost(read_data(tmp_path)) == {
        "text.tar": "it is no tar file, or a damaged one: invalid header",
        "empty.tar": "it is no tar file, or a damaged one: empty file",
        "gz.tar": "it is compressed by gzip, and nothing can be read by its place: unpack it",
    }
    path = tmp_path / "text.tar"
    with raises_exactly(
        DataError,
        f"shards ({path}) must hold videos, but there are none in them that can be read.\n  {path}: it is no tar file, or a "
        "damaged one: invalid header",
    ):
        read_data(path)


def test_our_shards_with_another_size(shards, tmp_path):
    out = shutil.copytree(shards, tmp_path / "out")
    whole = (out / "train-000000.tar").read_bytes()
    short, names = len(whole) // 2, [clip.source.member for clip in read_data(out).train]
    (out / "train-000000.tar").write_bytes(whole[:short])
    told = lost(read_data(out))
    reason = f"its shard has {short:,} bytes and {len(whole):,} in the index"
    assert 0 < len(told) < 5
    assert told == {f"train-000000.tar/{name}": reason for name in names[5 - len(told) : 5]}
    (out / "train-000000.tar").write_bytes(whole + b"x")
    assert len(lost(read_data(out))) == 5
    (out / "train-000000.tar").unlink()
    told = lost(read_data(out))
    assert set(told.values()) == {"its shard cannot be read: no such file or directory"}
    assert len(told) == 5


def test_a_shard_that_changes_after_it_was_indexed(shards, tmp_path):
    out = shutil.copytree(shards, tmp_path / "out")
    clip = read_data(out).train[4]
    path = Path(clip.source.shard)
    whole = path.read_bytes()
    path.write_bytes(whole[: clip.source.offset + 10])
    with pytest.raises(UnreadableVideoError) as caught:
        clip.source.read_bytes()
    assert caught.value.reason == f"its shard was cut short: the video ends {clip.source.size - 10:,} bytes after it"
    path.write_bytes(whole[:512] + whole[:-512])
    with pytest.raises(UnreadableVideoError) as caught:
        clip.source.read_bytes()
    assert caught.value.reason == (
        "its shard holds something else in that place: it is damaged, or is another file than the one that was indexed"
    )
    path.unlink()
    for act in (clip.source.read_bytes, clip.fingerprint):
        with raises_exactly(
            UnreadableVideoError,
            f"video ({clip.name}) must be a readable video file, but its shard cannot be read: no such file or directory.",
        ):
            act()


def test_checksums(shards, tmp_path):
    out = shutil.copytree(shards, tmp_path / "out")
    assert verify_shards(out) == []
    clip = read_data(out).train[7]
    path = Path(clip.source.shard)
    held = bytearray(path.read_bytes())
    held[clip.source.offset + clip.source.size // 2] ^= 4
    path.write_bytes(held)
    seen = []
    assert verify_shards(out, progress=seen.append) == [
        f"{path} is damaged: its checksum differs, and that of {clip.source.member}."
    ]
    assert sum(seen) == sum(file.stat().st_size for file in out.glob("*.tar"))
    held[clip.source.offset + clip.source.size // 2] ^= 4
    held[-1] ^= 1
    path.write_bytes(held)
    assert verify_shards(f"{out}/train-*.tar") == [
        f"{path} is damaged: its checksum differs, and its videos are as they were."
    ]
    held[-1] ^= 1
    held[0:512] = bytes(512)
    path.write_bytes(held)
    (sentence,) = verify_shards(out)
    assert sentence.startswith(f"{path} is damaged: no checksum can be read in it of ")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda index: "{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (lambda index: {**index, "labels": None}, "TypeError: 'NoneType' object is not iterable"),
        (lambda index: {**index, "splits": []}, None),
        (lambda index: spoil(index, "offsets", -1), None),
        (lambda index: spoil(index, "sizes", "1"), None),
        (lambda index: spoil(index, "members", None), None),
        (lambda index: spoil(index, "labels", [1]), None),
        (
            lambda index: spoil(index, "file", "../train-000000.tar"),
            "ValueError: '../train-000000.tar' is no name of a file",
        ),
        (lambda index: spoil(index, "clips", 4), "ValueError: the counts of train-000000.tar do not agree"),
    ],
)
def test_a_damaged_index(shards, tmp_path, change, why):
    out = shutil.copytree(shards, tmp_path / "out")
    value = change(json.loads((out / "index.json").read_text()))
    (out / "index.json").write_text(value if isinstance(value, str) else json.dumps(value))
    start = f"index ({out / 'index.json'}) must be a whole index of shards, but it is damaged: "
    end = ". Delete it: the shards are then indexed anew, by one pass over their headers."
    with pytest.raises(DataError) as caught:
        read_data(out)
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(end)
    if why is not None:
        assert str(caught.value) == start + why + end
    (out / "index.json").unlink()
    assert len(read_data(out).train) == 12


def spoil(index, name, value):
    shard = index["splits"]["train"][0]
    shard[name] = [value, *shard[name][1:]] if isinstance(shard[name], list) else value
    return index


def test_an_index_of_a_newer_version_and_one_of_something_else(shards, folder, tmp_path):
    out = shutil.copytree(shards, tmp_path / "out")
    index = json.loads((out / "index.json").read_text())
    (out / "index.json").write_text(json.dumps({**index, "version": 3}))
    with raises_exactly(
        DataError,
        f"index ({out / 'index.json'}) must be of version 2, but it is of version 3. Update apt_peft, or delete the index: the "
        "shards are then indexed anew.",
    ):
        read_data(out)
    (out / "index.json").write_text("[1, 2]")
    assert pairs(read_data(out)) == loose(folder)


def test_what_are_shards(shards, folder, tmp_path):
    assert is_shards(shards)
    assert is_shards("no/such-{0..3}.tar")
    assert not is_shards(folder)
    (tmp_path / "download.tar").touch()
    assert is_shards(tmp_path)
    (tmp_path / "unpacked").mkdir()
    assert not is_shards(tmp_path)
    assert not is_shards("hf://datasets/a/b")
