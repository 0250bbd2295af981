"""One open video file: its packets and its frames, from the start or from a keyframe."""

from collections.abc import Collection, Iterator
from itertools import chain
from typing import Any, NamedTuple

from ..errors import require
from .backends import TorchcodecVideo
from .source import Source, content, open_video, source_name

# Codecs whose decoders rightly leave out frames that no other frame refers to.
SKIPPING = ("h264", "mpeg4", "mpeg2video")
# Formats for torchcodec, which would follow a playlist to other files and addresses.
ALONE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv", "mpeg", "mpegts", "asf", "gif")


class Key(NamedTuple):
    """A packet from which decoding can start."""

    pts: int
    dts: int


class VideoStream:
    """The first video stream of a file.

    Args:
        source: path, bytes or held video.
        num_threads: of the decoder; 0 is one for each CPU core.

    Raises:
        UnreadableVideoError: it cannot be opened, or has no video in it.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, source: Source, num_threads: int = 1) -> None:
        self._errors = require("av", "video").error
        self.name = source_name(source)
        self._source, self._num_threads = content(source), num_threads
        self._in_fields = False
        self._container, self.stream = open_video(self._source, self.name, num_threads)
        context = self.stream.codec_context
        self.codec: str = context.name
        self.size: tuple[int, int] = (context.width, context.height)
        self.container_format: str = self._container.format.name
        # Whether the order of the frames' times may differ from that of the packets.
        self.reorders = bool(context.reorder_depth)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def use_one_thread(self) -> None:
        """Have the decoder, which has decoded nothing yet, work without threads; one that has goes on as it is."""
        context = self.stream.codec_context
        if not context.is_open:
            self._num_threads = context.thread_count = 1
            context.thread_type = "NONE"

    def packets(self, *, again: bool = True) -> Iterator[Any]:
        """Packets up to the end of the file, or to where it breaks off.

        Args:
            again: from the beginning of the file, with a fresh decoder; else from where it was opened.
        """
        if again:
            self._container.close()
            self._container, self.stream = open_video(self._source, self.name, self._num_threads)
        return self._whole(self._container.demux(self.stream))

    def packets_from(self, key: Key, known: Collection[int]) -> Iterator[Any] | None:
        """Packets from a keyframe on, or from one before it.

        Args:
            key: the keyframe.
            known: the times of all keyframes.

        Returns:
            The packets; None where the seek came out behind it.
        """
        # Some containers index keyframes by the time they are shown, some by the time they are decoded.
        for timestamp in dict.fromkeys([key.pts, key.dts]):
            try:
                self._container.seek(timestamp, stream=self.stream, backward=True)
            except (self._errors.FFmpegError, OSError):
                continue
            packets = self._whole(self._container.demux(self.stream))
            for packet in packets:
                if packet.is_keyframe and packet.pts in known:
                    if packet.pts <= key.pts:
                        return chain([packet], packets)
                    break
        return None

    def frames(self, packets: Iterator[Any], wanted: Collection[int] | None = None) -> Iterator[Any]:
        """Frames in the order they are shown; damaged packets give none.

        Args:
            packets: of this stream.
            wanted: times of the frames that must come, others may be left out; None is all.
        """
        context = self.stream.codec_context
        left = None if wanted is None else set(wanted)
        skips, skipping = left is not None and self.codec in SKIPPING, None
        for packet in packets:
            if skips and left is not None and skipping != (skipping := packet.pts not in left):
                context.skip_frame = "NONREF" if skipping else "DEFAULT"
            if packet.is_corrupt:
                continue
            try:
                yield from packet.decode()
            except self._errors.FFmpegError:
                continue
            if left is not None:
                left.discard(packet.pts)
                if not left and not self._in_fields:
                    break  # the decoder has all that is wanted, and gives it out when it is told that nothing follows
        try:
            rest = context.decode(None)
        except self._errors.FFmpegError:
            return
        if left is not None and not left and not self._in_fields and any(frame.interlaced_frame for frame in rest):
            # The other half of a frame may come in a packet of its own: from now on, none is cut off from what follows it.
            self._in_fields = True
            return
        yield from rest

    def all_frames(self) -> Iterator[Any]:
        """Every frame, from the beginning of the file."""
        return self.frames(self.packets())

    def with_torchcodec(self, times: list[int]) -> TorchcodecVideo | None:
        """The same stream opened with torchcodec; None where the file may be about others.

        Args:
            times: of its frames, rising, in its time base.
        """
        if self.container_format not in ALONE:
            return None
        return TorchcodecVideo(
            "file:" + self._source if isinstance(self._source, str) else self._source,
            stream=self.stream.index,
            times=times,
            time_base=float(self.stream.time_base),
            num_threads=self._num_threads,
        )

    def shows(self, packet: Any) -> bool:
        """Whether a packet is a frame that a player shows."""
        if packet.is_discard or packet.is_corrupt:
            return False
        # VP8 keeps frames that are only referred to in packets of their own: bit 4 of the frame tag is show_frame.
        return self.codec != "vp8" or bool(bytes(packet)[0] & 0x10)

    def _whole(self, packets: Iterator[Any]) -> Iterator[Any]:
        try:
            for packet in packets:
                if packet.size:
                    yield packet
        except (self._errors.FFmpegError, OSError, IndexError):
            return  # PyAV 18 stumbles at the end over streams that turned up on the way
