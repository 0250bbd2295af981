"""Shards of a data set on the Hub: fetched once, of one commit, and what cannot be had is told in a line."""

from pathlib import Path

import pytest
from clips import write_classes
from helpers import raises_exactly
from huggingface_hub import constants
from server import Fault
from tars import write_tar

from apt_peft.errors import DataError
from apt_peft.video import read_data
from apt_peft.video.clip import original_name
from apt_peft.video.shards.write import ShardPlan, write_shards

NAME = "me/clips"
KEY = f"datasets/{NAME}"  # as the server knows it


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    """Two training shards and one test shard."""
    root = tmp_path_factory.mktemp("hub-shards")
    for split, count in (("train", 2), ("test", 1)):
        write_classes(root / "clips" / split, ["jump", "sit"], clips=count, num_frames=2, width=32, height=24)
    write_shards(
        read_data(root / "clips"), root / "shards", ShardPlan(max_clips=2), root=str(root / "clips"), workers=1
    )
    return root / "shards"


@pytest.fixture
def hub(server, ours):
    """The same on the Hub, in a folder of the data set."""
    server.add(KEY, {f"deep/{path.name}": path.read_bytes() for path in ours.iterdir()})
    return server


def contents(splits) -> dict[str, list[tuple[bytes, int, str]]]:
    return {
        split: [(clip.source.read_bytes(), clip.label, original_name(clip, "")) for clip in clips]
        for split, clips in splits.items()
    }


@pytest.mark.parametrize(
    "pattern",
    [
        "hf://datasets/me/clips/deep/train-{000000..000001}.tar,hf://datasets/me/clips/deep/test-000000.tar",
        "hf://datasets/me/clips/deep/*.tar",
        "hf://datasets/me/clips@main/deep/t*.tar",
    ],
)
def test_they_are_what_lies_here(hub, ours, pattern):
    """With the index and the names of the classes that lie beside them."""
    found = read_data(pattern)
    assert found.labels == ["jump", "sit"]
    assert contents(found) == contents(read_data(ours))


def test_one_shard_and_nothing_else(hub, ours):
    found = read_data("hf://datasets/me/clips/deep/train-000001.tar")
    assert contents(found) == contents(read_data(ours / "train-000001.tar"))
    assert not hub.requests("GET", f"/{KEY}/resolve/.*train-000000")


def test_they_are_fetched_once_and_read_offline(hub, ours, monkeypatch):
    data = "hf://datasets/me/clips/deep/train-{000000..000001}.tar"
    first = contents(read_data(data))
    fetched = len(hub.requests("GET", "/objects/"))
    assert fetched == 2
    assert contents(read_data(data)) == first
    assert len(hub.requests("GET", "/objects/")) == fetched
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.log)
    assert contents(read_data(data)) == first
    assert len(hub.log) == asked


def test_all_are_of_one_commit(hub, ours, another):
    """A data set that changes while it is fetched; and a revision that is asked for stays what it was."""
    before = hub.repositories[KEY].refs["main"]
    old = contents(read_data(ours))["train"]
    changed = {"deep/train-000001.tar": another}

    def change(content: bytes) -> bytes:
        hub.repositories[KEY].commit(changed)
        return content

    hub.faults.append(Fault("GET", "/objects/", change=change))  # while the first is fetched
    found = contents(read_data("hf://datasets/me/clips/deep/train-{000000..000001}.tar"))
    assert hub.repositories[KEY].refs["main"] != before
    assert found["train"] == old
    assert contents(read_data(f"hf://datasets/me/clips@{before}/deep/train-000001.tar"))["train"] == old[2:]
    new = read_data("hf://datasets/me/clips/deep/train-000001.tar")
    assert {Path(clip.source.shard).read_bytes() for clip in new.train} == {another}


@pytest.fixture
def another(ours, tmp_path) -> bytes:
    """A shard of another making."""
    video = read_data(ours).test[0].source.read_bytes()
    return write_tar(
        tmp_path / "x.tar", [("1.mp4", video), ("1.cls", b"1"), ("2.mp4", video), ("2.cls", b"0")]
    ).read_bytes()


def test_without_anything_beside_them(server, tmp_path, ours):
    video = read_data(ours).test[0].source.read_bytes()
    members = [("1.mp4", video), ("1.cls", b"1"), ("2.mp4", video), ("2.cls", b"0")]
    server.add(KEY, {"0.tar": write_tar(tmp_path / "0.tar", members).read_bytes()})
    found = read_data("hf://datasets/me/clips/0.tar")
    assert ([clip.label for clip in found.train], found.labels) == ([1, 0], ["0", "1"])


def test_what_cannot_be_had(hub, tmp_path):
    with raises_exactly(
        DataError,
        "shards (hf://me/clips/0.tar) must be files of a data set on the Hub, hf://datasets/OWNER/NAME/FILE.tar or "
        "hf://datasets/OWNER/NAME@REVISION/FILE.tar, but it is not written so. Shards elsewhere must be downloaded first.",
    ):
        read_data("hf://me/clips/0.tar")
    with raises_exactly(
        DataError,
        "shards (hf://datasets/me/clips/x*.tar) must be files, but there are no such files. Check the names.",
    ):
        read_data("hf://datasets/me/clips/x*.tar")
    for data, told in {
        "hf://datasets/me/clips/no.tar": "no.tar of me/clips must be on the Hub, but ",
        "hf://datasets/me/none/0.tar": "0.tar of me/none must be on the Hub, but there is no repository me/none, or",
        "hf://datasets/me/none/*.tar": "the files of me/none must be on the Hub, but there is no repository me/none, or it is",
        "hf://datasets/me/clips@gone/deep/test-000000.tar": "deep/test-000000.tar of me/clips must be on the Hub, but it has no "
        "revision gone.",
    }.items():
        with pytest.raises(DataError) as found:
            read_data(data)
        assert str(found.value).startswith(told)


def test_a_shard_that_is_damaged_on_its_way(hub):
    hub.faults.append(Fault("GET", "/objects/", change=lambda content: bytes(content[:-1]) + b"x"))
    with pytest.raises(DataError, match="It was deleted; load it again"):
        read_data("hf://datasets/me/clips/deep/test-000000.tar")
    assert len(read_data("hf://datasets/me/clips/deep/test-000000.tar").test) == 2
