"""A model and videos -> scores: all test views of each video, in full batches; what follows from them is in `scores`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from apt_peft.errors import CheckpointError
from apt_peft.scores.result import EvaluationResult
from apt_peft.scores.stream import clip_logits, score_each, view_logits
from apt_peft.video.crumbs import unreadable_by_name

__all__ = ["EvaluationResult", "clip_logits", "evaluate", "finite", "score", "score_all", "unreadable_by_name"]


def evaluate(
    model: nn.Module,
    dataset: Any,
    *,
    labels: Sequence[str],
    names: Sequence[str],
    batch_size: int = 8,
    workers: int = 0,
    precision: str = "float32",
    progress: bool = False,
) -> EvaluationResult:
    """Score every clip of a dataset: all its views through the model, softmax per view, mean over the views.

    Args:
        model: video classifier; the logits of its first argument, (n, T, C, height, width), are (n, labels).
        dataset: items `pixel_values` (views, T, C, height, width), `labels`, `index`; each decodes its video once.
        labels: class names in label order.
        names: the clips' names in the dataset's order.
        batch_size: views of one forward pass, of whichever clips.
        workers: processes that decode.
        precision: `float32`, or `bfloat16` or `float16` for autocast.
        progress: show a bar.

    Returns:
        The scores, in the dataset's order.

    Raises:
        CheckpointError: scores are NaN.
        DataError: a video cannot be read.
    """
    scores, targets = score_all(
        model, dataset, batch_size=batch_size, workers=workers, precision=precision, progress=progress
    )
    return EvaluationResult(tuple(labels), tuple(names), targets, scores)


def score_all(
    model: nn.Module,
    dataset: Any,
    *,
    batch_size: int,
    workers: int = 0,
    precision: str = "float32",
    progress: bool = False,
    indices: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores and labels of every clip of a dataset; the model's mode and torch's random state stay as they were.

    Args:
        model: as for `evaluate`.
        dataset: as for `evaluate`; without `labels` the second result is -1.
        batch_size: views of one forward pass, of whichever clips.
        workers: processes that decode.
        precision: as for `evaluate`.
        progress: show a bar.
        indices: the clips to score, in this order; None is all.

    Returns:
        Scores (clips, labels) and true labels (clips,).

    Raises:
        CheckpointError: scores are NaN.
        DataError: a video cannot be read.
    """
    found = list(
        score_each(
            model,
            dataset,
            batch_size=batch_size,
            workers=workers,
            precision=precision,
            progress=progress,
            indices=indices,
        )
    )
    return finite(torch.stack([clip.scores for clip in found])), torch.tensor([clip.label for clip in found])


def finite(scores: Tensor) -> Tensor:
    """The scores (clips, labels) as they are.

    Raises:
        CheckpointError: scores are NaN.
    """
    if bad := int((~scores.isfinite()).any(dim=1).sum()):
        raise CheckpointError(
            f"scores ({bad} of {len(scores)} clips) must be finite, but the model's are NaN: its weights are damaged, or "
            "its training has diverged. Train again with a lower --lr, or copy the weights again."
        )
    return scores


def score(model: nn.Module, clips: Tensor, *, batch_size: int, precision: str = "float32") -> Tensor:
    """Scores of some clips: softmax of each view, mean over the views.

    Args:
        model: video classifier.
        clips: (clips, views, T, C, height, width) on the model's device.
        batch_size: views of one forward pass.
        precision: as for `evaluate`.

    Returns:
        (clips, labels) on the CPU, float32.
    """
    views = clips.flatten(0, 1)
    parts = [view_logits(model, part, precision).softmax(dim=-1) for part in views.split(batch_size)]
    return torch.cat(parts).unflatten(0, clips.shape[:2]).mean(dim=1).cpu()
