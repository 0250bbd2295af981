"""Frames from the cache are those that were decoded, whoever else uses it, is killed, or damages it."""

import io
import logging
import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from clips import write_clip, write_damaged
from helpers import raises_exactly
from PIL import Image
from torch.utils.data import DataLoader

from apt_peft.errors import ConfigError
from apt_peft.video import (
    Clip,
    ClipTransform,
    FrameCache,
    VideoDataset,
    VideoReader,
    clip_generator,
    read_frames,
    sample_frames,
)
from apt_peft.video.cache import SAID, SUFFIX
from apt_peft.video.entry import HEAD, decode_jpeg, encode_jpeg

FORK = multiprocessing.get_context("fork")
TRANSFORM = ClipTransform(16)
FRAME = 3 * 16 * 21


@pytest.fixture(scope="module")
def files(made):
    return [write_clip(made / "cache" / f"{seed}.mp4", num_frames=20, seed=seed) for seed in range(6)]


def frames_of(cache, file, indices, *, whole=False, key=None):
    """Through the cache, counting the frames that are decoded for it."""
    decoded = []

    def visit(choose, take):
        with VideoReader(file) as video:
            video.visit(choose, lambda index, frame: (decoded.append(index), take(index, frame)))

    frames = cache.read(
        key or file.stem, choose=lambda count: indices, visit=visit, prepare=TRANSFORM.prepare, whole=whole
    )
    return frames, len(decoded)


def expected(file, indices):
    return TRANSFORM.prepare(read_frames(file, indices))


def entries(cache):
    return sorted(cache.folder.glob(f"*{SUFFIX}"))


def size(cache):
    return sum(path.stat().st_size for path in entries(cache))


def test_whole_videos_serve_any_frames(files, tmp_path):
    cache = FrameCache(tmp_path)
    for indices, decoded in [([3, 4, 4], 20), ([0, 19], 0), ([7, 2, 7, 11], 0), (list(range(20)), 0)]:
        frames, count = frames_of(cache, files[0], indices, whole=True)
        assert count == decoded
        assert torch.equal(frames, expected(files[0], indices))
    assert frames_of(cache, files[1], [3, 5])[1] == 2
    assert frames_of(cache, files[1], [5, 3])[1] == 0
    assert frames_of(cache, files[1], [4])[1] == 1  # not among those that were kept: kept instead


@pytest.mark.parametrize("format", ["raw", "jpeg"])
def test_a_flipped_byte_anywhere_is_found_and_written_anew(files, tmp_path, format):
    cache = FrameCache(tmp_path, format=format)
    first, _ = frames_of(cache, files[0], [2, 9], whole=True)
    (path,) = entries(cache)
    whole = path.read_bytes()
    draw = random.Random(0)
    head = HEAD.size + 20 * 20
    frames = [place for place in range(head, len(whole)) if draw.random() < 12 / len(whole)]
    for place in [*range(0, head, 7), *frames]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        assert torch.equal(frames_of(cache, files[0], [2, 9], whole=True)[0], first)
        assert torch.equal(frames_of(cache, files[0], range(20), whole=True)[0][[2, 9]], first)
        assert path.read_bytes() == whole
    for other in (b"", whole[:20], whole[:100], whole[:-1], b"something else" * 100):
        path.write_bytes(other)
        assert torch.equal(frames_of(cache, files[0], range(20), whole=True)[0][[2, 9]], first)
        assert path.read_bytes() == whole


def test_jpeg_clips_are_the_same_with_and_without_an_entry(files, tmp_path):
    indices = [1, 5, 5, 17]
    cache = FrameCache(tmp_path / "jpeg", format="jpeg")
    first, count = frames_of(cache, files[0], indices)
    assert count == 3
    assert torch.equal(frames_of(cache, files[0], indices)[0], first)
    assert torch.equal(frames_of(FrameCache(tmp_path / "small", format="jpeg", limit=1), files[0], indices)[0], first)
    exact = expected(files[0], indices)
    assert not torch.equal(first, exact)
    assert (first.float() - exact.float()).abs().mean() < 6  # 16 x 21 pixels with hard edges
    assert size(cache) < 4 * FRAME


@pytest.mark.parametrize("shape", [(16, 21), (1, 1), (224, 398)])
def test_jpegs_are_read_as_pillow_opens_them(shape):
    frame = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    content = encode_jpeg(frame)
    with Image.open(io.BytesIO(content)) as picture:
        opened = np.array(picture)
    assert np.array_equal(decode_jpeg(content, *shape).permute(1, 2, 0), opened)


def test_the_limit_holds_and_filling_stops(files, tmp_path, caplog):
    one = HEAD.size + 20 * 20 + 20 * FRAME
    cache = FrameCache(tmp_path, limit=3 * one + 100)
    for _ in range(2):
        for file in files:
            assert torch.equal(frames_of(cache, file, [3, 12], whole=True)[0], expected(file, [3, 12]))
            assert size(cache) <= cache.limit
    assert [path.stem for path in entries(cache)] == ["0", "1", "2"]  # those that are in use stay
    assert frames_of(cache, files[5], [3, 12], whole=True)[1] == 2  # and no whole video is decoded for nothing
    message = f"Cache {tmp_path} is filled no further (entries in use take {3 * one} of {3 * one + 100} bytes). "
    assert [record.getMessage() for record in caplog.records] == [message + "Clips that are not in it are decoded."]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 3])
def test_that_it_is_full_is_said_once_by_all_workers(files, tmp_path, workers):
    """And in each epoch's workers, which are new ones; another run says it again."""
    handler = logging.FileHandler(tmp_path / "log")  # which workers have in common
    logging.getLogger("apt_peft").addHandler(handler)
    try:
        for run in (1, 2):
            cache = FrameCache(tmp_path / "cache", limit=HEAD.size + 20 * 3 + 3 * FRAME)
            both = [VideoDataset([Clip(file) for file in files], num_frames=2, transform=TRANSFORM, cache=cache)] * 2
            for dataset in both:
                for _ in range(2):
                    list(DataLoader(dataset, batch_size=None, num_workers=workers))
            assert (tmp_path / "log").read_text().count("is filled no further") == run
    finally:
        logging.getLogger("apt_peft").removeHandler(handler)
        handler.close()
    FrameCache(tmp_path / "cache")
    marks = list((tmp_path / "cache" / "parts").iterdir())
    assert len(marks) == 2, "a run that goes on may still need them"
    for mark in marks:
        os.utime(mark, (1, 1))
    FrameCache(tmp_path / "cache")
    assert not list((tmp_path / "cache" / "parts").iterdir())


def test_what_nobody_uses_any_more_makes_room(files, tmp_path):
    for file in files[:3]:
        frames_of(FrameCache(tmp_path), file, [3, 12], whole=True)
    old = time.time() - 3600
    for age, name in enumerate(["2", "0", "1"]):
        os.utime(tmp_path / f"{name}{SUFFIX}", (old - age, old - age))
    one = HEAD.size + 20 * 20 + 20 * FRAME
    cache = FrameCache(tmp_path, limit=3 * one)
    assert frames_of(cache, files[1], [5], whole=True)[1] == 0  # in use again
    frames_of(cache, files[3], [5], whole=True)
    assert [path.stem for path in entries(cache)] == ["1", "2", "3"]
    frames_of(cache, files[4], [5], whole=True)
    assert [path.stem for path in entries(cache)] == ["1", "3", "4"]
    frames_of(cache, files[5], [5], whole=True)
    assert [path.stem for path in entries(cache)] == ["1", "3", "4"]


def test_what_is_used_at_once_is_in_use(tmp_path):
    # The clock that files are dated with runs a tick behind `time.time()`.
    for number in range(20):
        cache = FrameCache(tmp_path, limit=10**6)
        entry = tmp_path / f"{number}{SUFFIX}"
        entry.touch()
        assert entry.stat().st_mtime >= cache._opened
    assert not list((tmp_path / "parts").iterdir())


def test_an_entry_larger_than_the_limit_is_left_out_and_others_are_not(files, tmp_path, caplog):
    cache = FrameCache(tmp_path, limit=10 * FRAME)
    for file in files[:2]:
        frames_of(cache, file, [3], whole=True)
    assert [record.getMessage() for record in caplog.records] == [
        f"Cache {tmp_path} has no place for entries larger than its limit (one takes {HEAD.size + 20 * 20 + 20 * FRAME} of "
        f"{10 * FRAME} bytes). Their clips are decoded."
    ]
    assert torch.equal(frames_of(cache, files[0], [3], whole=True)[0], expected(files[0], [3]))
    assert frames_of(cache, files[0], [3], key="few")[1] == 1
    assert [path.stem for path in entries(cache)] == ["few"]


def test_frames_that_never_come_are_neither_kept_nor_drawn(made, tmp_path):
    whole = write_clip(made / "cache" / "big.mp4", num_frames=60, gop=12, width=160, height=120, options={"crf": "18"})
    damaged = write_damaged(tmp_path / "damaged.mp4", whole, 0.8)
    data = {"num_frames": 4, "transform": TRANSFORM, "training": True, "sampling": "dense", "frame_stride": 9}
    cached = VideoDataset([Clip(damaged, 0)], **data, cache=tmp_path / "cache")
    with VideoReader(damaged) as video:
        video.read(range)
        count = video.num_frames
    assert count < 60
    for epoch in range(6):
        anew = VideoDataset([Clip(damaged, 0)], **data, cache=tmp_path / f"cache{epoch}")
        anew.set_epoch(epoch)
        cached.set_epoch(epoch)
        generator = clip_generator(0, epoch, 0)
        frames = read_frames(damaged, range)
        indices = sample_frames("dense", count, 4, frame_stride=9, generator=generator)
        exact = TRANSFORM.finish(TRANSFORM.prepare(frames[indices]), generator)
        assert torch.equal(cached[0]["pixel_values"], exact)
        assert torch.equal(anew[0]["pixel_values"], exact)


def fill(folder, files, limit, rounds, seed=0):
    draw = random.Random(seed)
    cache = FrameCache(folder, limit=limit)
    for _ in range(rounds):
        file = draw.choice(files)
        indices = sorted(draw.sample(range(20), 3))
        frames, _ = frames_of(cache, file, indices, whole=True, key=f"{file.stem}_{draw.randrange(8)}")
        assert torch.equal(frames, expected(file, indices))


def test_processes_share_a_cache_and_its_limit(files, tmp_path):
    limit = 9 * (HEAD.size + 20 * 20 + 20 * FRAME)
    children = [FORK.Process(target=fill, args=(tmp_path, files, limit, 25, seed)) for seed in range(4)]
    for child in children:
        child.start()
    sizes = []
    while any(child.is_alive() for child in children):
        sizes.append(sum(path.stat().st_size for path in tmp_path.glob(f"*{SUFFIX}")))
        time.sleep(0.01)
    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    cache = FrameCache(tmp_path)
    assert len(entries(cache)) == 9
    assert max(sizes) <= limit
    assert [path for path in (tmp_path / "parts").iterdir() if path.suffix != SAID] == []


def test_a_killed_writer_leaves_nothing_that_counts(files, tmp_path):
    draw = random.Random(3)
    limit = 30 * (HEAD.size + 20 * 20 + 20 * FRAME)
    left = 0
    for kill in range(20):
        child = FORK.Process(target=fill, args=(tmp_path, files, limit, 10**6, kill))
        child.start()
        time.sleep(draw.uniform(0.01, 0.15))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        left += len(list((tmp_path / "parts").iterdir())) if (tmp_path / "parts").exists() else 0
        cache = FrameCache(tmp_path, limit=limit)
        assert [path for path in (tmp_path / "parts").iterdir() if path.suffix != SAID] == []
        for path in entries(cache):
            file = files[int(path.stem.split("_")[0])]
            frames, decoded = frames_of(cache, file, range(20), key=path.stem)
            assert decoded == 0
            assert torch.equal(frames, expected(file, range(20)))
        assert size(cache) <= limit
    assert left  # some were killed in the middle of an entry


def test_a_part_that_is_being_written_is_not_cleared_away(files, tmp_path):
    cache = FrameCache(tmp_path)

    def visit(choose, take):
        with VideoReader(files[0]) as video:
            video.visit(choose, take)
        FrameCache(tmp_path)  # another process opens it before this entry is in its place

    cache.read("a", choose=lambda count: [1, 2], visit=visit, prepare=TRANSFORM.prepare)
    assert [path.stem for path in entries(cache)] == ["a"]


def test_a_folder_that_takes_no_more(files, tmp_path, monkeypatch, caplog):
    cache = FrameCache(tmp_path)
    frames_of(cache, files[0], [1])
    monkeypatch.setattr("apt_peft.video.cache._Part", _raises(OSError(28, "No space left on device")))
    assert torch.equal(frames_of(cache, files[1], [1])[0], expected(files[1], [1]))
    assert torch.equal(frames_of(cache, files[0], [1])[0], expected(files[0], [1]))
    assert [record.getMessage() for record in caplog.records] == [
        f"Cache {tmp_path} is filled no further (writing fails: no space left on device). "
        "Clips that are not in it are decoded."
    ]
    monkeypatch.setattr("apt_peft.video.cache._Part", _raises(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"):
        frames_of(FrameCache(tmp_path), files[2], [1])


def _raises(error):
    def fail(*_):
        raise error

    return fail


def test_memory_does_not_grow_with_the_video(made, tmp_path):
    import tracemalloc

    file = write_clip(made / "cache" / "long.mp4", num_frames=300, width=160, height=120)
    cache = FrameCache(tmp_path)
    np.zeros(1)
    tracemalloc.start()
    frames_of(cache, file, [0, 299], whole=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 * 160 * 120 * 3 / 4


def test_values_that_cannot_be_used(tmp_path):
    with raises_exactly(ConfigError, "cache_format ('png') must be one of 'raw', 'jpeg'."):
        FrameCache(tmp_path, format="png")
    (tmp_path / "file").write_bytes(b"")
    with raises_exactly(
        ConfigError,
        f"cache ({tmp_path / 'file'}) must be a folder that can be written to, but: Not a directory. Choose another one.",
    ):
        FrameCache(tmp_path / "file")
    with raises_exactly(ConfigError, "cache_limit (0) must be at least 1 byte."):
        FrameCache(tmp_path, limit=0)
