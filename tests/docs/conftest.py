"""What the pages and the examples say they need, tiny: folders of clips and a backbone under a published name."""

import shutil
from pathlib import Path

import pytest
from clips import write_classes, write_clip
from layouts import write_ucf101
from models import tiny_videomae
from pages import BACKBONE

CLASSES = ("jump", "sit", "wave")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A folder with `clips/train`, `clips/test`, lists of these, `new-clips` and the backbone, made once."""
    root = tmp_path_factory.mktemp("prepared")
    size = {"num_frames": 6, "width": 32, "height": 24}
    write_classes(root / "clips" / "train", CLASSES, clips=4, **size)
    write_classes(root / "clips" / "test", CLASSES, clips=2, **size)
    write_clip(root / "new-clips" / "kick.mp4", seed=7, **size)
    write_clip(root / "new-clips" / "fall.mp4", seed=8, **size)
    write_ucf101(root / "ucf101")
    for split, clips in (("train", 4), ("test", 2)):
        lines = [f"{split}/{name}/{name}_{number}.mp4 {name}" for name in CLASSES for number in range(clips)]
        (root / f"{split}-list.txt").write_text("\n".join(lines) + "\n")
    tiny_videomae(num_labels=2).save_pretrained(root / BACKBONE)
    return root


@pytest.fixture
def place(prepared, tmp_path, monkeypatch) -> Path:
    """The current folder of one test, with its own copy of what is prepared."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
