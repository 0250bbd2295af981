"""Where a video comes from, what is said about it, and opening it."""

import io
import os
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ..errors import DataError, require


@runtime_checkable
class HeldVideo(Protocol):
    """A video that something else stores, for example a row of a data set."""

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    def read_bytes(self) -> bytes:
        """The whole file."""
        ...


Source = str | os.PathLike | bytes | HeldVideo


class UnreadableVideoError(DataError):
    """A video that cannot be read.

    Args:
        name: the file; or a whole message, which is all that torch hands on from a data loader's worker.
        reason: what is wrong with it, as the end of a sentence without its full stop.
    """

    def __init__(self, name: str, reason: str = "") -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"video ({self.name}) must be a readable video file, but {self.reason}." if self.reason else self.name


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Args:
        num_frames: frames that a player would show.
        width: of an upright frame, in pixels.
        height: of an upright frame, in pixels.
        fps: average frames per second; 0 where the file does not tell.
        duration_seconds: from the first frame to the end of the last; 0 where the file does not tell.
        codec: FFmpeg's name, for example `h264`.
        rotation: degrees counter-clockwise by which stored frames are turned to stand upright.
        header_frames: frames that the file's header promises; None where it does not tell.
        variable_frame_rate: whether frames stay for different times.
    """

    num_frames: int
    width: int
    height: int
    fps: float
    duration_seconds: float
    codec: str
    rotation: int
    header_frames: int | None
    variable_frame_rate: bool


def source_name(source: Source) -> str:
    """What to call a video in messages.

    Args:
        source: path, bytes or held video.

    Returns:
        The path, the held video's name, or the size of the bytes.
    """
    if isinstance(source, bytes):
        return f"{len(source)} bytes"
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else source.name


def open_video(source: str | bytes, name: str, num_threads: int = 1) -> tuple[Any, Any]:
    """Open a video with PyAV.

    Args:
        source: path or content.
        name: what to call it in messages.
        num_threads: of the decoder; 0 is one for each CPU core.

    Returns:
        The container and its first video stream, cover pictures not counted.

    Raises:
        UnreadableVideoError: it cannot be opened, or has no video in it.
        MissingExtraError: PyAV is not installed.
    """
    av = require("av", "video")
    # "file:" keeps FFmpeg from taking a colon in a name for a protocol.
    file = "file:" + source if isinstance(source, str) else io.BytesIO(source)
    try:
        # A playlist in a video's place must not reach for the network. Titles may be in any encoding.
        container = av.open(file, options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.error.FFmpegError, OSError) as error:
        reason = (error.strerror or str(error)).lower()
        raise UnreadableVideoError(name, f"opening it failed: {reason}") from None
    pictures = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not streams:
        container.close()
        raise UnreadableVideoError(name, "there is no video stream in it")
    stream = streams[0]
    if stream.codec_context is None:
        container.close()
        raise UnreadableVideoError(name, "there is no decoder for its video")
    stream.codec_context.thread_count = num_threads
    stream.codec_context.thread_type = "NONE" if num_threads == 1 else "AUTO"
    return container, stream


def content(source: Source) -> str | bytes:
    """The path of a file, or the bytes of anything else.

    Args:
        source: path, bytes or held video.

    Returns:
        What `open_video` takes.
    """
    if isinstance(source, bytes):
        return source
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else source.read_bytes()
