"""The blocks of docs/hub.md that need the Hub, and the example that uploads, run against the tests' own."""

import runpy
import shlex
import sys
from pathlib import Path

import pytest
from clips import write_classes, write_clip
from models import prompted, tiny_videomae
from server import Hub

from apt_peft.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
from pages import BACKBONE, DOCS, ROOT, blocks, commands

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def place(server, tmp_path, monkeypatch) -> Hub:
    """A folder with clips, and a Hub with the backbone of the pages."""
    monkeypatch.chdir(tmp_path)
    size = {"num_frames": 6, "width": 32, "height": 24}
    write_classes(tmp_path / "clips" / "train", ["jump", "sit"], clips=4, **size)
    write_classes(tmp_path / "clips" / "test", ["jump", "sit"], clips=2, **size)
    write_clip(tmp_path / "new-clips" / "kick.mp4", seed=7, **size)
    tiny_videomae(num_labels=2).save_pretrained(tmp_path / "base")
    server.add(BACKBONE, {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()})
    return server


def test_the_blocks_that_need_the_hub(place, capsys):
    model = prompted(model=tiny_videomae(num_labels=2), id2label={0: "jump", 1: "sit"})
    model.peft_config["default"].base_model_name_or_path = BACKBONE
    names = {"model": model}
    ran = 0
    for block in blocks(DOCS / "hub.md"):
        if not block.not_run:
            continue
        ran += 1
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.code, "hub.md", "exec"), names)
            continue
        for line in commands(block.code):
            program, *words = shlex.split(line)
            assert program == "apt-peft"
            words += ["--epochs", "1", "--num-prompt-tokens", "3"] * (words[0] == "train") + [
                "--no-progress",
                "--threads",
                "1",
            ]
            assert main(words) == 0, capsys.readouterr().err
            if words[0] == "train":
                repository = place.repositories["me/jumps"]
                repository.refs["v1"] = repository.refs["main"]
    assert ran == 4


def test_the_example_that_uploads(place, monkeypatch, capsys):
    flags = ["--model", BACKBONE, "--data", "clips", "--epochs", "1", "--num-prompt-tokens", "3", "--no-progress"]
    assert main(["train", "--out", "first", "--threads", "1", *flags]) == 0
    monkeypatch.setattr(sys, "argv", ["push_and_load.py", "--adapter", "first", "--out", "copy", "--repo", "me/copy"])
    runpy.run_path(str(ROOT / "examples" / "push_and_load.py"), run_name="__main__")
    assert f"uploaded: {place.address}/me/copy/commit/" in capsys.readouterr().out
    assert "run.json" in place.files("me/copy")
