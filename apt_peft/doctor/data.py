"""Checks of clips for a backbone: a sample of the files, and a probe that takes no training."""

import statistics
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..training.clips import ClipSettings, clip_settings
from ..training.datasets import video_dataset
from ..video import Clip, DataSplits, UnreadableVideoError, VideoInfo
from ..video.guard import TIME_LIMIT
from ..video.readable import describe, read_views
from .features import Features
from .findings import Finding
from .patient import Patient

Item = TypeVar("Item")

AT_ONCE = 16  # clips in memory
PROBED = 64  # files of which frames, sizes and rates are looked at
FAR_APART = 1.0  # seconds
MIXED = 1.5  # ratio of the highest frame rate to the lowest
RIDGE = 0.1
ENOUGH = 8  # clips of each class: fewer tell nothing against a backbone
MOST_CLASSES = 8


def sample_clips(splits: DataSplits, most: int, *, classes: int | None = None) -> list[Clip]:
    """Some clips of the first split that has any, every class in turn, the same ones each time.

    Args:
        splits: of the data.
        most: clips.
        classes: that are taken, evenly from all; None is every one.

    Returns:
        Labelled clips, of each class nearly as many.
    """
    by_label: dict[int | None, list[Clip]] = {}
    for clip in next((clips for _, clips in splits.items()), []):
        by_label.setdefault(clip.label, []).append(clip)
    taken = evenly(list(by_label.values()), len(by_label) if classes is None else classes)
    rounds = -(-most // max(len(taken), 1))
    # of each class evenly from its whole list: neighbours are often parts of one video
    chosen = [evenly(own, rounds) for own in taken]
    return [own[place] for place in range(rounds) for own in chosen if place < len(own)][:most]


def evenly(items: list[Item], most: int) -> list[Item]:
    """As many of a list as are wanted, evenly from all of it; all where there are no more."""
    return [items[place * len(items) // most] for place in range(most)] if len(items) > most else items


def check_files_of(
    clips: Sequence[Clip], frames: int, size: int, *, time_limit: float = TIME_LIMIT
) -> tuple[list[Finding], dict[str, Any]]:
    """Frames, sizes and rates of some videos, read without decoding more than a frame of each.

    Args:
        clips: the videos.
        frames: of a clip that the backbone takes.
        size: height and width that it takes.
        time_limit: seconds for one file.

    Returns:
        Findings, and what was seen in numbers.
    """
    results = describe(clips, time_limit=time_limit)
    infos = [result for result in results if isinstance(result, VideoInfo)]
    bad = [result for result in results if isinstance(result, UnreadableVideoError)]
    found = []
    of = f"of {len(clips)} looked at"
    if bad:
        found.append(Finding("videos-unreadable", f"{len(bad)} {of}: {bad[0].name}: {bad[0].reason}"))
    if not infos:
        return found, {}
    counts = [info.num_frames for info in infos]
    if short := [count for count in counts if count < frames]:
        found.append(
            Finding("videos-short", f"{len(short)} {of} have {min(short)} to {max(short)} frames, a clip has {frames}")
        )
    gaps = [info.duration_seconds / frames for info in infos if info.duration_seconds > 0]
    if gaps and statistics.median(gaps) > FAR_APART:
        found.append(
            Finding(
                "frames-far-apart",
                f"{frames} frames over a median of {statistics.median(gaps) * frames:.1f} s are "
                f"{statistics.median(gaps):.1f} s apart",
            )
        )
    rates = [info.fps for info in infos if info.fps > 0]
    if rates and max(rates) > MIXED * min(rates):
        found.append(Finding("frame-rates-mixed", f"from {min(rates):g} to {max(rates):g} frames a second {of}"))
    if small := [info for info in infos if min(info.width, info.height) < size]:
        least = min(min(info.width, info.height) for info in small)
        found.append(
            Finding("videos-small", f"{len(small)} {of}, down to {least} pixels on the short side, below {size}")
        )
    seen = {
        "videos": len(infos),
        "frames": [min(counts), statistics.median(counts), max(counts)],
        "short_side": [min(min(info.width, info.height) for info in infos), max(min(i.width, i.height) for i in infos)],
        "fps": [min(rates), max(rates)] if rates else [],
    }
    return found, seen


def check_labels(patient: Patient, labels: Sequence[str]) -> Iterator[Finding]:
    """The backbone's own labels against those of the data.

    Args:
        patient: the model.
        labels: names of the data's classes.

    Yields:
        Findings.
    """
    if patient.weights is None or "classifier.weight" not in patient.weights or not labels:
        return
    own = {_plain(name) for name in patient.config.id2label.values()}
    shared = [name for name in labels if _plain(name) in own]
    if len(shared) == len(labels):
        yield Finding(
            "head-knows-labels", f"all {len(labels)} classes are among its {len(own)} labels, {labels[0]!r} for one"
        )


def _plain(name: str) -> str:
    return "".join(character for character in str(name).lower() if character.isalnum())


def read_features(
    features: Features, clips: Sequence[Clip], folder: str, *, time_limit: float = TIME_LIMIT
) -> tuple[Tensor, Tensor]:
    """Features of the middle view of some videos, prepared as `apt-peft` prepares them.

    Args:
        features: the backbone.
        clips: the videos; those that cannot be read are left out.
        folder: of the backbone.
        time_limit: seconds for one file.

    Returns:
        (clips, width), and their labels; -1 where there is none.
    """
    silent: dict[str, Any] = dict.fromkeys(ClipSettings.__dataclass_fields__)
    silent |= {"mean": tuple(features.mean.flatten().tolist()), "std": tuple(features.std.flatten().tolist())}
    settings = clip_settings(SimpleNamespace(**silent), model=folder, frames=features.frames, size=features.size)
    dataset = video_dataset([], settings)
    found, labels = [], []
    for start in range(0, len(clips), AT_ONCE):
        dataset.clips = list(clips[start : start + AT_ONCE])
        for clip, pixels in zip(dataset.clips, read_views(dataset, time_limit=time_limit), strict=True):
            if isinstance(pixels, UnreadableVideoError):
                continue
            found.append(features.of(pixels))
            labels.append(-1 if clip.label is None else clip.label)
    return (torch.cat(found) if found else torch.zeros(0, 1)), torch.tensor(labels)


def check_probe(features: Tensor, labels: Tensor) -> tuple[list[Finding], dict[str, Any]]:
    """A closed-form classifier, each clip judged by one that has not seen it.

    Args:
        features: (clips, width).
        labels: (clips,).

    Returns:
        A finding where it is no better than the most frequent class by two standard errors, with enough clips to say so;
        and the numbers, none where there are fewer than two classes with two clips.
    """
    counts = labels.unique(return_counts=True)[1]
    if len(labels) < 4 or (counts >= 2).sum() < 2 or not features.isfinite().all():
        return [], {}
    accuracy = leave_one_out(features, labels)
    chance = float(counts.max()) / len(labels)
    error = (chance * (1 - chance) / len(labels)) ** 0.5
    numbers = {"clips": len(labels), "classes": len(counts), "accuracy": accuracy, "chance": chance, "error": error}
    if accuracy > chance + 2 * error or len(labels) < ENOUGH * len(counts):
        return [], numbers
    text = (
        f"{100 * accuracy:.0f} % of {len(labels)} clips of {len(counts)} classes right, chance {100 * chance:.0f} % "
        f"(standard error {100 * error:.0f})"
    )
    return [Finding("probe-at-chance", text)], numbers


def leave_one_out(features: Tensor, labels: Tensor, ridge: float = RIDGE) -> float:
    """Accuracy of ridge regression onto the classes, each clip predicted without itself.

    Args:
        features: (clips, width).
        labels: (clips,), any whole numbers.
        ridge: strength, relative to the mean of the diagonal of the standardised features' Gram matrix.

    Returns:
        Part of the clips that are right.

    Source: the leave-one-out residual of a linear smoother with hat matrix H is (y - Hy) / (1 - diag H).
    """
    normal = torch.nn.functional.layer_norm(features.double(), features.shape[-1:])
    # each feature with deviation 1, or the few that are much larger than others would decide alone
    centred = (normal - normal.mean(0)) / normal.std(0).clamp_min(1e-6)
    gram = centred @ centred.T
    count = len(labels)
    strength = ridge * float(gram.diagonal().mean()) + 1e-12
    hat = gram @ torch.linalg.inv(gram + strength * torch.eye(count, dtype=gram.dtype)) + 1 / count
    classes, places = labels.unique(return_inverse=True)
    targets = torch.nn.functional.one_hot(places, len(classes)).double()
    alone = 1 - hat.diagonal()[:, None]
    predicted = targets - (targets - hat @ targets) / alone
    return float((predicted.argmax(1) == places).double().mean())
