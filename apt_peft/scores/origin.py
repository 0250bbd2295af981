"""Where scores come from, in a table that a scores file carries."""

import datetime
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftModel

from apt_peft.errors import ConfigError, DataError
from apt_peft.opening import Adapter
from apt_peft.scores.files import problems, save_scores
from apt_peft.scores.result import EvaluationResult
from apt_peft.training.clips import ClipSettings
from apt_peft.training.data import clip_name, data_fingerprint
from apt_peft.training.record import versions
from apt_peft.video import Clip, UnreadableVideoError
from apt_peft.video.groups import AUTO, NONE, group_clips
from apt_peft.video.shards.source import LostVideo, ShardVideo

logger = logging.getLogger(__name__)
SCORES_FILE = "scores.safetensors"


def origin(
    adapter: Adapter, clips: Sequence[Clip], *, name: str, backbone: str | None, data: str, split: str
) -> dict[str, Any]:
    """All that decides on scores.

    Args:
        adapter: what scored the clips.
        clips: all that were to be scored.
        name: of the adapter: folder or Hub.
        backbone: its name.
        data: folder or name of the data set.
        split: of the clips.

    Returns:
        Plain values for JSON.
    """
    return {
        "adapter": name,
        "adapter_fingerprint": adapter.fingerprint(),
        "backbone": backbone,
        "backbone_fingerprint": adapter.backbone,
        "data": data,
        "split": split,
        "data_fingerprint": _fingerprint({split: list(clips)}, data),
        "views": adapter.clips.as_dict(),
        "precision": adapter.precision,
        "versions": versions(),
        "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def clip_states(clips: Sequence[Clip], data: str) -> list[str]:
    """What changes when a file changes, for a journal that outlives a process.

    Args:
        clips: the clips.
        data: their folder.

    Returns:
        A text for each clip, in order; of clips that are no files only their names and labels.
    """
    return [f"{clip_name(clip, data)}|{clip.label}|{_state(clip)}" for clip in clips]


def _state(clip: Clip) -> str:
    if not isinstance(clip.source, (str, os.PathLike, ShardVideo, LostVideo)):
        return ""
    try:
        return clip.fingerprint()
    except UnreadableVideoError:
        return "gone"


def _fingerprint(splits: dict[str, list[Clip]], data: str) -> str | None:
    """Of the data; None where a file went away meanwhile, for which no scores should be lost."""
    try:
        return data_fingerprint(splits, data)
    except OSError:
        return None


def with_groups(
    result: EvaluationResult, clips: Sequence[Clip], data: str, *, group_by: str = AUTO
) -> EvaluationResult:
    """Scores that say which clips were cut from one video.

    Args:
        result: the scores.
        clips: of which these are.
        data: their folder.
        group_by: as for `group_clips`.

    Returns:
        The scores; with groups where names, shards or `group_by` tell them.

    Raises:
        ConfigError: as `group_clips`.
        DataError: as `group_clips`.
    """
    groups, rule = group_clips(clips, data, group_by=group_by)
    if rule.name == NONE:
        return result
    group = {clip_name(clip, data): group for clip, group in zip(clips, groups, strict=True)}
    return replace(result, groups=tuple(group[name] for name in result.names))


def save_test_scores(
    folder: Path,
    test: EvaluationResult,
    model: PeftModel,
    clips: ClipSettings,
    run: Mapping[str, Any],
    videos: Sequence[Clip],
    *,
    name: str,
) -> None:
    """Write the scores of a run's test clips, unless clips cannot be told apart by their names.

    Args:
        folder: of the tables.
        test: the scores.
        model: what was trained.
        clips: how videos became clips.
        run: what run.json says.
        videos: the test clips.
        name: of the adapter.
    """
    backbone = run["backbone"]
    adapter = Adapter(
        model, test.labels, clips, run["precision"], run["settings"]["batch_size"], "default", backbone["fingerprint"]
    )
    place = {"name": name, "backbone": backbone["name"], "data": run["data"]["folder"], "split": "test"}
    if found := problems(test):
        logger.warning("The scores of the test clips are not saved: %s.", "; ".join(found))
        return
    scores = test
    try:
        scores = with_groups(test, videos, run["data"]["folder"], group_by=run["settings"]["group_by"])
    except (
        ConfigError,
        DataError,
    ) as error:  # training clips, of which validation clips are held out, are all that it must know
        logger.warning("The scores of the test clips do not tell which were cut from one video: %s", error)
    save_scores(folder / SCORES_FILE, scores, origin(adapter, videos, **place))
