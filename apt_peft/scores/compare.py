"""Several files of scores: the same clips brought into one order, ensembles of them, and groups of clips."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from apt_peft.errors import ConfigError, DataError
from apt_peft.scores.files import StoredScores, read_scores, shown
from apt_peft.scores.metric import TINY
from apt_peft.scores.result import EvaluationResult
from apt_peft.video.groups import AUTO, NONE, group_names

logger = logging.getLogger(__name__)
MEANS = ("probabilities", "logits")


def read_together(paths: Sequence[str]) -> list[StoredScores]:
    """Read files of scores of the same clips.

    Args:
        paths: of the files.

    Returns:
        Their scores, clips and classes in the order of the first: they are told by their names.

    Raises:
        ConfigError: a file that is not there.
        DataError: a file that cannot be counted on, or files of other clips, classes or true labels; all of them are named.
    """
    stored: list[StoredScores] = []
    wrong: list[str] = []
    for path in paths:
        try:
            stored.append(read_scores(path))
        except DataError as error:
            if len(paths) == 1:
                raise
            wrong.append(str(error))
    if wrong:
        raise DataError("\n".join(wrong))
    first, *others = stored
    found = [_unlike(first, other) for other in others]
    if lines := [line for lines in found for line in lines]:
        raise DataError(
            f"scores ({', '.join(item.path for item in stored)}) must be of the same clips, classes and true labels, but:\n"
            + "\n".join(f"  {line}" for line in lines)
        )
    return [first, *(_in_order_of(first, other) for other in others)]


def _unlike(first: StoredScores, other: StoredScores) -> list[str]:
    one, two = first.result, other.result
    lines = []
    for name, own, theirs in (("clips", one.names, two.names), ("classes", one.labels, two.labels)):
        for lacking, there, here in ((other, own, theirs), (first, theirs, own)):
            known = set(here)
            if missing := [text for text in there if text not in known]:
                lost = sum(any(_same_clip(text, skipped) for skipped in lacking.result.skipped) for text in missing)
                why = f", of which {lost} could not be read there" if lost and name == "clips" else ""
                lines.append(f"{lacking.path} lacks {len(missing)} {name}: {shown(missing)}{why}")
    if lines:
        return lines
    labels = {name: two.labels[target] for name, target in zip(two.names, two.targets.tolist(), strict=True)}
    apart = [
        f"{name} ({one.labels[target]} and {labels[name]})"
        for name, target in zip(one.names, one.targets.tolist(), strict=True)
        if labels[name] != one.labels[target]
    ]
    return (
        [f"{first.path} and {other.path} have other true labels for {len(apart)} clips: {shown(apart)}"]
        if apart
        else []
    )


def _same_clip(name: str, skipped: str) -> bool:
    """Whether a clip that was skipped, named by its whole path, is this one."""
    return skipped == name or skipped.endswith(f"/{name}")


def _in_order_of(first: StoredScores, other: StoredScores) -> StoredScores:
    result = other.result
    clip = {name: row for row, name in enumerate(result.names)}
    label = {name: column for column, name in enumerate(result.labels)}
    rows = torch.tensor([clip[name] for name in first.result.names])
    columns = torch.tensor([label[name] for name in first.result.labels])
    return replace(
        other,
        result=EvaluationResult(
            first.result.labels,
            first.result.names,
            first.result.targets,
            result.scores[rows][:, columns],
            result.skipped,
            None if result.logits is None else result.logits[rows][:, :, columns],
            None if result.groups is None else tuple(result.groups[row] for row in rows.tolist()),
        ),
    )


def ensemble(
    several: Sequence[EvaluationResult], *, mean: str = "probabilities", weights: Sequence[float] | None = None
) -> EvaluationResult:
    """The scores that several models have together.

    Args:
        several: scores of the same clips in the same order: see `read_together`.
        mean: `probabilities`, of each clip and class; or `logits`: of their logarithms (at least those of 1e-12), made
            probabilities again, which is the softmax of the mean logits where each clip has one view.
        weights: of each model, in proportion; None is alike.

    Returns:
        The scores, without logits.

    Raises:
        ConfigError: weights that are not one for each model, below 0, or all 0.
    """
    given = [1.0] * len(several) if weights is None else list(weights)
    if len(given) != len(several) or min(given) < 0 or sum(given) <= 0:
        raise ConfigError(
            f"weights ({', '.join(f'{weight:g}' for weight in given)}) must be one for each of the {len(several)} files, "
            "none below 0 and one above it."
        )
    share = (torch.tensor(given, dtype=torch.float64) / sum(given))[:, None, None]
    scores = torch.stack([result.scores.double() for result in several])
    if mean == "logits":
        scores = (share * scores.clamp_min(TINY).log()).sum(dim=0).softmax(dim=-1)
    else:
        scores = (share * scores / scores.sum(dim=-1, keepdim=True)).sum(dim=0)
    skipped = tuple(dict.fromkeys(name for result in several for name in result.skipped))
    return replace(several[0], scores=scores.float(), skipped=skipped, logits=None)


def groups_of(result: EvaluationResult, group_by: str) -> list[str] | None:
    """What each clip was cut from.

    Args:
        result: scores of the clips.
        group_by: as for `group_names`; `"auto"` takes what the scores were saved with, where that is known.

    Returns:
        A group for each clip; None where each is a video of its own.

    Raises:
        ConfigError: as `group_names`.
        DataError: as `group_names`.
    """
    if group_by == AUTO and result.groups is not None:
        return list(result.groups)
    groups, rule = group_names(result.names, group_by=group_by)
    if (warning := rule.warning()) is not None:
        logger.warning("%s", warning)
    elif rule.name == NONE and group_by != NONE:
        logger.warning("Nothing tells which clips were cut from one video: clips are drawn one by one.")
    return None if rule.name == NONE else groups


def ensemble_origin(several: Sequence[StoredScores], mean: str, weights: Sequence[float] | None) -> dict[str, Any]:
    """Where an ensemble's scores come from, for its file.

    Args:
        several: the files.
        mean: as for `ensemble`.
        weights: as for `ensemble`.
    """
    members = [{"file": item.path, "provenance": item.provenance} for item in several]
    return {"ensemble": mean, "weights": list(weights) if weights else [1.0] * len(several), "members": members}
