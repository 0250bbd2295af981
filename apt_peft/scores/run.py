"""One evaluation: each clip scored once, by one of the processes, and written down as it is done."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apt_peft.errors import ConfigError
from apt_peft.evaluation import finite
from apt_peft.scores.journal import Journal, journal_of, journals
from apt_peft.scores.stream import score_each
from apt_peft.training import processes
from apt_peft.video.source import UnreadableVideoError

logger = logging.getLogger(__name__)


def score_clips(
    model: nn.Module,
    dataset: Any,
    *,
    labels: int,
    per_view: bool = False,
    place: str | None = None,
    what: Mapping[str, Any] | None = None,
    resume: bool = True,
    **options: Any,
) -> tuple[dict[int, Tensor], dict[int, UnreadableVideoError]] | None:
    """Score the clips of a dataset, each by one of the processes that were started; every process must call this.

    Args:
        model: as for `evaluate`, in every process the same.
        dataset: of test views.
        labels: how many classes there are.
        per_view: keep the logits of each view, and not only the clip's scores.
        place: the scores file that is going to be written: journals stand beside it until `forget`. None writes none.
        what: all that scores depend on; journals of anything else are begun anew.
        resume: take what the journals have.
        **options: of `score_each`.

    Returns:
        In the first process, by the clip's index: float32 (views, labels) logits, or (1, labels) scores; and why other clips
        could not be read, with `on_error="skip"`. In the others None.

    Raises:
        CheckpointError: scores are NaN.
        DataError: a video cannot be read.
    """
    shape = (getattr(dataset, "segments", 1) * getattr(dataset, "crops", 1) if per_view else 1, labels)
    known: dict[int, Tensor] = {}
    done: list[int] = []
    journal: Any = nullcontext()
    if place is not None:
        identity = dict(what or {}) | {"clips": len(dataset), "per_view": per_view}
        done = processes.on_first(partial(_begin, place, identity, shape, resume))
        if done and processes.rank() == 0:
            known = _read_all(place, identity, shape)
        journal = Journal(journal_of(place, processes.rank()), identity, shape)
    left = sorted(set(range(len(dataset))) - set(done))
    share = left[processes.rank() :: processes.world_size()]
    mine: dict[int, Tensor] = {}
    errors: dict[int, UnreadableVideoError] = {}
    with journal as opened:
        for clip in score_each(model, dataset, indices=share, **options):
            if clip.error is not None:
                errors[clip.index] = clip.error
                continue
            scores = finite(clip.scores[None])
            numbers = finite(clip.logits) if per_view else scores
            if opened is not None:
                opened.write(clip.index, numbers)
            mine[clip.index] = numbers
    parts = processes.gather_to_first((mine, errors))
    if parts is None:
        return None
    for numbers_there, unreadable in parts:
        known |= numbers_there
        errors |= unreadable
    return known, errors


def forget(place: str) -> None:
    """Delete the journals of an evaluation whose scores are written; every process must call this.

    Args:
        place: the scores file.
    """
    journal_of(place, processes.rank()).unlink(missing_ok=True)
    processes.wait_for_all()
    processes.on_first(partial(_delete_all, place))


def _begin(place: str, what: dict[str, Any], shape: tuple[int, int], resume: bool) -> list[int]:
    """The clips that need not be scored again."""
    reason = "it is a folder" if Path(place).is_dir() else None
    try:
        if not reason:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            journal_of(place, 0).open("ab").close()
    except OSError as error:
        reason = str(error.strerror).lower()
    if reason:
        raise ConfigError(
            f"save_scores ({place}) must be a file that can be written, but: {reason}. Choose another place."
        )
    there = journals(place)
    found = sorted(_read_all(place, what, shape)) if resume else []
    if found:
        logger.info(
            "Going on with an evaluation that was cut short: %d of %d clips are scored.", len(found), what["clips"]
        )
    else:
        if any(path.stat().st_size for path in there):
            logger.info(
                "Scoring all clips anew: what an earlier evaluation left is of other settings, or is not wanted."
            )
        _delete_all(place)
    return found


def _read_all(place: str, what: dict[str, Any], shape: tuple[int, int]) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    for path in journals(place):
        found |= Journal(path, what, shape).read()
    return {index: numbers for index, numbers in found.items() if 0 <= index < what["clips"]}


def _delete_all(place: str) -> None:
    for path in journals(place):
        path.unlink(missing_ok=True)


def as_tensors(numbers: Mapping[int, Tensor], per_view: bool) -> tuple[list[int], Tensor, Tensor | None]:
    """Scores in the order of the clips.

    Args:
        numbers: of `score_clips`, at least one clip.
        per_view: whether they are logits of each view.

    Returns:
        The clips' indices, their scores (clips, labels), and the logits (clips, views, labels) where they were kept.
    """
    order = sorted(numbers)
    stacked = torch.stack([numbers[index] for index in order])
    if per_view:
        return order, stacked.softmax(dim=-1).mean(dim=1), stacked
    return order, stacked[:, 0], None
