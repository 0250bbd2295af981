"""A folder is there with all its files or not at all, whenever the process that writes it is killed."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import raises_exactly

import apt_peft
from apt_peft import ConfigError
from apt_peft.video.folder_of_files import check_folder, write_folder


def files(*names: str, text: str = "x") -> dict[str, bytes]:
    return {**{name: text.encode() for name in names}, "manifest.json": json.dumps({"files": list(names)}).encode()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_new_empty_and_replaced_folders(tmp_path, monkeypatch):
    out = tmp_path / "deep" / "out"
    write_folder(out, files("a", "b/c"))
    assert contents(out) == files("a", "b/c")
    write_folder(out, files("d"), overwrite=True)
    assert contents(out) == files("d")
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty", files("a"))
    assert contents(tmp_path / "empty") == files("a")
    monkeypatch.chdir(tmp_path)
    write_folder("relative", files("a"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "empty", "relative"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_folder_in_use_is_left_alone(tmp_path):
    out = tmp_path / "out"
    write_folder(out, files("a"))
    message = (
        f"out ({out}) must be a new or empty folder, but there is something in it. Choose another one, or replace lists that "
        "are there by --overwrite."
    )
    for refuse in (check_folder, lambda out: write_folder(out, files("b"))):
        with raises_exactly(ConfigError, message):
            refuse(out)
    (out / "mine.txt").touch()
    more = "but there is more in it: mine.txt. Choose another folder."
    with raises_exactly(ConfigError, f"out ({out}) must hold only what apt-peft lists wrote to be overwritten, {more}"):
        write_folder(out, files("b"), overwrite=True)
    assert contents(out) == {**files("a"), "mine.txt": b""}
    (out / "manifest.json").write_text("[]")
    more = "but there is more in it: a, manifest.json, mine.txt. Choose another folder."
    with raises_exactly(ConfigError, f"out ({out}) must hold only what apt-peft lists wrote to be overwritten, {more}"):
        check_folder(out, overwrite=True)


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with raises_exactly(
        ConfigError, f"out ({tmp_path}/file) must be a new or empty folder, but it is a file. Choose another one."
    ):
        write_folder(tmp_path / "file", files("a"), overwrite=True)
    with raises_exactly(
        ConfigError,
        f"out ({tmp_path}/file/x) must be a folder that can be written, but: File exists. Choose another one.",
    ):
        write_folder(tmp_path / "file" / "x", files("a"))


def test_what_a_kill_between_two_moves_leaves_is_put_back(tmp_path):
    out, old = tmp_path / "out", tmp_path / ".out.old"
    write_folder(out, files("a"))
    out.rename(old)
    with pytest.raises(ConfigError, match="there is something in it"):
        write_folder(out, files("b"))
    assert contents(out) == files("a")
    write_folder(old, files("older"))
    write_folder(out, files("b"), overwrite=True)
    assert contents(out) == files("b")
    assert not old.exists()


# Packages without their own code: a process that starts at once.
WRITER = """
import sys, types
for name, path in (("apt_peft", sys.argv[1]), ("apt_peft.video", sys.argv[1] + "/video")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
import json
from apt_peft.video.folder_of_files import write_folder
names = [f"fold-{n}/train.csv" for n in range(20)]
for turn in range(10**9):
    text = str(turn % 2).encode() * 1000
    table = json.dumps({"files": names}).encode()
    write_folder(sys.argv[2], {**dict.fromkeys(names, text), "manifest.json": table}, overwrite=True)
    print(turn, flush=True)
"""


def test_a_process_killed_at_any_moment_leaves_all_files_or_none(tmp_path):
    out, random_ = tmp_path / "out", random.Random(0)
    seen = set()
    for _ in range(7):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(Path(apt_peft.__file__).parent), str(out)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for turn in range(random_.randint(1, 3)):
            assert process.stdout.readline() == f"{turn}\n".encode()
        time.sleep(random_.random() * 0.05)
        process.kill()
        process.communicate()
        state = contents(out)
        if state:
            assert len(state) == 21
            assert len({content for name, content in state.items() if name != "manifest.json"}) == 1
            seen.add(state["fold-0/train.csv"][:1])
        else:  # killed between the two moves: what was there is beside it, whole
            assert len(contents(tmp_path / ".out.old")) == 21
    assert seen
    assert seen <= {b"0", b"1"}
    write_folder(out, files("a"), overwrite=True)
    assert contents(out) == files("a")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
