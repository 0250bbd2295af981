"""The clips that prompts are looked at and scored on, and those that what is left is measured on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from apt_peft.opening import Adapter
from apt_peft.training.datasets import video_dataset
from apt_peft.video import Clip


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
