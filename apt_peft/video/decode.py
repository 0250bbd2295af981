"""Video files -> wanted frames, upright, as uint8 tensors. PyAV reads; only what is needed is decoded."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import torch

from ..errors import DataError, require
from .source import Source, UnreadableVideoError, VideoInfo, content, open_video, source_name

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class _Key:
    """A packet from which decoding can start."""

    pts: int
    dts: int


def probe(source: Source) -> VideoInfo:
    """Describe a video; its packets are read, and only its first frame is decoded.

    Args:
        source: path, bytes or held video.

    Returns:
        Counts, sizes and times.

    Raises:
        UnreadableVideoError: no frame can be read from it.
        MissingExtraError: PyAV is not installed.
    """
    with VideoReader(source) as video:
        return video.info()


def read_frames(source: Source, indices: Sequence[int] | Callable[[int], Sequence[int]]) -> torch.Tensor:
    """Read the wanted frames of a video and no others.

    Args:
        source: path, bytes or held video.
        indices: frames counted from 0 in the order they are shown, repeats allowed; or a function from the number of
            frames to such indices.

    Returns:
        uint8 (T, height, width, C), RGB, upright.

    Raises:
        UnreadableVideoError: no frame can be read from it.
        DataError: an index is outside the video.
        MissingExtraError: PyAV is not installed.
    """
    with VideoReader(source) as video:
        return video.read(indices)


class VideoReader:
    """One open video.

    Frames are numbered as a full decode shows them. Packets, which are cheap to read, tell the frames' times; a wanted
    frame is then reached by a seek to the keyframe at or before it. Where a file's times are not to be trusted (missing,
    doubled, or frames that never come), the whole file is decoded instead and frames are counted.

    Args:
        source: path, bytes or held video.

    Raises:
        UnreadableVideoError: it cannot be opened, or has no video in it.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, source: Source) -> None:
        self._av = require("av", "video")
        self.name = source_name(source)
        self._source = content(source)
        self._container, self._stream = open_video(self._source, self.name)
        context = self._stream.codec_context
        self._size = (context.width, context.height)
        self._times: list[int] | None = None
        self._keys: list[_Key] = []
        self._num_frames = 0
        try:
            self._read_table()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    @property
    def num_frames(self) -> int:
        """Frames that a player would show."""
        return self._num_frames

    @property
    def counts_frames(self) -> bool:
        """Whether every read decodes the whole file, because its times are not to be trusted."""
        return self._times is None

    def info(self) -> VideoInfo:
        """Describe the video, with its first frame decoded.

        Raises:
            UnreadableVideoError: no frame can be decoded.
        """
        first = self._frames(lambda _: [0])[0]
        times, stream = self._times, self._stream
        time_base = float(stream.time_base or 0)
        steps = {after - before for before, after in pairwise(times)} if times else set()
        fps = float(stream.average_rate or 0)
        if times and len(times) > 1:
            span = (times[-1] - times[0]) * time_base
            duration = span * len(times) / (len(times) - 1)
        else:
            duration = self._num_frames / fps if fps else 0.0
        height, width = first[0].shape[:2]
        return VideoInfo(
            num_frames=self._num_frames,
            width=width,
            height=height,
            fps=round(self._num_frames / duration, 3) if duration else fps,
            duration_seconds=round(duration, 3),
            codec=stream.codec_context.name,
            rotation=first[1],
            header_frames=stream.frames or None,
            # Time bases round: steps that differ by one tick are one frame rate.
            variable_frame_rate=bool(steps) and max(steps) - min(steps) > max(1, 0.1 * min(steps)),
        )

    def read(self, indices: Sequence[int] | Callable[[int], Sequence[int]]) -> torch.Tensor:
        """Read the wanted frames: see `read_frames`.

        Args:
            indices: frame numbers, or a function from the number of frames to them.

        Returns:
            uint8 (T, height, width, C), RGB, upright.

        Raises:
            UnreadableVideoError: no frame can be decoded.
            DataError: an index is outside the video.
        """
        import numpy as np

        choose = indices if callable(indices) else lambda _: indices
        chosen: list[int] = []

        def remember(num_frames: int) -> list[int]:
            chosen[:] = self._inside(choose(num_frames))
            return chosen

        frames = self._frames(remember)
        return torch.from_numpy(np.stack([frames[index][0] for index in chosen]))

    def _inside(self, indices: Sequence[int]) -> list[int]:
        indices = [int(index) for index in indices]
        outside = [index for index in indices if not 0 <= index < self._num_frames]
        if outside or not indices:
            raise DataError(
                f"indices ({outside}) must be from 0 to {self._num_frames - 1}, at least one, but {self.name} has "
                f"{self._num_frames} frames."
            )
        return indices

    def _frames(self, choose: Callable[[int], Sequence[int]]) -> dict[int, tuple["np.ndarray", int]]:
        """Index -> (upright RGB frame, rotation) of the chosen frames."""
        if self._times is not None:
            wanted = {self._times[index]: index for index in choose(self._num_frames)}
            found = self._by_time(sorted(wanted))
            if found is not None:
                return {wanted[time]: frame for time, frame in found.items()}
            self._count_frames()
        if not self._num_frames:
            raise UnreadableVideoError(self.name, "no frame of it can be decoded")
        chosen = set(choose(self._num_frames))
        frames = {}
        self._open()
        for index, frame in enumerate(self._decode(self._container.demux(self._stream))):
            if index in chosen:
                frames[index] = self._upright(frame)
                if len(frames) == len(chosen):
                    break
        return frames

    # Opening and the table of frames

    def _open(self) -> None:
        """Start again from the beginning of the file."""
        self._container.close()
        self._container, self._stream = open_video(self._source, self.name)

    def _read_table(self) -> None:
        """Learn the frames' times from the packets, in the order they are shown."""
        shown: list[int | None] = []
        before_first_key: list[int] = []
        for packet in self._packets(self._container.demux(self._stream)):
            if packet.is_keyframe and packet.pts is not None and packet.dts is not None:
                self._keys.append(_Key(packet.pts, packet.dts))
            if not self._is_shown(packet):
                continue
            shown.append(packet.pts)
            if packet.pts is not None and (not self._keys or packet.pts < self._keys[0].pts):
                before_first_key.append(packet.pts)
        times = sorted({time for time in shown if time is not None})
        # AVI has no display times; where FFmpeg's guess leaves frames in their stored order, B-frames stand wrongly.
        guessed = self._container.format.name == "avi" and self._stream.codec_context.reorder_depth and times == shown
        if len(times) != len(shown) or not self._keys or guessed:
            self._count_frames()
            return
        self._keys.sort(key=lambda key: key.pts)
        if before_first_key:
            missing = set(before_first_key) - self._shown_before(self._keys[0].pts)
            times = [time for time in times if time not in missing]
        self._times, self._num_frames = times, len(times)

    def _shown_before(self, first_key: int) -> set[int]:
        """Times of the frames that a full decode shows before the first keyframe.

        A file cut out of a longer one may begin with frames that need what was cut away; decoders drop some.
        """
        self._open()
        times = set()
        for frame in self._decode(self._container.demux(self._stream)):
            if frame.pts is None or frame.pts >= first_key:
                break
            times.add(frame.pts)
        return times

    def _count_frames(self) -> None:
        self._open()
        self._times = None
        self._num_frames = sum(1 for _ in self._decode(self._container.demux(self._stream)))

    def _packets(self, packets: Iterator[Any]) -> Iterator[Any]:
        """Packets up to the end of the file, or to where it breaks off."""
        try:
            for packet in packets:
                if packet.size:
                    yield packet
        except (self._av.error.FFmpegError, OSError):
            return

    def _is_shown(self, packet: Any) -> bool:
        if packet.is_discard or packet.is_corrupt:
            return False
        # VP8 keeps frames that are only referred to in packets of their own: bit 4 of the frame tag is show_frame.
        return self._stream.codec_context.name != "vp8" or bool(bytes(packet)[0] & 0x10)

    # Decoding

    def _decode(self, packets: Iterator[Any], wanted: set[int] | None = None) -> Iterator[Any]:
        """Frames in the order they are shown; damaged packets give none."""
        context = self._stream.codec_context
        # In H.264 a frame that no other refers to can be left out. HEVC's flag for it does not cover upper layers.
        skips = wanted is not None and context.name == "h264"
        for packet in self._packets(packets):
            if skips and wanted is not None:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            if packet.is_corrupt:
                continue
            try:
                yield from packet.decode()
            except self._av.error.FFmpegError:
                continue
        try:
            yield from context.decode(None)
        except self._av.error.FFmpegError:
            return

    def _by_time(self, times: list[int]) -> dict[int, tuple["np.ndarray", int]] | None:
        """Time -> frame, or None where one of them never comes."""
        key_times = [key.pts for key in self._keys]
        groups: dict[int, list[int]] = {}
        for time in times:
            groups.setdefault(max(bisect_right(key_times, time) - 1, 0), []).append(time)
        found: dict[int, tuple[np.ndarray, int]] = {}
        for key, group in groups.items():
            # Seeking is inexact in some containers, and a keyframe may turn out not to suffice: go back step by step.
            starts = [*dict.fromkeys([key, max(key - 1, 0)]), None]
            if not any(self._read_group(start, group, found) for start in starts):
                return None
        return found

    def _read_group(self, key: int | None, times: list[int], found: dict[int, tuple["np.ndarray", int]]) -> bool:
        """Decode forward from a keyframe (None: from the start of the file) and collect; True when all came."""
        packets = self._container_from(key)
        if packets is None:
            return False
        missing = set(times) - found.keys()
        latest: int | None = None
        for frame in self._decode(packets, wanted=missing):
            if frame.pts is not None and latest is not None and frame.pts <= latest:
                return False  # times that do not rise tell nothing about the order
            latest = frame.pts
            if frame.pts in missing:
                found[frame.pts] = self._upright(frame)
                missing.remove(frame.pts)
            if not missing:
                return True
            if frame.pts is not None and frame.pts > times[-1]:
                return False
        return not missing

    def _container_from(self, key: int | None) -> Iterator[Any] | None:
        """Packets from a keyframe on; None where the seek came out behind it."""
        if key is None:
            self._open()
            return self._container.demux(self._stream)
        target = self._keys[key]
        key_times = {key.pts for key in self._keys}
        # Some containers index keyframes by the time they are shown, some by the time they are decoded.
        for timestamp in dict.fromkeys([target.pts, target.dts]):
            try:
                self._container.seek(timestamp, stream=self._stream, backward=True)
            except (self._av.error.FFmpegError, OSError):
                continue
            packets = self._container.demux(self._stream)
            for packet in packets:
                if packet.is_keyframe and packet.pts in key_times:
                    if packet.pts <= target.pts:
                        return chain([packet], packets)
                    break
        return None

    def _upright(self, frame: Any) -> tuple["np.ndarray", int]:
        """RGB (height, width, C) as the display matrix turns and mirrors it, and the rotation in degrees."""
        import numpy as np

        size = {} if (frame.width, frame.height) == self._size else {"width": self._size[0], "height": self._size[1]}
        # One thread: threads kept in a frame would hang a worker that is forked later and clears the frame away.
        array = frame.to_ndarray(format="rgb24", threads=1, **size)
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return array, 0
        a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
        # The matrix sends the pixel (x, y) to (a x + c y, b x + d y).
        if abs(b) > abs(a):
            array, a, d = array.transpose(1, 0, 2), c, b
        array = array[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
        return np.ascontiguousarray(array), frame.rotation
