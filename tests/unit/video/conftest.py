"""Tiny videos that all tests of this folder read."""

import av
import numpy as np
import pytest
from clips import write_clip


def decode_all(path) -> list[np.ndarray]:
    """Every frame of a video as it is stored, by the plainest road: the reference for reading a few."""
    with av.open(str(path)) as container:
        # Threads left over in frames and decoders would hang a worker that a test forks.
        container.streams.video[0].codec_context.thread_count = 1
        return [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder for videos that are written once."""
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="session")
def plain(made):
    """12 frames of 64 x 48 at 10 frames per second, two keyframes."""
    return write_clip(made / "plain.mp4")


@pytest.fixture(scope="session")
def longer(made):
    """60 frames, five keyframes, three B-frames in a row."""
    return write_clip(made / "longer.mp4", num_frames=60, gop=12, b_frames=3, seed=1)
