"""Items are the same in every process, new in every epoch, and the same from the cache."""

import copy
import os
import pickle
from dataclasses import replace

import pytest
import torch
from clips import write_classes, write_clip
from helpers import raises_exactly
from torch.utils.data import DataLoader

from apt_peft.errors import ConfigError, DataError
from apt_peft.video import (
    Clip,
    ClipTransform,
    UnreadableVideoError,
    VideoDataset,
    clip_generator,
    dataset,
    read_data,
    read_frames,
    sample_frames,
    sample_segments,
)
from apt_peft.video.cache import FrameCache

TRANSFORM = ClipTransform(16, augment="crop")
TRAINING = {"num_frames": 4, "transform": TRANSFORM, "training": True}


@pytest.fixture(scope="module")
def clips(made):
    return read_data(write_classes(made / "dataset", ["jump", "wave"], clips=3, num_frames=24)).train


def values(data, epochs=1):
    items = []
    for epoch in range(epochs):
        data.set_epoch(epoch)
        items += [item["pixel_values"] for item in data]
    return torch.stack(items)


def test_a_training_item(clips):
    data = VideoDataset(clips, **TRAINING, sampling="dense", frame_stride=2, seed=5)
    data.set_epoch(3)
    assert len(data) == 6
    assert data.epoch == 3
    item = data[4]
    assert item.keys() == {"pixel_values", "labels"}
    assert item["labels"] == 1
    assert item["pixel_values"].shape == (4, 3, 16, 16)
    generator = clip_generator(5, 3, 4)
    indices = sample_frames("dense", 24, 4, frame_stride=2, generator=generator)
    assert torch.equal(item["pixel_values"], TRANSFORM(read_frames(clips[4].source, indices), generator))
    assert torch.equal(data[-2]["pixel_values"], item["pixel_values"])


@pytest.mark.parametrize("sampling", ["even", "uniform", "dense"])
def test_test_views_are_segments_by_crops(made, sampling):
    clip = Clip(write_clip(made / "wide.mp4", width=96, num_frames=24), 1)
    transform = ClipTransform(16)
    data = VideoDataset([clip], num_frames=4, transform=transform, sampling=sampling, segments=2, crops=3)
    item = data[0]
    assert item["pixel_values"].shape == (6, 4, 3, 16, 16)
    assert (item["labels"], item["index"]) == (1, 0)
    for segment, indices in enumerate(sample_segments(sampling, 24, 4, segments=2)):
        prepared = transform.prepare(read_frames(clip.source, indices))
        views = item["pixel_values"][3 * segment : 3 * segment + 3]
        assert torch.equal(views, transform.finish_views(prepared, 3))


def test_a_video_is_opened_once_for_all_views(clips, monkeypatch):
    from apt_peft.video import dataset

    opened = []
    reader = dataset.VideoReader
    monkeypatch.setattr(dataset, "VideoReader", lambda source, **how: opened.append(source) or reader(source, **how))
    VideoDataset(clips, num_frames=4, transform=ClipTransform(16), segments=5, crops=3)[0]
    assert len(opened) == 1


def test_clips_without_a_label(clips):
    data = VideoDataset([Clip(clips[0].source)], num_frames=4, transform=TRANSFORM)
    assert data[0].keys() == {"pixel_values", "index"}


def test_items_depend_on_seed_epoch_and_index_alone(clips):
    data = VideoDataset(clips, **TRAINING)
    first = values(data)
    torch.manual_seed(1)
    assert torch.equal(values(data), first)
    assert torch.equal(values(pickle.loads(pickle.dumps(data))), first)
    assert torch.equal(values(copy.deepcopy(data)), first)
    assert not torch.equal(values(VideoDataset(clips, **TRAINING, seed=1)), first)
    data.set_epoch(1)
    assert not torch.equal(torch.stack([item["pixel_values"] for item in data]), first)
    same = VideoDataset([clips[0]] * 2, **TRAINING)
    assert not torch.equal(same[0]["pixel_values"], same[1]["pixel_values"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_running_workers_see_a_new_epoch(clips, start):
    data = VideoDataset(clips, **TRAINING, sampling="uniform")
    expected = values(data, epochs=3)
    # Through a pickle, as a data set may come from anywhere before its workers start.
    data = pickle.loads(pickle.dumps(data))
    loader = DataLoader(data, batch_size=4, num_workers=2, persistent_workers=True, multiprocessing_context=start)
    seen = []
    for epoch in range(3):
        data.set_epoch(epoch)
        seen += [batch["pixel_values"] for batch in loader]
    assert torch.equal(torch.cat(seen), expected)


@pytest.mark.parametrize(
    "settings",
    [
        TRAINING,
        TRAINING | {"sampling": "dense", "frame_stride": 2},
        TRAINING | {"sampling": "uniform", "repeats": 2},
        {"num_frames": 4, "transform": ClipTransform(16), "segments": 2},
        {"num_frames": 4, "transform": ClipTransform(16), "segments": 3, "sampling": "dense", "crops": 2},
    ],
)
def test_the_cache_changes_nothing(clips, tmp_path, settings):
    expected = values(VideoDataset(clips, **settings), epochs=2)
    cached = VideoDataset(clips, **settings, cache=tmp_path / "new" / "cache")
    assert torch.equal(values(cached, epochs=2), expected)
    assert len(list((tmp_path / "new" / "cache").glob("*.frames"))) == 6
    assert torch.equal(values(cached, epochs=2), expected)


def test_the_cache_spares_decoding(made, tmp_path, monkeypatch):
    file = write_clip(tmp_path / "a.mp4")
    clip = Clip(file, 0)
    data = VideoDataset([clip], **TRAINING, cache=tmp_path / "cache")
    first = data[0]["pixel_values"]
    monkeypatch.setattr("apt_peft.video.dataset.VideoReader", None)  # nothing can be decoded any more
    assert torch.equal(data[0]["pixel_values"], first)


def test_the_cache_tells_a_file_of_equal_path_size_and_time(made, tmp_path):
    file = write_clip(tmp_path / "a.mp4", seed=1)
    data = VideoDataset([Clip(file, 0)], **TRAINING, cache=tmp_path / "cache")
    data[0]
    stat = file.stat()
    file.write_bytes(bytes(stat.st_size))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match="must be a readable video file"):
        data[0]


def test_the_cache_knows_changed_files_and_settings(made, tmp_path):
    file = write_clip(tmp_path / "a.mp4", num_frames=12)
    cache = tmp_path / "cache"
    settings = {"num_frames": 4, "transform": ClipTransform(16), "cache": cache}

    def count(clip=None, **changed):
        VideoDataset([clip or Clip(file, 0)], **settings | changed)[0]
        return len(list(cache.glob("*.frames")))

    assert count() == 1
    assert count(training=True) == 1  # the same frames
    assert count(transform=replace(ClipTransform(16), mean=(0, 0, 0), augment="flip")) == 1
    assert count(num_frames=3) == 2
    assert count(sampling="dense") == 3
    assert count(sampling="dense", frame_stride=2) == 4
    assert count(segments=2) == 5
    assert count(transform=ClipTransform(20)) == 6
    assert count(transform=ClipTransform(16, resize="squash")) == 7
    assert count(clip=Clip(file.read_bytes(), 0)) == 8
    assert count(cache=FrameCache(cache, format="jpeg")) == 9
    assert count(training=True, sampling="dense") == 10
    assert count(training=True, sampling="dense", num_frames=2, frame_stride=1) == 10  # all frames, whichever are drawn
    assert count(training=True, sampling="uniform") == 10
    write_clip(file, num_frames=13)
    assert count() == 11


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_share_a_cache(clips, tmp_path):
    data = VideoDataset(clips[:1] * 8, num_frames=4, transform=ClipTransform(16), cache=tmp_path)
    batches = list(DataLoader(data, num_workers=4, multiprocessing_context="fork"))
    assert all(torch.equal(batch["pixel_values"], batches[0]["pixel_values"]) for batch in batches)
    assert len(list(tmp_path.glob("*.frames"))) == 1


def test_an_unreadable_file_is_named(tmp_path):
    message = (
        f"video ({tmp_path}/x.mp4) must be a readable video file, but opening it failed: no such file or directory."
    )
    for cache in (None, tmp_path / "cache"):
        with raises_exactly(UnreadableVideoError, message):
            VideoDataset([Clip(tmp_path / "x.mp4", 0)], **TRAINING, cache=cache)[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling": "some"}, "sampling ('some') must be one of 'even', 'uniform', 'dense'."),
        (
            {"num_frames": 0, "frame_stride": 0, "segments": 0, "crops": 0},
            "num_frames (0), frame_stride (0), segments (0), crops (0) must be whole numbers from 1 up.",
        ),
        (
            {"training": True, "segments": 2},
            "segments (2) and crops (1) must be 1 for training: one clip of a video is drawn. Use them for evaluation.",
        ),
        (
            {"transform": ClipTransform(16, resize="squash"), "crops": 3},
            "crops (3) must be 1 with resize 'squash', but squashed frames have no longer side. Use resize 'crop'.",
        ),
        (
            {"transform": ClipTransform(16, full_resolution=True), "cache": "folder"},
            "cache (folder) must not be used with full_resolution, but whole frames are not kept. Leave one of them out.",
        ),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with raises_exactly(ConfigError, message):
        VideoDataset([], **{"num_frames": 4, "transform": TRANSFORM} | settings)


def test_a_repeated_clip_is_decoded_once_and_drawn_anew(clips, monkeypatch):
    transform = ClipTransform(16, augment="flip", rand_augment="rand-m9-n2-mstd0.5-inc1", random_resized_crop=True)
    settings = TRAINING | {"transform": transform, "sampling": "uniform", "seed": 3}
    repeated, single = VideoDataset(clips, **settings, repeats=3), VideoDataset(clips, **settings)
    opened = []
    original = dataset.VideoReader.__init__
    monkeypatch.setattr(
        dataset.VideoReader,
        "__init__",
        lambda self, source, **options: opened.append(source) or original(self, source, **options),
    )
    for data in (repeated, single):
        data.set_epoch(2)
    item = repeated[4]
    assert opened == [clips[4].source]
    assert item["labels"].tolist() == [1, 1, 1]
    assert item["pixel_values"].shape == (3, 4, 3, 16, 16)
    assert torch.equal(item["pixel_values"][0], single[4]["pixel_values"])
    indices = sample_frames("uniform", 24, 4, generator=clip_generator(3, 2, 4))
    prepared = transform.prepare(read_frames(clips[4].source, indices))
    for view in (1, 2):
        assert torch.equal(item["pixel_values"][view], transform.finish(prepared, clip_generator(3, 2, 4, view)))
    assert len({view.numpy().tobytes() for view in item["pixel_values"]}) == 3
    worker = DataLoader(repeated, batch_size=6, num_workers=1)
    assert torch.equal(next(iter(worker))["pixel_values"], torch.stack([item["pixel_values"] for item in repeated]))


def test_test_views_are_not_repeated(clips):
    with raises_exactly(
        ConfigError, "repeats (2) must be 1 for evaluation, but test views are not random. Use segments and crops."
    ):
        VideoDataset(clips, num_frames=4, transform=ClipTransform(16), repeats=2)
