"""Which frames of a video make a clip: index arithmetic alone, no file is touched here."""

import hashlib

import torch

from ..errors import ConfigError

SAMPLINGS = ("even", "uniform", "dense")


def clip_generator(seed: int, epoch: int, index: int, view: int = 0) -> torch.Generator:
    """A random generator for one view of one clip in one epoch, the same in every process.

    Args:
        seed: the run's seed.
        epoch: counted from 0.
        index: the clip's place in its data set.
        view: which draw of this clip in this epoch.

    Returns:
        A new generator on the CPU.
    """
    digest = hashlib.blake2b(repr((int(seed), int(epoch), int(index), int(view))).encode(), digest_size=8).digest()
    # 63 bits: torch takes a signed 64-bit seed everywhere.
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def sample_frames(
    sampling: str,
    num_video_frames: int,
    num_frames: int,
    *,
    frame_stride: int = 4,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Choose the frames of one clip.

    Args:
        sampling: `"even"` takes the centre of each of `num_frames` equal segments of the whole video; `"uniform"` a random
            frame of each segment, or its centre without a generator; `"dense"` a random window of `num_frames` x
            `frame_stride` frames, of which `num_frames` evenly spaced ones from its first to its last, or the middle test
            window without a generator, and a video that is too short repeats its last frame.
        num_video_frames: frames in the video.
        num_frames: frames in the clip (T).
        frame_stride: frames of a dense window for each frame of the clip; the other samplings do not use it.
        generator: draws what is random; None is for evaluation.

    Returns:
        T indices, none smaller than the one before.

    Raises:
        ConfigError: an unknown sampling, or a count below 1.

    Source: Bandara & Patel, Attention Prompt Tuning (FG 2024), its published training recipes; reference code, the data sets'
    `loadvideo_decord`.
    """
    _check(sampling, num_video_frames, num_frames, frame_stride)
    if generator is None:
        return sample_segments(sampling, num_video_frames, num_frames, frame_stride=frame_stride, segments=1)[0]
    if sampling == "dense":
        window = min(num_frames * frame_stride, num_video_frames)
        start = int(torch.randint(num_video_frames - window + 1, (), generator=generator))
        # Of a short video as many frames as it has strides, then the last one again and again.
        spaced = num_frames if window == num_frames * frame_stride else window // frame_stride
        places = [min(step * window // max(spaced - 1, 1), window - 1) for step in range(spaced)]
        return [start + place for place in places] + [num_video_frames - 1] * (num_frames - spaced)
    if sampling == "uniform":
        inside = torch.rand(num_frames, generator=generator, dtype=torch.float64).tolist()
        return [_place(step + part, num_frames, num_video_frames) for step, part in enumerate(inside)]
    return [_place(step + 0.5, num_frames, num_video_frames) for step in range(num_frames)]


def sample_segments(
    sampling: str, num_video_frames: int, num_frames: int, *, frame_stride: int = 4, segments: int = 1
) -> list[list[int]]:
    """Choose the frames of all test views of one video; nothing is random.

    Even and uniform sampling interleave the views: view v takes every `segments`-th of `segments * num_frames` evenly
    spaced frames, from the v-th on. These are the centres of as many equal parts of the video; with uniform sampling and
    several views, as published, their first frames. Dense sampling takes every `frame_stride`-th frame of the whole video
    and spreads `segments` windows of `num_frames` of them evenly from the first to the last possible place; a single
    window stands in the middle.

    Args:
        sampling: `"even"`, `"uniform"` or `"dense"`.
        num_video_frames: frames in the video.
        num_frames: frames in a clip (T).
        frame_stride: step between the frames of a dense clip, in frames.
        segments: views in time.

    Returns:
        `segments` lists of T indices.

    Raises:
        ConfigError: an unknown sampling, or a count below 1.

    Source: Bandara & Patel, Attention Prompt Tuning (FG 2024), its published training recipes; reference code, the data sets'
    test mode.
    """
    _check(sampling, num_video_frames, num_frames, frame_stride, segments)
    if sampling != "dense":
        total = segments * num_frames
        inside = 0.0 if sampling == "uniform" and segments > 1 else 0.5
        places = [_place(step + inside, total, num_video_frames) for step in range(total)]
        return [places[view::segments] for view in range(segments)]
    strided = list(range(0, num_video_frames, frame_stride))
    spare = max(len(strided) - num_frames, 0)
    starts = [spare // 2] if segments == 1 else [view * spare // (segments - 1) for view in range(segments)]
    strided += [num_video_frames - 1] * (num_frames - len(strided))
    return [strided[start : start + num_frames] for start in starts]


def _place(position: float, parts: int, num_video_frames: int) -> int:
    """The frame at `position` of `parts` equal parts of the video."""
    return min(int(position * num_video_frames / parts), num_video_frames - 1)


def check_sampling(sampling: str) -> None:
    """Refuse a sampling that does not exist.

    Raises:
        ConfigError: it is not one of `SAMPLINGS`.
    """
    if sampling not in SAMPLINGS:
        names = ", ".join(repr(name) for name in SAMPLINGS)
        raise ConfigError(f"sampling ({sampling!r}) must be one of {names}.")


def _check(sampling: str, num_video_frames: int, num_frames: int, frame_stride: int, segments: int = 1) -> None:
    check_sampling(sampling)
    counts = {
        "num_video_frames": num_video_frames,
        "num_frames": num_frames,
        "frame_stride": frame_stride,
        "segments": segments,
    }
    check_counts(counts)


def check_counts(counts: dict[str, int]) -> None:
    """Refuse counts that are not whole numbers from 1 up.

    Args:
        counts: name -> value.

    Raises:
        ConfigError: all wrong ones.
    """
    wrong = [
        f"{name} ({value!r})"
        for name, value in counts.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1
    ]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)} must be whole numbers from 1 up.")
