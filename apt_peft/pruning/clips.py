"""The clips that prompts are looked at and scored on, and those that what is left is measured on."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from apt_peft.errors import DataError
from apt_peft.opening import Adapter
from apt_peft.pruning.settings import PruneSettings
from apt_peft.scoring.clips import numbered_as, read_labelled, readable_clips
from apt_peft.scoring.settings import LabelledSettings
from apt_peft.training.datasets import video_dataset
from apt_peft.training.record import Run
from apt_peft.video import Clip, DataSplits, hold_out

logger = logging.getLogger(__name__)
# What is held out for a curve where the adapter's run held nothing out.
HELD_OUT = 0.2


def calibration_clips(settings: LabelledSettings, adapter: Adapter, split: str) -> list[Clip]:
    """The clips of a split that can be read, labelled as the adapter numbers its classes.

    Args:
        settings: where they are, and what to do about those that cannot be read.
        adapter: whose prompts are looked at.
        split: `train`, `val` or `test`.

    Returns:
        At least one clip.

    Raises:
        DataError: there is none.
    """
    found = read_labelled(settings, adapter.labels)
    clips = _of_split(settings, found, split)
    return numbered_as(adapter.labels, clips, found.labels, settings.data)


def _of_split(settings: LabelledSettings, found: DataSplits, split: str) -> list[Clip]:
    clips: list[Clip] = getattr(found, split)
    if not clips:
        there = ", ".join(name for name, _ in found.items()) or "none"
        raise DataError(f"data ({settings.data}) must have {split} clips, but it has only {there}.")
    return readable_clips(clips, settings)


def clips_to_prune_on(
    settings: PruneSettings, adapter: Adapter, run: Run | None
) -> tuple[list[Clip], list[Clip], str | None]:
    """Calibration clips from the training split; validation clips where a curve is wanted, and where they are from."""
    found = read_labelled(settings, adapter.labels)
    training = _of_split(settings, found, "train")
    validation: list[Clip] = []
    origin = None
    if settings.curve and found.val:
        validation, origin = _of_split(settings, found, "val"), "validation split"
    elif settings.curve:
        told = run.values["settings"] if run is not None else {}
        fraction, seed = told.get("val_fraction", 0.0), told.get("seed", settings.seed)
        origin = "held out of the training clips as the run did"
        if not fraction:
            fraction, origin = HELD_OUT, "held out of clips that the adapter may have been trained on"
            logger.warning(
                "There is no validation split, and the adapter's run held none out: the curve is of clips that it may have "
                "been trained on."
            )
        training, validation = hold_out(training, fraction, seed, root=settings.data, layout=found.layout)
    drawn = draw_clips(training, settings.calibration_clips, seed=settings.seed)
    drawn, validation = (
        numbered_as(adapter.labels, clips, found.labels, settings.data) for clips in (drawn, validation)
    )
    return drawn, validation, origin


def draw_clips(clips: Sequence[Clip], count: int, *, seed: int) -> list[Clip]:
    """Some clips, of all classes alike as far as they go.

    Args:
        clips: to draw from.
        count: how many; all where there are fewer.
        seed: of the draw.

    Returns:
        The clips: one of each class, then a second one, and so on.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = [clips[index] for index in torch.randperm(len(clips), generator=generator).tolist()]
    classes: dict[Any, list[Clip]] = {}
    for clip in shuffled:
        classes.setdefault(clip.label, []).append(clip)
    groups = [classes[label] for label in sorted(classes, key=str)]
    rounds = range(max(map(len, groups), default=0))
    drawn = [group[number] for number in rounds for group in groups if number < len(group)]
    return drawn[:count]


def clip_batches(adapter: Adapter, clips: Sequence[Clip], *, workers: int = 0) -> "DataLoader[Any]":
    """Clips as batches for calibration: one view of each, in their order.

    Args:
        adapter: how its clips are made, and how many come at a time.
        clips: the clips.
        workers: processes that decode.

    Returns:
        Batches that the model's forward takes, and `labels`.
    """
    dataset = video_dataset(clips, replace(adapter.clips, segments=1, crops=1))
    name = adapter.model.get_base_model().main_input_name
    return DataLoader(
        dataset, batch_size=adapter.batch_size, num_workers=workers, collate_fn=partial(_one_view, name=name)
    )


def view_batches(
    adapter: Adapter, clips: Sequence[Clip], *, workers: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Clips as batches for scores: all test views of each.

    Args:
        adapter: how its clips are made, and how many views come at a time.
        clips: the clips.
        workers: processes that decode.

    Yields:
        (clips, views, T, C, height, width) and their labels.
    """
    views = adapter.clips.segments * adapter.clips.crops
    dataset = video_dataset(clips, adapter.clips)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=max(1, adapter.batch_size // views), num_workers=workers)
    for batch in loader:
        yield batch["pixel_values"], batch["labels"]


def _one_view(items: list[dict[str, Any]], *, name: str) -> dict[str, Any]:
    batch = default_collate(items)
    return {name: batch["pixel_values"].flatten(0, 1), "labels": batch["labels"]}
