"""A file that crashes or blocks the decoder is named; the others are read. Processes really crash and block here."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from breaking import crashing_reader, once, process_of, work
from clips import write_clip
from helpers import raises_exactly

from apt_peft.errors import ConfigError
from apt_peft.video import Clip, ClipTransform, DataSplits, UnreadableVideoError, VideoDataset, audit, keep_readable
from apt_peft.video import guard as guard_module
from apt_peft.video.guard import guarded
from apt_peft.video.readable import fill_cache

CRASHED = "it crashed the decoder (signal 11)"


def did(items, work=work, **settings):
    settings = {"names": [f"<{item}>" for item in items], "time_limit": 60} | settings
    found = guarded(work, items, **settings)
    return [
        result if not isinstance(result, UnreadableVideoError) else (result.name, result.reason) for result in found
    ]


def test_what_ends_a_process_is_named_and_the_rest_is_done():
    steps = []
    items = ["a", "segfault", "abort", "kill", "b", "exit", "bug", "unreadable", "c"]
    assert did(items, progress=steps.append, workers=2) == [
        "A",
        ("<segfault>", CRASHED),
        ("<abort>", "it crashed the decoder (signal 6)"),
        ("<kill>", "it crashed the decoder (signal 9, perhaps for lack of memory)"),
        "B",
        ("<exit>", "it ended the decoder (exit code 3)"),
        ("<bug>", "decoding it failed with ValueError: strange"),
        ("<unreadable>", "it is empty"),
        "C",
    ]
    assert steps == [1] * len(items)


def test_what_blocks_a_process_is_named_and_the_rest_is_done():
    late = "reading it took longer than 0.5 s"
    assert did(["stop", "a", "spin", "b"], time_limit=0.5, workers=2) == [("<stop>", late), "A", ("<spin>", late), "B"]


def test_a_crash_that_does_not_happen_again_is_none(tmp_path):
    assert did([str(tmp_path / "file")], once) == ["second time"]


def test_workers_are_few_and_gone_afterwards():
    pairs = did(["x"] * 6, process_of, workers=2)
    workers, parents = {worker for worker, _ in pairs}, {parent for _, parent in pairs}
    assert len(workers) == 2
    assert len(parents) == 1
    assert os.getpid() not in workers | parents
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_errors_of_the_user_end_it():
    with raises_exactly(ConfigError, "size (0) must be at least 1."):
        did(["a", "config", "b"])
    with raises_exactly(ConfigError, "time_limit (0) must be above 0 seconds."):
        did(["a"], time_limit=0)


def test_the_process_that_forks_may_be_lost():
    ((_, parent),) = did(["x"], process_of)
    os.kill(parent, signal.SIGKILL)
    assert did(["a"]) == ["A"]


def test_a_process_that_cannot_start(monkeypatch):
    monkeypatch.setattr(guard_module, "_running", None)
    monkeypatch.setattr(guard_module.atexit, "register", lambda _: None)
    monkeypatch.setattr(guard_module.sys, "executable", "/bin/false")
    with raises_exactly(
        ConfigError,
        "/bin/false must start a process that decodes, but it ended with exit code 1. Its own message stands above.",
    ):
        did(["a"])


SCRIPT = """
import sys, types
package = types.ModuleType("apt_peft")  # without PEFT, for speed
package.__path__ = [sys.argv[2]]
sys.modules["apt_peft"] = package
sys.path.append(sys.argv[1])
from breaking import process_of, work
from apt_peft.video.guard import guarded
print(*guarded(process_of, ["x"], names=["x"])[0], flush=True)
guarded(work, ["spin"], names=["x"])
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_no_process_is_left_when_the_run_is_ended(ending):
    """Without a guard in the main module, too: a script may simply call it."""
    tests = str(Path(__file__).parents[2])
    package = str(Path(guard_module.__file__).parents[1])
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, tests, package], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with run:
        _, parent = map(int, run.stdout.readline().split())
        end = time.monotonic() + 60
        while not (children := Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
            assert time.monotonic() < end
        # An interrupt may come where nothing hears it; whoever presses Ctrl-C presses it again.
        end = time.monotonic() + 60
        while run.poll() is None and time.monotonic() < end:
            run.send_signal(ending)
            time.sleep(1)
        run.wait(0)
        while any(Path(f"/proc/{pid}").exists() for pid in (parent, *children)):
            assert time.monotonic() < end


@pytest.fixture
def files(tmp_path):
    return [write_clip(tmp_path / f"{name}.mp4", num_frames=4, width=32, height=24) for name in "ab"]


def test_a_file_that_blocks_the_decoder(tmp_path, files):
    """Opening a named pipe waits for a writer."""
    os.mkfifo(pipe := tmp_path / "pipe.mp4")
    clips = [Clip(file, label) for label, file in enumerate([files[0], pipe, files[1]])]
    kept, (error,) = keep_readable(clips, on_error="skip", time_limit=3)
    assert kept == [clips[0], clips[2]]
    assert (error.name, error.reason) == (str(pipe), "reading it took longer than 3 s")
    report = audit(DataSplits(train=clips, labels=["a", "b", "c"]), time_limit=3)
    assert [file.reason for file in report.files] == [None, "reading it took longer than 3 s", None]
    assert report.fatal


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_a_file_that_crashes_the_decoder(tmp_path, files):
    """It is read twice, and the process that does gets what a fault in FFmpeg would get."""
    pipe = tmp_path / "pipe.mp4"
    clips = [Clip(file, label) for label, file in enumerate([files[0], pipe, files[1]])]
    with crashing_reader(pipe, times=2):
        kept, (error,) = keep_readable(clips, on_error="skip", whole=True)
    assert kept == [clips[0], clips[2]]
    assert (error.name, error.reason) == (str(pipe), CRASHED)


class Held:
    """A video that something else stores, and that cannot be pickled."""

    def __init__(self, name: str, content: bytes | None) -> None:
        self.name, self.content, self.lock = name, content, (n for n in ())

    def read_bytes(self) -> bytes:
        if self.content is None:
            raise UnreadableVideoError("row", "fetching it failed: gone")
        return self.content


def test_videos_that_something_else_stores(files):
    clips = [Clip(Held(name, content)) for name, content in
             [("good", files[0].read_bytes()), ("bad", b"no video"), ("gone", None)]]  # fmt: skip
    kept, errors = keep_readable(clips, on_error="skip")
    assert kept == clips[:1]
    assert [(error.name, error.reason) for error in errors] == [
        ("bad", "opening it failed: invalid data found when processing input"),
        ("gone", "fetching it failed: gone"),
    ]


def test_paths_are_relative_to_where_this_process_is(tmp_path, files, monkeypatch):
    place = Path(files[0])
    assert keep_readable([Clip(place)], on_error="skip")[1] == []  # what forks is running, wherever it was started
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(place.parent)
    kept, errors = keep_readable([Clip(place.name)], on_error="skip")
    assert (len(kept), errors) == (1, [])


def test_a_cache_is_filled_by_other_processes(tmp_path, files):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    clips = [Clip(file, label) for label, file in enumerate([*files, tmp_path / "broken.mp4"])]
    settings = {"num_frames": 2, "transform": ClipTransform(16), "cache": tmp_path / "cache"}
    dataset = VideoDataset(clips, training=True, **settings)
    (error,) = fill_cache({"train": dataset}, [("train", clip) for clip in clips])
    assert error.name == str(tmp_path / "broken.mp4")
    assert len(dataset.clips) == 3
    assert len(list((tmp_path / "cache").glob("*.frames"))) == 2
    plain = VideoDataset(clips[:2], num_frames=2, transform=ClipTransform(16), training=True)
    expected = [plain[index]["pixel_values"] for index in range(2)]
    for index in range(2):
        assert torch.equal(dataset[index]["pixel_values"], expected[index])
