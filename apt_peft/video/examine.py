"""One video read from end to end: how many frames come, what is damaged, what its content is."""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import require
from .decode import VideoReader
from .source import Source, VideoInfo, content, open_video, source_name

if TYPE_CHECKING:
    import numpy as np

# Side of the small grey pictures that tell whether anything is to be seen, in pixels, and how many of a video are looked at.
_SMALL = 16
_LOOKS = 16


@dataclass(frozen=True)
class Examination:
    """What reading a whole video found.

    Args:
        info: counts, sizes and times.
        digest: of the video's packets: equal for copies, also under other names or in other containers.
        suspicions: what a person should look at, each as the end of a sentence.
    """

    info: VideoInfo
    digest: str
    suspicions: list[str] = field(default_factory=list)


def examine(source: Source, *, decode: bool = True) -> Examination:
    """Read a video from end to end.

    Args:
        source: path, bytes or held video.
        decode: decode every frame; without it, packets are read and the first frame is decoded.

    Returns:
        What was found.

    Raises:
        UnreadableVideoError: no frame can be read from it.
        MissingExtraError: PyAV is not installed.
    """
    with VideoReader(source) as video:
        info, counted = video.info(), video.counts_frames
    digest, damaged, broken, looks = _read_all(source, max(info.num_frames // _LOOKS, 1) if decode else 0)
    suspicions = []
    if info.header_frames and info.num_frames < info.header_frames:
        suspicions.append(f"its header promises {info.header_frames} frames, but {info.num_frames} can be read")
    elif broken:
        suspicions.append("it breaks off in the middle of a frame")
    if damaged:
        suspicions.append(f"{damaged} of its frames are damaged")
    if counted:
        suspicions.append("its frames have no times of their own, so every read decodes it from the start")
    if info.num_frames == 1:
        suspicions.append("it has a single frame")
    elif looks and all(int(look.max()) - int(look.min()) <= 8 for look in looks):
        suspicions.append("its pictures are of one colour")
    elif len(looks) > 1 and all(abs(look - looks[0]).max() <= 2 for look in looks[1:]):
        suspicions.append("nothing moves in it")
    return Examination(info, digest, suspicions)


def _read_all(source: Source, look_every: int) -> tuple[str, int, bool, list["np.ndarray"]]:
    """Digest, damaged frames, whether a packet is cut off, and small grey pictures of every n-th frame (0: none decoded)."""
    errors = require("av", "video").error
    container, stream = open_video(content(source), source_name(source))
    digest, damaged, broken, looks, count = hashlib.sha256(), 0, False, [], 0

    def look(frames: list[Any]) -> None:
        nonlocal damaged, count
        for frame in frames:
            damaged += frame.is_corrupt
            if count % look_every == 0:
                looks.append(frame.to_ndarray(format="gray", width=_SMALL, height=_SMALL, threads=1).astype("int16"))
            count += 1

    with container:
        try:
            for packet in container.demux(stream):
                if packet.size:
                    digest.update(bytes(packet))
                if packet.is_corrupt:
                    broken = True
                elif look_every:
                    try:
                        look(packet.decode())
                    except errors.FFmpegError:
                        damaged += 1
        except (errors.FFmpegError, OSError):
            broken = True
    return digest.hexdigest(), damaged, broken, looks
