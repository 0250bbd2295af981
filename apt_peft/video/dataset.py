"""Clips as a torch data set: what is drawn for a clip depends on (seed, epoch, index, view), never on a worker."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import ConfigError
from .backends import choose_decoder
from .cache import FrameCache
from .clip import Clip
from .crumbs import reading
from .decode import VideoReader
from .epochs import EpochDataset
from .sampling import check_counts, check_sampling, clip_generator, sample_frames, sample_segments
from .transforms import ClipTransform
from .views import VideoViews

# uint8 frames (T, C, height, width), and the places in them of each segment's frames.
Prepared = tuple[torch.Tensor, list[list[int]]]
# Part of every key: raise it when prepared frames would come out otherwise.
_CACHE_VERSION = 2


class VideoDataset(EpochDataset):
    """Clips of labelled videos.

    For training, an item is `{"pixel_values": float32 (T, C, size, size), "labels": int}`; with `repeats`
    `{"pixel_values": float32 (repeats, T, C, size, size), "labels": int64 (repeats,)}`, whose frames are decoded once and
    augmented anew for each: flatten the first two axes of a batch. Otherwise it holds all views of
    one video, which is decoded once: `{"pixel_values": float32 (segments * crops, T, C, size, size), "labels": int,
    "index": int}`. Clips without a label have no `"labels"`.

    Args:
        clips: the videos.
        num_frames: frames in a clip (T).
        transform: how frames become tensors.
        sampling: `"even"`, `"uniform"` or `"dense"`: see `sample_frames`.
        frame_stride: step between the frames of a dense clip, in frames.
        training: draw one random clip of a video, or take its test views.
        segments: test views in time.
        crops: test views in space.
        repeats: how often a training clip is augmented.
        seed: of everything drawn.
        cache: of decoded and resized frames: a `FrameCache`, or its folder, made where it is missing. Where random frames are
            drawn, whole videos are kept.
        decoder: `"auto"`, `"pyav"` or `"torchcodec"`: see `VideoReader`.

    Raises:
        ConfigError: a value that cannot be used.
        MissingExtraError: torchcodec is asked for and not installed.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        num_frames: int,
        transform: ClipTransform,
        sampling: str = "even",
        frame_stride: int = 4,
        training: bool = False,
        segments: int = 1,
        crops: int = 1,
        repeats: int = 1,
        seed: int = 0,
        cache: FrameCache | str | os.PathLike | None = None,
        decoder: str = "auto",
    ) -> None:
        check_sampling(sampling)
        counts = {"num_frames": num_frames, "frame_stride": frame_stride, "segments": segments, "crops": crops}
        check_counts(counts | {"repeats": repeats})
        if repeats > 1 and not training:
            raise ConfigError(
                f"repeats ({repeats}) must be 1 for evaluation, but test views are not random. Use segments and crops."
            )
        if training and segments * crops > 1:
            raise ConfigError(
                f"segments ({segments}) and crops ({crops}) must be 1 for training: one clip of a video is drawn. "
                "Use them for evaluation."
            )
        if crops > 1 and transform.resize == "squash":
            raise ConfigError(
                f"crops ({crops}) must be 1 with resize 'squash', but squashed frames have no longer side. "
                "Use resize 'crop'."
            )
        if cache is not None and transform.full_resolution:
            raise ConfigError(
                f"cache ({_folder(cache)}) must not be used with full_resolution, but whole frames are not kept. "
                "Leave one of them out."
            )
        super().__init__(list(clips))
        self.num_frames, self.sampling, self.frame_stride = num_frames, sampling, frame_stride
        self.transform, self.training, self.segments, self.crops = transform, training, segments, crops
        self.repeats, self.seed, self.decoder = repeats, seed, choose_decoder(decoder)
        self.cache = cache if cache is None or isinstance(cache, FrameCache) else FrameCache(cache)

    def draw(self, index: int, occurrence: int = 0) -> dict[str, Any]:
        """Read one clip as `dataset[index]` does; for training, another draw of it each time that it comes in an epoch.

        Args:
            index: of the clip.
            occurrence: how often it came before in this epoch.

        Returns:
            See the class.

        Raises:
            UnreadableVideoError: the file cannot be read.
        """
        clip = self.clips[index]
        index = index % len(self.clips)
        item: dict[str, Any] = {} if clip.label is None else {"labels": clip.label}
        if self.training:
            first = occurrence * self.repeats
            generator = clip_generator(self.seed, self.epoch, index, first)
            frames, (rows,) = self._prepared(clip, generator)
            if self.repeats == 1:
                return {"pixel_values": self.transform.finish(frames, generator, rows), **item}
            further = range(first + 1, first + self.repeats)
            draws = [clip_generator(self.seed, self.epoch, index, view) for view in further]
            augmented = [self.transform.finish(frames, draw, rows) for draw in (generator, *draws)]
            labels = {name: torch.full((self.repeats,), label) for name, label in item.items()}
            return {"pixel_values": torch.stack(augmented), **labels}
        views = self.test_views(index)
        return {"pixel_values": views.finish(views.cut(0, len(views))), **item, "index": index}

    def test_views(self, index: int) -> VideoViews:
        """Read all test views of one video, to be cut out one by one.

        Args:
            index: of the clip.

        Returns:
            The views; `dataset[index]` has all of them in one tensor.

        Raises:
            UnreadableVideoError: the file cannot be read.
        """
        clip = self.clips[index]
        frames, segments = self._prepared(clip, None)
        whole = list(range(len(frames)))
        # `index_select` copies frame by frame; `frames[rows]` goes from value to value and is many times slower.
        cut = [frames if rows == whole else frames.index_select(0, torch.tensor(rows)) for rows in segments]
        return VideoViews(cut, self.transform, self.crops, clip.label)

    def keep(self, clip: Clip) -> None:
        """Read a clip, which need not be one of these, into the cache.

        Args:
            clip: the video.

        Raises:
            UnreadableVideoError: the file cannot be read.
        """
        self._prepared(clip, None)

    def _prepared(self, clip: Clip, generator: torch.Generator | None) -> Prepared:
        """Each frame once, decoded or from the cache."""
        segments: list[list[int]] = []
        start = None if generator is None else generator.get_state()

        def choose(num_video_frames: int) -> list[int]:
            if generator is not None:
                generator.set_state(start)  # asked again, it draws again and not further
            segments[:] = self._choose(num_video_frames, generator)
            return sorted({index for segment in segments for index in segment})

        def visit(select: Any, take: Any) -> None:
            with reading(clip.name), VideoReader(clip.source, decoder=self.decoder) as video:
                video.visit(select, take)

        if self.cache is None:
            with reading(clip.name), VideoReader(clip.source, decoder=self.decoder) as video:
                # One by one: all frames of ten segments in full size may be a gigabyte.
                frames = video.read(choose, each=self.transform.prepare)
        else:
            frames = self.cache.read(
                self._key(clip), choose=choose, visit=visit, prepare=self.transform.prepare, whole=self._draws_frames
            )
        place = {index: row for row, index in enumerate(sorted({index for segment in segments for index in segment}))}
        return frames, [[place[index] for index in segment] for segment in segments]

    @property
    def _draws_frames(self) -> bool:
        """Whether every epoch takes other frames of a video."""
        return self.training and self.sampling != "even"

    def _choose(self, num_video_frames: int, generator: torch.Generator | None) -> list[list[int]]:
        if self.training:
            stride = self.frame_stride
            return [
                sample_frames(
                    self.sampling, num_video_frames, self.num_frames, frame_stride=stride, generator=generator
                )
            ]
        return sample_segments(
            self.sampling, num_video_frames, self.num_frames, frame_stride=self.frame_stride, segments=self.segments
        )

    def _key(self, clip: Clip) -> str:
        """Changes with the file and with everything that decides on its prepared frames."""
        stride = self.frame_stride if self.sampling == "dense" else None
        frames = "all" if self._draws_frames else (self.sampling, self.num_frames, stride, self.segments)
        prepare = (self.transform.resize, self.transform.prepared_side)
        text = repr((_CACHE_VERSION, clip.fingerprint(), frames, prepare, self.cache and self.cache.format))
        return hashlib.sha256(text.encode()).hexdigest()


def _folder(cache: FrameCache | str | os.PathLike) -> str:
    return os.fspath(cache.folder if isinstance(cache, FrameCache) else cache)
