"""Class folders and shards of them, written once."""

from pathlib import Path

import pytest
from clips import write_classes, write_clip

from apt_peft.video import read_data
from apt_peft.video.shards.write import ShardPlan, write_shards

CLASSES = ["jump", "sit", "wave"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Three classes: four training clips and two test clips each."""
    root = tmp_path_factory.mktemp("shards") / "clips"
    size = {"num_frames": 4, "width": 32, "height": 24}
    write_classes(root / "train", CLASSES, clips=4, **size)
    write_classes(root / "test", CLASSES, clips=2, **size)
    return root


@pytest.fixture(scope="session")
def shards(folder) -> Path:
    """Shards of at most five of these clips; not to be changed."""
    out = folder.parent / "shards"
    write_shards(read_data(folder), out, ShardPlan(max_clips=5), root=str(folder))
    return out


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> bytes:
    """The content of a small video."""
    return write_clip(tmp_path_factory.mktemp("one") / "a.mp4", num_frames=4, width=32, height=24).read_bytes()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No index goes to the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
