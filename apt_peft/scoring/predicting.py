"""Videos through an adapter, and the labels that fit best: what `apt-peft predict` does."""

from pathlib import Path
from typing import Any

import torch

from apt_peft.errors import ConfigError
from apt_peft.evaluation import finite
from apt_peft.opening import open_adapter
from apt_peft.scores.stream import score_each
from apt_peft.scoring.clips import lasting, look_over
from apt_peft.scoring.settings import PredictSettings
from apt_peft.training.datasets import video_dataset
from apt_peft.video import Clip, read_data
from apt_peft.video.backends import choose_decoder
from apt_peft.video.clip import VIDEO_SUFFIXES
from apt_peft.video.guard import warm_up
from apt_peft.video.layouts.places import video_files
from apt_peft.video.readable import unreadable_error
from apt_peft.video.shards.read import is_shards


def predict(settings: PredictSettings) -> list[dict[str, Any]]:
    """Name what is in some videos.

    Args:
        settings: the flags.

    Returns:
        For each video `clip` and `scores`, the latter a list of `label` and `score` from the highest on; then for each that was
        left out, since it cannot be read, `clip`, no `scores` and `error`.

    Raises:
        AptError: adapter, backbone or clips cannot be used.
    """
    clips = _clips(settings.clips)
    warm_up()
    choose_decoder(settings.decoder)
    adapter = open_adapter(settings)
    clips, unreadable = look_over(clips, settings)
    found = list(
        score_each(
            adapter.model,
            video_dataset(clips, adapter.clips, decoder=settings.decoder, **lasting(settings)),
            batch_size=adapter.batch_size,
            workers=settings.workers,
            precision=adapter.precision,
            progress=settings.progress and len(clips) > 1,
            on_error=settings.on_error,
            time_limit=settings.time_limit,
        )
    )
    errors = [*unreadable, *(clip.error for clip in found if clip.error is not None)]
    scored = [clip for clip in found if clip.error is None]
    if not scored:
        raise unreadable_error(errors, len(errors), settings.on_error)
    scores = finite(torch.stack([clip.scores for clip in scored]))
    best = scores.topk(min(settings.top_k, len(adapter.labels)), dim=1)
    rows = [
        {
            "clip": clips[clip.index].name,
            "scores": [
                {"label": adapter.labels[label], "score": round(value, 6)}
                for value, label in zip(values, labels, strict=True)
            ],
        }
        for clip, values, labels in zip(scored, best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    return rows + [{"clip": error.name, "scores": [], "error": error.reason} for error in errors]


def _clips(place: str) -> list[Clip]:
    if is_shards(place):
        return [clip for _, clips in read_data(place).items() for clip in clips]
    return [Clip(path) for path in _videos(Path(place))]


def _videos(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise ConfigError(f"clips ({place}) must be a video or a folder of videos, but there is nothing of that name.")
    found = sorted(video_files(place))  # as those of classes: links are followed, and a broken one is named
    if not found:
        raise ConfigError(
            f"clips ({place}) must be a video or a folder of videos, but it holds no file with a suffix of one "
            f"({' '.join(sorted(VIDEO_SUFFIXES))})."
        )
    return found
