"""When each frame of a video is shown, and the way to a few of them: by the keyframe at or before each."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .stream import Key, VideoStream


@dataclass(frozen=True)
class FrameTable:
    """What the packets say, which are cheap to read.

    Args:
        times: of the frames that are shown, rising, in the stream's time base.
        keys: the keyframes, by time.
    """

    times: list[int]
    keys: list[Key]


def read_table(video: VideoStream) -> FrameTable | None:
    """Learn the frames' times from the packets of a stream that was just opened.

    Args:
        video: the stream.

    Returns:
        The table; None where the times are missing, doubled or guessed.
    """
    keys: list[Key] = []
    shown: list[int | None] = []
    before_first_key: list[int] = []
    for packet in video.packets(again=False):
        if packet.is_keyframe and packet.pts is not None and packet.dts is not None:
            keys.append(Key(packet.pts, packet.dts))
        if not video.shows(packet):
            continue
        shown.append(packet.pts)
        if packet.pts is not None and (not keys or packet.pts < keys[0].pts):
            before_first_key.append(packet.pts)
    times = sorted({time for time in shown if time is not None})
    # AVI has no display times; where FFmpeg's guess leaves frames in their stored order, B-frames stand wrongly.
    guessed = video.container_format == "avi" and video.reorders and times == shown
    if len(times) != len(shown) or not keys or guessed:
        return None
    keys.sort()
    if before_first_key:
        missing = set(before_first_key) - _shown_before(video, keys[0].pts)
        times = [time for time in times if time not in missing]
    return FrameTable(times, keys)


def visit(video: VideoStream, table: FrameTable, times: list[int], take: Callable[[Any], object]) -> bool:
    """Decode the frames of some times and hand each over once.

    Args:
        video: the stream.
        table: its table.
        times: rising.
        take: called with each frame.

    Returns:
        False where one of them never comes; others may have been handed over by then.
    """
    key_times = [key.pts for key in table.keys]
    groups: dict[int, list[int]] = {}
    for time in times:
        groups.setdefault(max(bisect_right(key_times, time) - 1, 0), []).append(time)
    for key, group in groups.items():
        missing = set(group)
        # Seeking is inexact in some containers, and a keyframe may turn out not to suffice: go back step by step.
        starts = [*dict.fromkeys([key, max(key - 1, 0)]), None]
        if not any(_visit_group(video, table, start, group[-1], missing, take) for start in starts):
            return False
    return True


def _visit_group(
    video: VideoStream,
    table: FrameTable,
    start: int | None,
    last: int,
    missing: set[int],
    take: Callable[[Any], object],
) -> bool:
    """Decode forward from a keyframe (None: from the start of the file) and collect; True when all came."""
    known = {key.pts for key in table.keys}
    packets = video.packets() if start is None else video.packets_from(table.keys[start], known)
    if packets is None:
        return False
    latest: int | None = None
    for frame in video.frames(packets, wanted=missing):
        if frame.pts is not None and latest is not None and frame.pts <= latest:
            return False  # times that do not rise tell nothing about the order
        latest = frame.pts
        if frame.pts in missing:
            take(frame)
            missing.remove(frame.pts)
        if not missing:
            return True
        if frame.pts is not None and frame.pts > last:
            return False
    return not missing


def _shown_before(video: VideoStream, first_key: int) -> set[int]:
    """Times of the frames that a full decode shows before the first keyframe.

    A file cut out of a longer one may begin with frames that need what was cut away; decoders drop some.
    """
    times = set()
    for frame in video.all_frames():
        if frame.pts is None or frame.pts >= first_key:
            break
        times.add(frame.pts)
    return times
