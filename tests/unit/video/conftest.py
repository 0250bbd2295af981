"""Tiny videos that all tests of this folder read."""

import pytest
from clips import write_clip


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
