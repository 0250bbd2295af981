"""Videos -> a data set of clips as a run or an adapter wants them, and its items -> a batch."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import default_collate

from apt_peft.training.clips import ClipSettings
from apt_peft.training.settings import TrainSettings
from apt_peft.video import Clip, ClipTransform, FrameCache, VideoDataset
from apt_peft.video.lasting import LastingDataset


def collate(items: list[dict[str, Any]], *, name: str = "pixel_values") -> dict[str, Any]:
    """Make a batch of clips, under the name that a model has for them.

    Args:
        items: of a `VideoDataset`; those of a clip that was augmented several times stand in a row.
        name: the model's `main_input_name`: `pixel_values_videos` in V-JEPA 2 and VideoPrism.

    Returns:
        Arguments of the model's forward.
    """
    batch = default_collate(items)
    if batch["labels"].dim() > 1:
        batch = {key: value.flatten(0, 1) for key, value in batch.items()}
    batch[name] = batch.pop("pixel_values")
    return batch


def training_dataset(
    videos: Sequence[Clip],
    clips: ClipSettings,
    settings: TrainSettings,
    *,
    cache: FrameCache | None = None,
    **lasting: Any,
) -> VideoDataset:
    """The training clips of a run, augmented and drawn anew in each epoch.

    Args:
        videos: the videos.
        clips: how they become clips.
        settings: the run's flags, of which augmentation and seed are taken.
        cache: of decoded frames, or None.
        **lasting: `time_limit` and `journal` of a `LastingDataset`, where it should be one.

    Returns:
        The data set.
    """
    return video_dataset(
        videos,
        clips,
        training=True,
        augment=settings.augment,
        flip=settings.flip,
        full_resolution=settings.augment_resolution == "full",
        rand_augment=settings.rand_augment,
        random_resized_crop=settings.random_resized_crop,
        random_erasing=settings.random_erasing,
        repeats=settings.repeated_augmentation,
        seed=settings.seed,
        cache=cache,
        decoder=settings.decoder,
        **lasting,
    )


def video_dataset(
    videos: Sequence[Clip],
    clips: ClipSettings,
    *,
    training: bool = False,
    augment: str = "none",
    flip: bool = True,
    full_resolution: bool = False,
    rand_augment: str | None = None,
    random_resized_crop: bool = False,
    random_erasing: float = 0.0,
    repeats: int = 1,
    seed: int = 0,
    cache: FrameCache | None = None,
    decoder: str = "auto",
    **lasting: Any,
) -> VideoDataset:
    """A data set of videos, made into clips as an adapter wants them.

    Args:
        videos: the videos.
        clips: how they become clips.
        training: draw one clip of each, or take the test views.
        augment: of training clips.
        flip: of training clips, see `ClipTransform`.
        full_resolution: of training clips, see `ClipTransform`.
        rand_augment: of training clips, see `ClipTransform`.
        random_resized_crop: of training clips, see `ClipTransform`.
        random_erasing: of training clips, see `ClipTransform`.
        repeats: how often a training clip is augmented.
        seed: of what is drawn.
        cache: of decoded frames, or None.
        decoder: see `VideoReader`.
        **lasting: `time_limit` and `journal` of a `LastingDataset`, where it should be one.

    Returns:
        The data set.
    """
    kind: Any = LastingDataset if lasting else VideoDataset
    return kind(
        videos,
        num_frames=clips.num_frames,
        sampling=clips.sampling,
        frame_stride=clips.frame_stride,
        transform=ClipTransform(
            clips.size,
            mean=clips.mean,
            std=clips.std,
            resize=clips.resize,
            augment=augment if training else "none",
            flip=flip if training else True,
            full_resolution=full_resolution and training,
            rand_augment=rand_augment if training else None,
            random_resized_crop=random_resized_crop and training,
            random_erasing=random_erasing if training else 0.0,
        ),
        training=training,
        segments=1 if training else clips.segments,
        crops=1 if training else clips.crops,
        repeats=repeats if training else 1,
        seed=seed,
        cache=cache,
        decoder=decoder,
        **lasting,
    )
