"""Video files -> wanted frames, upright, as uint8 tensors. PyAV reads; only what is needed is decoded."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from ..errors import DataError
from .backends import TorchcodecVideo, choose_decoder
from .seek import read_table, visit
from .source import Source, UnreadableVideoError, VideoInfo
from .stream import VideoStream
from .upright import Gathered, is_plain, upright

if TYPE_CHECKING:
    import numpy as np

# Pixels in all frames of a video that takes longer to share out among threads than to decode.
FEW_PIXELS = 500_000

Indices = Sequence[int] | Callable[[int], Sequence[int]]


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


def read_frames(source: Source, indices: Indices, *, num_threads: int = 1, decoder: str = "auto") -> torch.Tensor:
    """Read the wanted frames of a video and no others.

    Args:
        source: path, bytes or held video.
        indices: frames counted from 0 in the order they are shown, repeats allowed; or a function from the number of
            frames to such indices.
        num_threads: of the decoder; 0 is one for each CPU core. The frames are the same.
        decoder: see `VideoReader`.

    Returns:
        uint8 (T, height, width, C), RGB, upright.

    Raises:
        UnreadableVideoError: no frame can be read from it.
        DataError: an index is outside the video.
        ConfigError: the decoder is unknown, or cannot load its libraries.
        MissingExtraError: PyAV or torchcodec is not installed.
    """
    with VideoReader(source, num_threads=num_threads, decoder=decoder) as video:
        return video.read(indices)


class VideoReader:
    """One open video.

    Frames are numbered as a full decode shows them. Packets, which are cheap to read, tell the frames' times; a wanted
    frame is then reached by a seek to the keyframe at or before it. Where a file's times are not to be trusted (missing,
    doubled, or frames that never come), the whole file is decoded instead and frames are counted.

    Args:
        source: path, bytes or held video.
        num_threads: of the decoder; 0 is one for each CPU core. Clips are read by several workers at once, so the default
            is one; with more, do not fork afterwards: threads do not live on in a child. Very small videos take one.
        decoder: `"pyav"`; `"torchcodec"`, which decodes where it gives the frames that PyAV tells of, and leaves other files
            to PyAV; `"auto"`, which is PyAV.

    Raises:
        UnreadableVideoError: it cannot be opened, or has no video in it.
        ConfigError: the decoder is unknown, or cannot load its libraries.
        MissingExtraError: PyAV or torchcodec is not installed.
    """

    def __init__(self, source: Source, *, num_threads: int = 1, decoder: str = "auto") -> None:
        self._decoder = choose_decoder(decoder)
        self._other: TorchcodecVideo | None = None
        self._video = VideoStream(source, num_threads)
        self.name = self._video.name
        self._num_frames = 0
        try:
            self._table = read_table(self._video)
            if self._table is None:
                self._count_frames()
            else:
                self._num_frames = len(self._table.times)
                width, height = self._video.size
                if 0 < self._num_frames * width * height <= FEW_PIXELS:
                    self._video.use_one_thread()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._other = None
        self._video.close()

    @property
    def num_frames(self) -> int:
        """Frames that a player would show."""
        return self._num_frames

    @property
    def counts_frames(self) -> bool:
        """Whether every read decodes the whole file, because its times are not to be trusted."""
        return self._table is None

    @property
    def decoder(self) -> str:
        """Who decodes this video, `"pyav"` or `"torchcodec"`; it is known for certain after the first read."""
        return self._decoder if self._table is not None else "pyav"

    def info(self) -> VideoInfo:
        """Describe the video, with its first frame decoded.

        Raises:
            UnreadableVideoError: no frame can be decoded.
        """
        first: list[Any] = []
        self._visit_frames(lambda _: [0], lambda _, frame: first.append(upright(frame, self._video.size)))
        picture, rotation = first[-1]
        times, stream = self._table.times if self._table else [], self._video.stream
        time_base = float(stream.time_base or 0)
        steps = {after - before for before, after in pairwise(times)}
        fps = float(stream.average_rate or 0)
        if len(times) > 1:
            span = (times[-1] - times[0]) * time_base
            duration = span * len(times) / (len(times) - 1)
        else:
            duration = self._num_frames / fps if fps else 0.0
        return VideoInfo(
            num_frames=self._num_frames,
            width=picture.shape[1],
            height=picture.shape[0],
            fps=round(self._num_frames / duration, 3) if duration else fps,
            duration_seconds=round(duration, 3),
            codec=self._video.codec,
            rotation=rotation,
            header_frames=stream.frames or None,
            # Time bases round: steps that differ by one tick are one frame rate.
            variable_frame_rate=bool(steps) and max(steps) - min(steps) > max(1, 0.1 * min(steps)),
        )

    def read(self, indices: Indices, *, each: Callable[[torch.Tensor], torch.Tensor] | None = None) -> torch.Tensor:
        """Read the wanted frames: see `read_frames`.

        Args:
            indices: frame numbers, or a function from the number of frames to them.
            each: what is done to every frame as it comes, so that large ones need not be kept: from uint8 (1, height, width,
                C), RGB, upright, to a tensor of the same length; None keeps it as it is.

        Returns:
            uint8 (T, height, width, C), RGB, upright; with `each` what that made of it.

        Raises:
            UnreadableVideoError: no frame can be decoded.
            DataError: an index is outside the video.
        """
        choose = indices if callable(indices) else lambda _: indices
        gathered: list[Gathered] = []

        def choose_anew(num_frames: int) -> list[int]:
            chosen = self._inside(choose(num_frames))
            gathered[:] = [Gathered(chosen, each)]
            return chosen

        self._visit(choose_anew, lambda index, picture: gathered[0].take(index, picture))
        return gathered[0].frames()

    def visit(self, choose: Callable[[int], Sequence[int]], take: Callable[[int, torch.Tensor], object]) -> None:
        """Decode frames one at a time, so that a whole video need not be in memory.

        Args:
            choose: from the number of frames to the wanted ones, counted from 0; called again where frames that the file
                announces don't come. What was taken before then is to be forgotten.
            take: called with the number and the frame of each, uint8 (height, width, C), RGB, upright; once for each
                number, in no particular order.

        Raises:
            UnreadableVideoError: no frame can be decoded.
            DataError: an index is outside the video.
        """
        self._visit(
            lambda num_frames: self._inside(choose(num_frames)),
            lambda index, picture: take(index, torch.from_numpy(picture.copy())),
        )

    def _inside(self, indices: Sequence[int]) -> list[int]:
        indices = [int(index) for index in indices]
        outside = [index for index in indices if not 0 <= index < self._num_frames]
        if outside or not indices:
            raise DataError(
                f"indices ({outside}) must be from 0 to {self._num_frames - 1}, at least one, but {self.name} has "
                f"{self._num_frames} frames."
            )
        return indices

    def _visit(self, choose: Callable[[int], Sequence[int]], take: Callable[[int, "np.ndarray"], object]) -> None:
        """Hand over the chosen frames upright with their numbers; where they don't all come, choose anew and begin again."""
        if self._decoder == "torchcodec":
            other = self._torchcodec()
            if other and other.visit(sorted(set(choose(self._num_frames))), lambda i, frame: take(i, frame.numpy())):
                return
            self._decoder, self._other = "pyav", None
        self._visit_frames(choose, lambda index, frame: take(index, upright(frame, self._video.size)[0]))

    def _torchcodec(self) -> TorchcodecVideo | None:
        """The video opened with torchcodec; None where it does not give PyAV's frames."""
        if self._other is None and self._table is not None:
            other = self._video.with_torchcodec(self._table.times)
            if other is None:
                return None
            plain, pictures = [], []

            def take_ours(_: int, frame: Any) -> None:
                plain.append(is_plain(frame))
                pictures.append(torch.from_numpy(upright(frame, self._video.size)[0].copy()))

            # Whatever else differs, a colour space or FFmpeg's versions, shows in the first frame.
            self._visit_frames(lambda _: [0], take_ours)
            came = plain[-1] and other.visit([0], lambda _, frame: pictures.append(frame))
            self._other = other if came and torch.equal(*pictures[-2:]) else None
        return self._other

    def _visit_frames(self, choose: Callable[[int], Sequence[int]], take: Callable[[int, Any], object]) -> None:
        """The same with PyAV's frames as they are."""
        if self._table is not None and self._num_frames:
            wanted = {self._table.times[index]: index for index in choose(self._num_frames)}
            if visit(self._video, self._table, sorted(wanted), lambda frame: take(wanted[frame.pts], frame)):
                return
            self._table = None
            self._count_frames()
        if not self._num_frames:
            raise UnreadableVideoError(self.name, "no frame of it can be decoded")
        left = set(choose(self._num_frames))
        for index, frame in enumerate(self._video.all_frames()):
            if index in left:
                take(index, frame)
                left.remove(index)
                if not left:
                    return
        raise UnreadableVideoError(self.name, f"it has fewer frames than when it was opened ({self._num_frames})")

    def _count_frames(self) -> None:
        self._num_frames = sum(1 for _ in self._video.all_frames())
