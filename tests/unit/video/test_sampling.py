"""Index arithmetic: every rule by hand, and what holds for all counts."""

import multiprocessing

import pytest
import torch
from helpers import raises_exactly

from apt_peft.errors import ConfigError
from apt_peft.video import clip_generator, sample_frames, sample_segments


def test_even_takes_the_centre_of_equal_segments():
    assert sample_frames("even", 80, 8) == [5, 15, 25, 35, 45, 55, 65, 75]
    assert sample_frames("even", 5, 8) == [0, 0, 1, 2, 2, 3, 4, 4]
    assert sample_frames("even", 1, 4) == [0, 0, 0, 0]
    assert sample_frames("even", 80, 8, generator=clip_generator(0, 0, 0)) == sample_frames("even", 80, 8)


def test_uniform_draws_one_frame_of_each_segment():
    drawn = [sample_frames("uniform", 80, 8, generator=clip_generator(0, epoch, 3)) for epoch in range(300)]
    for segment in range(8):
        assert {clip[segment] for clip in drawn} == set(range(10 * segment, 10 * segment + 10))
    assert sample_frames("uniform", 80, 8) == sample_frames("even", 80, 8)


def test_dense_draws_every_window_and_repeats_the_last_frame_of_a_short_video():
    drawn = [
        sample_frames("dense", 20, 4, frame_stride=3, generator=clip_generator(0, epoch, 3)) for epoch in range(300)
    ]
    assert {clip[0] for clip in drawn} == set(range(9))  # a window is 12 frames long: the last starts at 8
    assert all(clip == [clip[0], clip[0] + 4, clip[0] + 8, clip[0] + 11] for clip in drawn)
    assert sample_frames("dense", 8, 4, frame_stride=3, generator=clip_generator(0, 0, 0)) == [0, 7, 7, 7]
    assert sample_frames("dense", 2, 4, frame_stride=3, generator=clip_generator(0, 0, 0)) == [1, 1, 1, 1]


def test_dense_segments_spread_over_the_strided_video():
    # Every second of 40 frames: 20 places, of which windows of 4 start at 0, 8 and 16.
    assert sample_segments("dense", 40, 4, frame_stride=2, segments=3) == [
        [0, 2, 4, 6],
        [16, 18, 20, 22],
        [32, 34, 36, 38],
    ]
    assert sample_segments("dense", 40, 4, frame_stride=2, segments=1) == [[16, 18, 20, 22]]
    assert sample_segments("dense", 5, 4, frame_stride=2, segments=2) == [[0, 2, 4, 4], [0, 2, 4, 4]]
    assert sample_segments("dense", 6, 4, frame_stride=2, segments=1) == [[0, 2, 4, 5]]


def test_even_and_uniform_segments_interleave():
    assert sample_segments("uniform", 80, 4, segments=2) == [[0, 20, 40, 60], [10, 30, 50, 70]]
    assert sample_segments("even", 80, 4, segments=2) == [[5, 25, 45, 65], [15, 35, 55, 75]]
    assert sample_segments("uniform", 80, 4) == [[10, 30, 50, 70]]
    assert sample_segments("even", 80, 8, segments=1) == [sample_frames("even", 80, 8)]


@pytest.mark.parametrize("sampling", ["even", "uniform", "dense"])
def test_indices_are_inside_and_never_fall(sampling):
    for video in [*range(1, 40), 1000]:
        for frames in (1, 3, 8):
            clips = [sample_frames(sampling, video, frames, generator=clip_generator(0, e, video)) for e in range(3)]
            for segments in (1, 2, 5):
                clips += sample_segments(sampling, video, frames, segments=segments)
            for clip in clips:
                assert len(clip) == frames
                assert clip == sorted(clip)
                assert 0 <= clip[0] <= clip[-1] < video


def _draw(place: tuple[int, int, int, int]) -> float:
    return float(torch.rand((), generator=clip_generator(*place)))


def test_generator_is_a_function_of_its_four_numbers_in_every_process():
    places = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 11, 1, 0), (0, 1, 11, 0)]
    here = [_draw(place) for place in places]
    assert len(set(here)) == len(places)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_draw, places) == here


def test_unknown_sampling():
    with raises_exactly(ConfigError, "sampling ('random') must be one of 'even', 'uniform', 'dense'."):
        sample_frames("random", 10, 4)


def test_counts_below_one():
    message = (
        "num_video_frames (0), num_frames (-1), frame_stride (1.5), segments (True) must be whole numbers from 1 up."
    )
    with raises_exactly(ConfigError, message):
        sample_segments("even", 0, -1, frame_stride=1.5, segments=True)
