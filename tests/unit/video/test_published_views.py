"""Frames and squares of the published protocol, index by index, against a computation with other means."""

import av
import numpy as np
import pytest
import torch
from clips import write_clip

from apt_peft.evaluation import evaluate
from apt_peft.video import Clip, ClipTransform, VideoDataset, clip_generator, sample_frames, sample_segments

LENGTHS = [*range(1, 140), 186, 250, 300, 301, 1000]


def dense_test(video: int, segments: int, frames: int = 16, stride: int = 4) -> list[list[int]]:
    """Every stride-th frame, the last one repeated, and windows whose starts stand evenly from the first to the last."""
    strided = np.arange(video)[::stride]
    strided = np.pad(strided, (0, max(frames - len(strided), 0)), constant_values=video - 1)
    windows = np.lib.stride_tricks.sliding_window_view(strided, frames)
    return windows[np.linspace(0, len(windows) - 1, segments).astype(int)].tolist()


@pytest.mark.parametrize("segments", [5, 10])
def test_dense_test_windows(segments):
    for video in LENGTHS:
        assert sample_segments("dense", video, 16, frame_stride=4, segments=segments) == dense_test(video, segments)


def test_uniform_test_clips_interleave():
    for video in LENGTHS:
        part = video / 16
        starts = [int(part * segment) for segment in range(16)]
        middles = [int(part * segment + part / 2) for segment in range(16)]
        assert sample_segments("uniform", video, 16, segments=2) == [starts, middles]


def test_uniform_training_takes_a_frame_of_each_part():
    for video in LENGTHS:
        edges = np.linspace(0, video, 17)
        clip = np.array(sample_frames("uniform", video, 16, generator=clip_generator(0, 0, video)))
        assert ((np.floor(edges[:-1]) <= clip) & (clip < np.ceil(edges[1:]))).all(), video


def dense_windows(video: int, frames: int = 16, stride: int = 4) -> list[list[int]]:
    """Every window of frames x stride frames that fits, evenly spaced; of a shorter video the one there is."""
    length = frames * stride
    if video <= length:
        spaced = np.linspace(0, video, video // stride)
        return [np.append(spaced, np.full(frames - len(spaced), video)).clip(0, video - 1).astype(int).tolist()]
    starts = range(video - length + 1)
    return [np.linspace(s, s + length, frames).clip(s, s + length - 1).astype(int).tolist() for s in starts]


def test_dense_training_windows():
    for video in LENGTHS:
        known = dense_windows(video)
        for epoch in range(3):
            drawn = sample_frames("dense", video, 16, frame_stride=4, generator=clip_generator(0, epoch, video))
            assert drawn in known, video
    drawn = {tuple(sample_frames("dense", 70, 16, generator=clip_generator(0, epoch, 1))) for epoch in range(200)}
    assert drawn == set(map(tuple, dense_windows(70))), "every window is drawn"


@pytest.fixture(scope="module", params=[(64, 48), (48, 64)], ids=["wide", "tall"])
def clip(request, tmp_path_factory):
    """70 frames whose shorter side is 48."""
    width, height = request.param
    place = tmp_path_factory.mktemp("views") / f"{width}.mp4"
    return write_clip(place, num_frames=70, width=width, height=height, gop=12)


@pytest.mark.parametrize(("sampling", "segments"), [("dense", 10), ("uniform", 2)])
def test_views_are_three_squares_of_each_segment(clip, sampling, segments):
    with av.open(str(clip)) as container:
        video = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    if sampling == "dense":
        indices = dense_test(len(video), segments)
    else:
        indices = [np.arange(32)[first::2] * 70 // 32 for first in (0, 1)]
    wanted = []
    for chosen in indices:
        for start in (0, 8, 16):  # of 64 - 48 pixels to spare
            square = np.roll(video[chosen], -start, axis=2 if video.shape[2] == 64 else 1)[:, :48, :48]
            wanted.append(square.transpose(0, 3, 1, 2))
    dataset = VideoDataset(
        [Clip(clip, 1)],
        num_frames=16,
        transform=ClipTransform(48, mean=(0, 0, 0), std=(1, 1, 1)),
        sampling=sampling,
        segments=segments,
        crops=3,
    )
    views = dataset[0]["pixel_values"]
    assert views.shape == (3 * segments, 16, 3, 48, 48)
    levels = views * 255
    assert torch.equal(levels.round(), torch.from_numpy(np.stack(wanted)).float())
    assert (levels - levels.round()).abs().max() < 1e-4


class Colours(torch.nn.Module):
    """A classifier of three classes from the mean of each colour, so that views differ."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(5.0))

    def forward(self, pixel_values: torch.Tensor):
        return type("Output", (), {"logits": self.factor * pixel_values.mean(dim=(1, 3, 4))})


def test_scores_are_softmaxed_for_each_view_and_averaged(clip):
    dataset = VideoDataset(
        [Clip(clip, 0), Clip(clip, 2)],
        num_frames=16,
        transform=ClipTransform(24),
        sampling="dense",
        segments=5,
        crops=3,
    )
    result = evaluate(Colours(), dataset, labels=["r", "g", "b"], names=["one", "two"], batch_size=4)
    views = dataset[0]["pixel_values"].double().mean(dim=(1, 3, 4)).numpy() * 5
    each = np.exp(views) / np.exp(views).sum(axis=1, keepdims=True)
    assert len(np.unique(each.round(4), axis=0)) > 3
    assert np.allclose(result.scores[0].numpy(), each.mean(axis=0), atol=1e-6)
    assert torch.equal(result.scores[0], result.scores[1])
