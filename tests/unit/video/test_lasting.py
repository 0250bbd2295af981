"""Clips that cannot be read any more in the middle of a run are named, and the run goes on with others."""

import gc
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from breaking import crashing_reader
from clips import write_clip
from helpers import raises_exactly
from torch.utils.data import DataLoader

from apt_peft.errors import ConfigError, DataError
from apt_peft.video import Clip, ClipTransform, UnreadableVideoError, VideoDataset
from apt_peft.video.lasting import LastingDataset, lost_clips

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="named pipes, and processes of their own"),
    # Python 3.12 and 3.13 say so of a fork in a process with threads
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
HANGS = "reading it took longer than 1 s"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two of each of two classes, in turns."""
    folder = tmp_path_factory.mktemp("clips")
    size = {"width": 40, "height": 32}
    return [Clip(write_clip(folder / f"{i}.mp4", num_frames=6 + i, seed=i, **size), i % 2) for i in range(4)]


@pytest.fixture
def silent(tmp_path):
    """A named pipe that blocks whoever reads it."""
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)
    yield pipe
    os.close(end)


def settings(**more):
    return {"num_frames": 3, "transform": ClipTransform(16, augment="crop"), "seed": 3, "training": True} | more


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "more",
    [{"sampling": "uniform"}, {"repeats": 2}, {"training": False, "segments": 2, "transform": ClipTransform(16)}],
)
def test_where_nothing_is_broken_it_is_any_other_data_set(clips, more, workers):
    both = [kind(clips, **settings(**more)) for kind in (VideoDataset, LastingDataset)]
    for dataset in both:
        dataset.set_epoch(2)
    loaders = [DataLoader(dataset, batch_size=3, num_workers=workers * (dataset is both[1])) for dataset in both]
    for ours, theirs in zip(*loaders, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_of_its_class_takes_the_place_of_a_clip_that_hangs(clips, silent, tmp_path, workers):
    journal = tmp_path / "run" / "lost.jsonl"
    broken = [clips[0], clips[1], Clip(silent, 0), clips[3]]
    dataset = LastingDataset(broken, time_limit=1, journal=journal, **settings())
    read = [item["pixel_values"][0] for item in DataLoader(dataset, num_workers=workers)]
    assert [torch.equal(read[2], item) for item in read] == [True, False, True, False]
    again = LastingDataset(pickle.loads(pickle.dumps(broken)), time_limit=1e-6, journal=journal, **settings())
    assert lost_clips(journal) == {str(silent): HANGS}
    assert journal.read_text().count("\n") == 1
    assert again._lost.tolist() == dataset._lost.tolist() == [0, 0, 1, 0]


def test_a_crash_names_a_test_clip_once(clips, tmp_path):
    pipe, journal = tmp_path / "pipe.mp4", tmp_path / "lost.jsonl"
    own = settings(training=False, transform=ClipTransform(16))
    dataset = LastingDataset([clips[0], Clip(pipe, 0)], journal=journal, **own)
    message = f"video ({pipe}) must be a readable video file, but it crashed the decoder (signal 11)."
    with crashing_reader(pipe, times=2), raises_exactly(UnreadableVideoError, message):
        dataset.test_views(1)
    for known in (dataset, LastingDataset(dataset.clips, journal=journal, **own)):
        with raises_exactly(UnreadableVideoError, message):
            known[1]  # nobody would answer
    assert torch.equal(known[0]["pixel_values"], VideoDataset(clips[:1], **own)[0]["pixel_values"])


def test_nothing_is_left(clips, tmp_path):
    gone = [Clip(tmp_path / "gone.mp4", 0), Clip(tmp_path / "away.mp4", 1)]
    dataset = LastingDataset(gone, **settings())
    with raises_exactly(DataError, "training clips (2) must be readable, but none of them is any more. Repair them."):
        dataset[1]
    with raises_exactly(ConfigError, "time_limit (0) must be above 0 seconds."):
        LastingDataset(clips, time_limit=0, **settings())


def test_another_class_where_nothing_of_its_own_is_left(clips, tmp_path):
    dataset = LastingDataset([Clip(tmp_path / "gone.mp4", 1), clips[0]], **settings())
    item = dataset.draw(0)
    assert item["labels"] == 0
    assert torch.equal(item["pixel_values"], VideoDataset(dataset.clips, **settings())[1]["pixel_values"])


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_no_process_stays_when_it_is_gone(clips):
    dataset = LastingDataset(clips, **settings())
    dataset[0]
    (worker,) = dataset._crew[1].all
    assert Path(f"/proc/{worker.pid}").exists()
    del dataset
    gc.collect()
    assert not Path(f"/proc/{worker.pid}").exists()


def test_half_a_line_of_a_journal_counts_for_nothing(tmp_path):
    (tmp_path / "lost.jsonl").write_text(json.dumps({"name": "a", "reason": "b"}) + '\n{"name": "c", "rea')
    assert lost_clips(tmp_path / "lost.jsonl") == {"a": "b"}
    assert lost_clips(tmp_path / "none.jsonl") == {}
