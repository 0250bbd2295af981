"""Shards hold what the data holds, the same bytes each time; other readers read them; a folder is one run's alone."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from fnmatch import fnmatch
from pathlib import Path

import datasets
import pytest
from clips import write_classes, write_part
from helpers import raises_exactly

from apt_peft.errors import ConfigError, DataError
from apt_peft.video import Clip, DataSplits, UnreadableVideoError, read_data
from apt_peft.video.shards import write as write_module
from apt_peft.video.shards.index import read_index
from apt_peft.video.shards.samples import Sample
from apt_peft.video.shards.tar import TarWriter, padded
from apt_peft.video.shards.write import ShardPlan, write_shards


def content(folder: Path) -> dict[str, str]:
    """Checksum of every file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(folder, out, root=None, on_error="raise", verify=False, **plan):
    return write_shards(
        read_data(folder), out, ShardPlan(**plan), root=str(root or folder), on_error=on_error, verify=verify
    )


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def test_what_is_in_the_folder(shards, folder):
    assert sorted(path.name for path in shards.iterdir()) == [
        "index.json", "labels.txt", "test-000000.tar", "test-000001.tar",
        "train-000000.tar", "train-000001.tar", "train-000002.tar",
    ]  # fmt: skip
    assert (shards / "labels.txt").read_text() == "jump\nsit\nwave\n"
    found = {}
    for split in ("train", "test"):
        for path in sorted(shards.glob(f"{split}-*.tar")):
            held = members(path)
            keys = list(dict.fromkeys(name.partition(".")[0] for name in held))
            assert list(held) == [f"{key}.{suffix}" for key in keys for suffix in ("mp4", "cls", "json")]
            for key in keys:
                known = json.loads(held[f"{key}.json"])
                assert known["label"] == int(held[f"{key}.cls"])
                assert known["label_name"] == known["name"].split("/")[1] == ["jump", "sit", "wave"][known["label"]]
                video = held[f"{key}.mp4"]
                assert (known["size"], known["sha256"]) == (len(video), hashlib.sha256(video).hexdigest())
                found[known["name"]] = video
    assert found == {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.mp4")}


def test_the_index_tells_where_each_video_lies_and_the_checksum_of_each_shard(shards):
    index = read_index(shards)
    assert index.counts() == {
        "train": {
            "shards": 3,
            "clips": 12,
            "bytes": sum(p.stat().st_size for p in shards.glob("train*")),
            "skipped": 0,
        },
        "test": {"shards": 2, "clips": 6, "bytes": sum(p.stat().st_size for p in shards.glob("test*")), "skipped": 0},
    }
    for shard in index.splits["train"] + index.splits["test"]:
        path = Path(shard.path)
        assert (shard.size, shard.sha256) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        whole, held = path.read_bytes(), members(path)
        for row in shard.rows:
            assert whole[row.offset : row.offset + row.size] == held[row.member]
            assert row.label == int(held[row.member.replace("mp4", "cls")])


def test_gnu_tar_reads_them(shards, tmp_path):
    for path in sorted(shards.glob("train-*.tar")):
        subprocess.run(["tar", "xf", str(path), "-C", str(tmp_path)], check=True, capture_output=True)
    assert len(list(tmp_path.glob("*.mp4"))) == 12


def test_the_same_bytes_for_a_seed_and_others_for_another(shards, folder, tmp_path):
    write(folder, tmp_path / "again", max_clips=5)
    assert content(tmp_path / "again") == content(shards)
    write(folder, tmp_path / "other", max_clips=5, seed=1)
    assert content(tmp_path / "other")["train-000000.tar"] != content(shards)["train-000000.tar"]
    moved = shutil.copytree(folder, tmp_path / "moved")
    for path in moved.rglob("*.mp4"):
        os.utime(path, (1, 1))
    write(moved, tmp_path / "from-moved", max_clips=5)
    assert content(tmp_path / "from-moved") == content(shards)


def test_without_shuffling_clips_keep_their_order(folder, tmp_path):
    index = write(folder, tmp_path / "out", shuffle=False)
    labels = [row.label for shard in index.splits["train"] for row in shard.rows]
    assert labels == [0] * 4 + [1] * 4 + [2] * 4


def rooms(shard) -> list[int]:
    """Bytes that each sample of a shard takes in it: three members."""
    held = members(Path(shard.path))
    lengths = [-(-len(content) // 512) * 512 + 512 for content in held.values()]
    return [sum(lengths[place : place + 3]) for place in range(0, len(lengths), 3)]


@pytest.mark.parametrize("limit", [1, 10_240, 20_480, 25_000, 10**9])
def test_shards_keep_to_their_size(folder, tmp_path, limit):
    index = write(folder, tmp_path / "out", max_bytes=limit)
    for split, shards in index.splits.items():
        assert sum(len(shard.rows) for shard in shards) == len(getattr(read_data(folder), split))
        for shard, after in zip(shards, [*shards[1:], None], strict=True):
            assert shard.size <= limit or len(shard.rows) == 1
            if after is not None:  # the next clip would not have fitted
                assert padded(sum(rooms(shard)) + rooms(after)[0]) > limit


def test_videos_by_bytes_and_without_a_label(tmp_path, video):
    splits = DataSplits(train=[Clip(video, 0), Clip(b"\x1aE\xdf\xa3" + video, None), Clip(video, None)], labels=["a"])
    index = write_shards(splits, tmp_path / "out", ShardPlan(shuffle=False), on_error="skip")
    assert [row.member for row in index.splits["train"][0].rows] == [
        f"00000000_{len(video)}_bytes.mp4",
        f"00000002_{len(video)}_bytes.mp4",
    ]
    assert [name.rpartition(".")[2] for name in members(tmp_path / "out" / "train-000000.tar")] == [
        "mp4", "cls", "json", "mp4", "json",
    ]  # fmt: skip
    assert len(index.skipped) == 1


def test_names_that_other_readers_would_take_apart_otherwise(tmp_path):
    root = write_classes(tmp_path / "clips", ["a b", "ü"], clips=1, num_frames=2, width=32, height=24)
    (root / "a b" / "a b_0.mp4").rename(root / "a b" / "v1.2 (final).x.MP4")
    (root / "ü" / "ü_0.mp4").rename(root / "ü" / ("ü" * 80 + ".mp4"))
    index = write(root, tmp_path / "out", shuffle=False)
    assert [row.member for row in index.splits["train"][0].rows] == ["00000000_v1_2_final_x.mp4", "00000001.mp4"]
    again = read_data(tmp_path / "out")
    assert again.labels == ["a b", "ü"]
    assert [clip.source.read_bytes() for clip in again.train] == [
        clip.source.read_bytes() for clip in read_data(root).train
    ]


WEBDATASET = """
import hashlib, json, sys, webdataset
for sample in webdataset.WebDataset(sys.argv[1:], shardshuffle=False).decode():
    print(json.dumps([hashlib.sha256(sample["mp4"]).hexdigest(), sample["cls"], sample["json"]]))
"""


def test_webdataset_reads_them(shards):
    """In a process of its own: it leaves files open."""
    pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(shards.glob("train-*.tar"))]
    done = subprocess.run([sys.executable, "-c", WEBDATASET, *urls], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    clips = read_data(shards).train
    assert [row[0] for row in found] == [hashlib.sha256(clip.source.read_bytes()).hexdigest() for clip in clips]
    assert [row[1] for row in found] == [row[2]["label"] for row in found] == [clip.label for clip in clips]


def test_datasets_reads_them_and_read_data_takes_that(shards, tmp_path):
    files = {split: str(shards / f"{split}-*.tar") for split in ("train", "test")}
    table = datasets.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path))
    assert isinstance(table["train"].features["mp4"], datasets.Video)
    theirs = read_data(table, labels=["jump", "sit", "wave"])
    ours = read_data(shards)
    for split in ("train", "test"):
        pairs = [[(c.source.read_bytes(), c.label) for c in getattr(found, split)] for found in (theirs, ours)]
        assert pairs[0] == pairs[1]


def test_the_same_command_again_changes_nothing(shards, folder, tmp_path):
    out = shutil.copytree(shards, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    index = write(folder, out, max_clips=5)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert index.counts() == read_index(shards).counts()


@pytest.mark.parametrize("verify", [False, True])
def test_a_damaged_shard_is_written_anew(shards, folder, tmp_path, verify):
    out = shutil.copytree(shards, tmp_path / "out")
    hurt = out / "train-000001.tar"
    held = bytearray(hurt.read_bytes())
    if verify:
        held[1000] ^= 1
        hurt.write_bytes(held)
        write(folder, out, max_clips=5)
        assert content(out) != content(shards), "sizes alone do not tell"
    else:
        hurt.write_bytes(held[:-512])
    kept = (out / "train-000000.tar").stat().st_mtime_ns
    write(folder, out, max_clips=5, verify=verify)
    assert content(out) == content(shards)
    assert (out / "train-000000.tar").stat().st_mtime_ns == kept


class Stop(Exception):
    """Where a test ends a run."""


@pytest.mark.parametrize("call", [1, 2, 4, 6])
def test_a_run_that_ended_after_any_act_goes_on(shards, folder, tmp_path, monkeypatch, call):
    """Acts that other processes see: the moves of shards and of files of JSON."""
    replace, count = os.replace, 0

    def stopping(source, target):
        nonlocal count
        count += 1
        if count > call:
            raise Stop
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopping)
        with pytest.raises(Stop):
            write(folder, tmp_path / "out", max_clips=5)
    assert not (tmp_path / "out" / "index.json").exists()
    left = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    write(folder, tmp_path / "out", max_clips=5)
    assert content(tmp_path / "out") == content(shards)
    kept = [name for name, time in left.items() if (tmp_path / "out" / name).stat().st_mtime_ns == time]
    assert len(kept) >= len(left) - 1, "only what no record tells to be whole is written again"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("call", "left"),
    [
        (1, ".plan.json.*.part"),
        (2, ".train-000000.tar.part"),
        (3, ".train-000000.json.*.part"),
        (12, ".index.json.*.part"),  # the plan, five shards with a record each, and this
        (13, None),
    ],
)
def test_what_a_kill_before_a_move_leaves_is_cleared_away(shards, folder, tmp_path, call, left):
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        replace, count = os.replace, 0

        def killing(source, target):
            nonlocal count
            count += 1
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)  # no exception that could tidy up on its way
            replace(source, target)

        os.replace = killing
        try:
            write(folder, out, max_clips=5)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert [fnmatch(path.name, left) for path in out.rglob(".*.part")] == ([True] if left else [])
    write(folder, out, max_clips=5)
    assert content(out) == content(shards)
    assert not list(out.glob(".*"))


def test_unreadable_videos_stop_it_and_are_all_named(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "clips")
    bad = [root / "train" / "jump" / "jump_1.mp4", root / "train" / "wave" / "wave_3.mp4"]
    bad[0].write_bytes(b"")
    write_part(bad[1], folder / "train" / "wave" / "wave_3.mp4", 0.02)
    reason = "opening it failed: invalid data found when processing input"
    for on_error, flag in (("raise", "on_error='skip'"), ("stop", "--on-error skip")):
        with raises_exactly(
            DataError,
            "videos (2 of 18) must be readable, but these are not. Repair or remove them, or leave them out with "
            f"{flag}.\n  {bad[0]}: {reason}\n  {bad[1]}: {reason}",
        ):
            write(root, tmp_path / "out", max_clips=2, on_error=on_error)
    index = write(root, tmp_path / "out", max_clips=2, on_error="skip")
    assert sorted(index.skipped) == [("train/jump/jump_1.mp4", reason), ("train/wave/wave_3.mp4", reason)]
    assert index.counts()["train"]["clips"] == 10
    assert index.counts()["train"]["skipped"] == 2
    assert len(read_data(tmp_path / "out").train) == 10
    write(root, tmp_path / "at-once", max_clips=2, on_error="skip")
    assert content(tmp_path / "at-once") == content(tmp_path / "out")
    with pytest.raises(DataError, match=r"videos \(2 of 18\) must be readable"):
        write(root, tmp_path / "out", max_clips=2)
    splits = read_data(root)
    splits.test = [Clip(tmp_path / "gone.mp4", 0), *splits.train[:1]]
    with raises_exactly(
        DataError,
        "videos (3 of 14) must be readable, but these are not. Repair or remove them, or leave them out with on_error='skip'.\n"
        f"  {bad[0]}: {reason}\n  {bad[1]}: {reason}\n  {tmp_path}/gone.mp4: opening it failed: no such file or directory",
    ):
        write_shards(splits, tmp_path / "both")


class Vanishing:
    """A video that can be read when it is looked at, and not when it is written."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name, self.content = name, content

    def read_bytes(self) -> bytes:
        if self.content is None:
            raise UnreadableVideoError(self.name, "it went away")
        content, self.content = self.content, None
        return content


def test_a_video_that_goes_away_meanwhile(tmp_path, video):
    def splits() -> DataSplits:
        return DataSplits(train=[Clip(video, 0), Clip(Vanishing("away.mp4", video), 0), Clip(video, 0)], labels=["a"])

    plan = ShardPlan(shuffle=False, max_clips=2)
    with raises_exactly(UnreadableVideoError, "video (away.mp4) must be a readable video file, but it went away."):
        write_shards(splits(), tmp_path / "out", plan, workers=1)
    index = write_shards(splits(), tmp_path / "skip", plan, on_error="skip", workers=1)
    assert index.skipped == [("away.mp4", "it went away")]
    assert [[row.member[:8] for row in shard.rows] for shard in index.splits["train"]] == [["00000000", "00000002"]]


def test_nothing_that_can_be_read(tmp_path):
    (tmp_path / "clips" / "a").mkdir(parents=True)
    (tmp_path / "clips" / "a" / "x.mp4").write_bytes(b"no video")
    with raises_exactly(
        DataError,
        "videos (1) must have one that can be read, but none can.\n  a/x.mp4: opening it failed: invalid data found when "
        "processing input",
    ):
        write(tmp_path / "clips", tmp_path / "out", on_error="skip")


def test_no_clips(tmp_path):
    with raises_exactly(DataError, "splits must have clips to write, but they have none."):
        write_shards(DataSplits(), tmp_path / "out")


def test_limits_below_one():
    with raises_exactly(ConfigError, "max_bytes (0), max_clips (-1) must be at least 1."):
        ShardPlan(max_bytes=0, max_clips=-1)


def test_a_folder_with_something_else_in_it(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with raises_exactly(
        ConfigError,
        f"out ({tmp_path}) must be new or empty, or hold shards of the same data, but it holds notes.txt. Choose another "
        "place.",
    ):
        write(folder, tmp_path)
    with raises_exactly(
        ConfigError, f"out ({tmp_path / 'notes.txt'}) must be a folder, but it is a file. Choose another place."
    ):
        write(folder, tmp_path / "notes.txt")


def test_a_folder_of_other_settings_or_other_data(shards, folder, tmp_path):
    with raises_exactly(
        ConfigError,
        f"out ({shards}) must hold shards of the same data and settings, but seed was 0 and is 3, max_clips was 5 and is 4. "
        "Repeat them, or choose another place.",
    ):
        write(folder, shards, max_clips=4, seed=3)
    other = shutil.copytree(folder, tmp_path / "clips")
    with (other / "train" / "jump" / "jump_0.mp4").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigError, match=r"but fingerprint was '\w{16}' and is '\w{16}'\."):
        write(other, shards, max_clips=5)


def test_a_folder_that_another_process_writes_to(folder, tmp_path):
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); "
        "sys.stdin.read()"
    )
    (tmp_path / "out" / ".writing").mkdir(parents=True)
    held = [sys.executable, "-c", code, str(tmp_path / "out" / ".writing" / write_module.LOCK)]
    with subprocess.Popen(held, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with raises_exactly(
            ConfigError,
            f"out ({tmp_path / 'out'}) must be written by one process, but another one is at it. Wait until it has ended.",
        ):
            write(folder, tmp_path / "out")
        process.communicate()
    write(folder, tmp_path / "out")


def test_a_file_that_grows_while_it_is_read(tmp_path):
    growing = Path("/proc/self/status")  # it has a size of 0 and content
    if not growing.exists():
        pytest.skip("no such file here")
    sample = Sample(Clip(growing, 0), 0, "status", ["a"])
    with (
        (tmp_path / "x.tar").open("wb") as file,
        raises_exactly(
            DataError,
            "video (/proc/self/status) must stay as it is while it is written into a shard, but its size changed. Repeat "
            "the command when nothing writes to it.",
        ),
    ):
        sample.write(TarWriter(file))
    sample.close()
