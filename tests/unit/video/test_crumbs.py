"""A worker of a data loader that dies is named by the file that it was reading."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from breaking import crashing_reader
from clips import write_clip
from helpers import raises_exactly
from torch.utils.data import DataLoader

from apt_peft.errors import DataError
from apt_peft.video import Clip, ClipTransform, VideoDataset
from apt_peft.video.crumbs import reading, unreadable_by_name, was_reading

# Python 3.12 and 3.13 say so of a fork while another thread runs; the loader's workers are forked all the same.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
FORKS = pytest.mark.skipif(
    not sys.platform.startswith("linux") or sys.version_info >= (3, 14), reason="workers are forked"
)


def test_what_a_process_reads_is_seen_by_the_one_above():
    pid = os.fork()
    if pid == 0:
        with reading("first"):
            pass
        with reading("x" * 600 + "/clip.mp4"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert was_reading(pid).endswith("x/clip.mp4")
    assert was_reading(pid + 1) is None
    with reading("here"):
        assert was_reading(os.getpid()) == "here"
    assert was_reading(os.getpid()) is None


@FORKS
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_a_loader_whose_worker_crashes_names_the_file(tmp_path):
    pipe = tmp_path / "pipe.mp4"
    clips = [Clip(write_clip(tmp_path / "a.mp4", num_frames=4, width=32, height=24), 0), Clip(pipe, 1)]
    dataset = VideoDataset(clips, num_frames=2, transform=ClipTransform(16))
    dataset[0]  # torchvision is imported here and not in the worker
    message = (
        f"video ({pipe}) must be a readable video file, but reading it ended a process of the data loader. Leave it out: "
        "--on-error skip goes on without such files."
    )
    with crashing_reader(pipe, times=1, inherited=1), raises_exactly(DataError, message), unreadable_by_name():
        list(DataLoader(dataset, batch_size=1, num_workers=1, generator=torch.Generator().manual_seed(0)))


@FORKS
def test_a_line_that_is_dead_before_its_worker_is(tmp_path):
    pid = os.fork()
    if pid == 0:
        with reading("slow.mp4"):
            time.sleep(0.3)
            os._exit(1)
    message = (
        "video (slow.mp4) must be a readable video file, but reading it ended a process of the data loader. Leave it out: "
        "--on-error skip goes on without such files."
    )
    with raises_exactly(DataError, message), unreadable_by_name():
        while was_reading(pid) is None:
            time.sleep(0.01)
        raise ConnectionResetError("Connection reset by peer")
    os.waitpid(pid, 0)
    with pytest.raises(EOFError, match=r"^nobody ended$"), unreadable_by_name():  # what was left behind is forgotten
        raise EOFError("nobody ended")


@FORKS
def test_a_loader_whose_worker_hangs_names_the_file(tmp_path):
    pipe = tmp_path / "pipe.mp4"
    clips = [Clip(write_clip(tmp_path / "a.mp4", num_frames=4, width=32, height=24), 0), Clip(pipe, 1)]
    dataset = VideoDataset(clips, num_frames=2, transform=ClipTransform(16))
    dataset[0]
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)  # as long as it is open and silent, a reader waits
    message = (
        f"video ({pipe}) must be a readable video file, but reading it took longer than 1 s. Leave it out: "
        "--on-error skip goes on without such files."
    )
    try:
        with raises_exactly(DataError, message), unreadable_by_name(time_limit=1):
            list(DataLoader(dataset, batch_size=1, num_workers=1, generator=torch.Generator().manual_seed(0)))
    finally:
        os.close(end)


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid 1\) is killed"), unreadable_by_name():
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. ")
