"""One video read from end to end: how many frames come, what is damaged, what its content is."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..errors import require
from .decode import VideoReader
from .similar import LOOKS, SIDE
from .source import Source, VideoInfo, content, open_video, source_name
from .timestamps import timestamp_findings

if TYPE_CHECKING:
    import numpy as np

# A grey level above which a picture of one colour is not black, the levels that one colour may differ by, and those that
# pictures of a scene in which nothing moves may.
_BLACK, _ONE_COLOUR, _STILL = 32, 8, 2
# Part of a video's pictures that must be of one colour, or stand still, to be told.
_MUCH_BLANK, _MUCH_STILL = 0.25, 0.6


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
    return examine_and_look(source, decode=decode)[0]


def examine_and_look(source: Source, *, decode: bool = True) -> tuple[Examination, "np.ndarray | None"]:
    """`examine`, with small pictures for `find_alike`.

    Args:
        source: path, bytes or held video.
        decode: decode every frame.

    Returns:
        What was found, and uint8 (T, 384): see `find_alike`; None without decoding.

    Raises:
        UnreadableVideoError: no frame can be read from it.
        MissingExtraError: PyAV is not installed.
    """
    with VideoReader(source) as video:
        info, counted = video.info(), video.counts_frames
    read = _Reading(evenly(info.num_frames) if decode else frozenset(), info.rotation)
    read.all(source)
    suspicions = []
    if info.header_frames and info.num_frames < info.header_frames:
        suspicions.append(f"its header promises {info.header_frames} frames, but {info.num_frames} can be read")
    elif read.broken:
        suspicions.append("it breaks off in the middle of a frame")
    else:
        suspicions += read.times()
    if read.damaged:
        suspicions.append(f"{read.damaged} of its frames are damaged")
    if counted:
        suspicions.append("its frames have no times of their own, so every read decodes it from the start")
    if info.num_frames == 1:
        suspicions.append("it has a single frame")
    else:
        suspicions += nothing_to_see([look[:SIDE] for look in read.looks])
    return Examination(info, read.digest.hexdigest(), suspicions), read.pictures()


def evenly(num_frames: int) -> frozenset[int]:
    """Frames to look at, evenly over a video."""
    count = min(LOOKS, num_frames)
    return frozenset(round(place * (num_frames - 1) / max(count - 1, 1)) for place in range(count))


def nothing_to_see(looks: Sequence["np.ndarray"]) -> list[str]:
    """What is wrong with the pictures of a video.

    Args:
        looks: brightness, uint8 (16, 16) each, evenly over the video.

    Returns:
        Findings, each as the end of a sentence.
    """
    if not looks:
        return []
    blank = [look for look in looks if int(look.max()) - int(look.min()) <= _ONE_COLOUR]
    colour = "black" if all(int(look.max()) <= _BLACK for look in blank) else "of one colour"
    if len(blank) == len(looks):
        return [f"its pictures are {colour}"]
    findings = []
    if len(blank) >= _MUCH_BLANK * len(looks):
        findings.append(f"{round(100 * len(blank) / len(looks))} % of its pictures are {colour}")
    longest = run = 0
    for before, after in pairwise(looks):
        run = run + 1 if abs(after.astype("int16") - before).max() <= _STILL else 0
        longest = max(longest, run)
    steps = len(looks) - 1
    if steps and longest == steps:
        findings.append("nothing moves in it")
    elif longest >= max(5, _MUCH_STILL * steps):
        findings.append(f"nothing moves in {round(100 * longest / steps)} % of it")
    return findings


class _Reading:
    """A file read from end to end.

    Args:
        looked_at: numbers of the frames to keep small pictures of; none: no frame is decoded.
        rotation: degrees by which a picture is turned to stand upright.
    """

    def __init__(self, looked_at: Collection[int], rotation: int) -> None:
        self.looked_at, self.turns = looked_at, round(rotation / 90) % 4
        self.digest = hashlib.sha256()
        self.damaged, self.broken, self.count = 0, False, 0
        self.looks: list[np.ndarray] = []
        self.shown: list[int | None] = []
        self.decoded: list[int | None] = []
        self.header: dict[str, Any] = {}

    def all(self, source: Source) -> None:
        """Read every packet, and decode it."""
        errors = require("av", "video").error
        container, stream = open_video(content(source), source_name(source))
        self.header = {
            "time_base": float(stream.time_base or 0),
            "header_fps": float(stream.average_rate or 0) or None,
            "header_seconds": float(stream.duration * stream.time_base) if stream.duration else None,
        }
        # What is hidden, or belongs to no frame of its own, has times that mean something else.
        timed = stream.codec_context.name not in ("vp8", "vp9", "av1") and container.format.name not in ("avi",)
        with container:
            try:
                for packet in container.demux(stream):
                    if packet.size:
                        self.digest.update(bytes(packet))
                        if timed and not packet.is_discard:
                            self.shown.append(packet.pts)
                            self.decoded.append(packet.dts)
                    if packet.is_corrupt:
                        self.broken = True
                    elif self.looked_at:
                        try:
                            self._look(packet.decode())
                        except errors.FFmpegError:
                            self.damaged += 1
            except IndexError:  # PyAV 18 stumbles at the end over streams that turned up on the way
                pass
            except (errors.FFmpegError, OSError):
                self.broken = True

    def _look(self, frames: Sequence[Any]) -> None:
        for frame in frames:
            self.damaged += frame.is_corrupt
            if self.count in self.looked_at:
                # One thread: threads kept in a frame would hang a worker that is forked later.
                self.looks.append(frame.to_ndarray(format="yuv420p", width=SIDE, height=SIDE, threads=1))
            self.count += 1

    def times(self) -> list[str]:
        """What is wrong with the times of the packets."""
        return timestamp_findings(self.shown, self.decoded, **self.header)

    def pictures(self) -> "np.ndarray | None":
        """The small pictures, upright."""
        import numpy as np

        if not self.looks:
            return None
        looks = np.stack(self.looks)
        planes = [
            looks[:, :SIDE],
            *(part.reshape(-1, SIDE // 2, SIDE // 2) for part in np.split(looks[:, SIDE:], 2, axis=1)),
        ]
        turned = [np.rot90(plane, self.turns, (1, 2)).reshape(len(looks), -1) for plane in planes]
        return np.concatenate(turned, axis=1)
