"""Labelled clips through an adapter, and the tables of the result: what `apt-peft evaluate` does."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from apt_peft.errors import ConfigError, DataError, require
from apt_peft.evaluation import EvaluationResult
from apt_peft.opening import open_adapter
from apt_peft.scores.files import check_path, problems, save_scores, shown
from apt_peft.scores.origin import SCORES_FILE, clip_states, origin, with_groups
from apt_peft.scores.run import as_tensors, forget, score_clips
from apt_peft.scoring.clips import lasting, look_over, numbered_as, read_labelled, tell_skipped
from apt_peft.scoring.settings import EvaluateSettings
from apt_peft.training import processes
from apt_peft.training.data import clip_name
from apt_peft.training.datasets import video_dataset
from apt_peft.training.record import EVALUATION
from apt_peft.video import Clip, UnreadableVideoError
from apt_peft.video.backends import choose_decoder
from apt_peft.video.groups import group_clips, shared_groups_or_unknown
from apt_peft.video.guard import warm_up
from apt_peft.video.readable import unreadable_error

logger = logging.getLogger(__name__)


def evaluate_adapter(settings: EvaluateSettings) -> tuple[EvaluationResult, str, str | None]:
    """Score an adapter on labelled clips and write the tables.

    Args:
        settings: the flags.

    Returns:
        The scores, the split they are of, and the folder of the tables, if any.

    Raises:
        AptError: adapter, backbone or clips cannot be used.
    """
    processes.join(settings.device)
    if processes.rank() > 0:
        logging.getLogger("apt_peft").setLevel(logging.ERROR)
        settings = replace(settings, progress=False)
    warm_up()
    choose_decoder(settings.decoder)
    adapter = open_adapter(settings)
    split, clips = _labelled_clips(settings, adapter.labels)
    group_clips(
        clips, settings.data, group_by=settings.group_by
    )  # what does not fit is told before all clips are scored
    out = settings.out
    if out is None and Path(settings.adapter).is_dir():
        # The tables of the test split are those of the result, and stay.
        out = str(Path(settings.adapter) / (EVALUATION if split == "test" else f"{EVALUATION}-{split}"))
    if out is not None:
        require("matplotlib", "viz")  # which draws at the end
        # Not made yet: an evaluation that is cut short leaves no tables.
        there = next(path for path in (Path(out), *Path(out).parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            found = f"{there} {'must not be written to' if there.is_dir() else 'is a file'}"
            raise ConfigError(f"out ({out}) must be a folder that can be written to, but {found}. Choose another one.")
    if settings.save_scores:
        _check_names(settings.save_scores, [clip_name(clip, settings.data) for clip in clips])
    readable, unreadable = look_over(clips, settings)
    tell_skipped(unreadable)
    dependent = repr((adapter.fingerprint(), clip_states(readable, settings.data))) if settings.save_scores else ""
    numbers = score_clips(
        adapter.model,
        video_dataset(readable, adapter.clips, decoder=settings.decoder, **lasting(settings)),
        labels=len(adapter.labels),
        per_view=settings.per_view,
        place=settings.save_scores,
        what={"scores of": sha256(dependent.encode()).hexdigest()},
        resume=settings.resume,
        batch_size=adapter.batch_size,
        workers=settings.workers,
        precision=adapter.precision,
        progress=settings.progress,
        on_error=settings.on_error,
        time_limit=settings.time_limit,
    )

    def write() -> EvaluationResult:
        assert numbers is not None, "the first process has the numbers"
        result = _result(settings, adapter.labels, clips, readable, unreadable, *numbers)
        files = [settings.save_scores] if settings.save_scores else []
        if out is not None:
            result.save(out)
            # Scores beside the tables are of the same evaluation, or not there.
            (beside := Path(out, SCORES_FILE)).unlink(missing_ok=True)
            if not problems(result):
                files.append(str(beside))
        if files:
            backbone = settings.model or adapter.model.peft_config[adapter.name].base_model_name_or_path
            place = {"name": settings.adapter, "backbone": backbone, "data": settings.data, "split": split}
            scores = with_groups(result, clips, settings.data, group_by=settings.group_by)
            provenance = origin(adapter, clips, **place)
            for file in dict.fromkeys(files):
                save_scores(file, scores, provenance)
        return result if processes.world_size() == 1 else replace(result, logits=None)

    result = processes.on_first(write)
    if settings.save_scores:
        forget(settings.save_scores)
    return result, split, out


def _labelled_clips(settings: EvaluateSettings, labels: Sequence[str]) -> tuple[str, list[Clip]]:
    """The clips to score, their labels numbered as the adapter numbers them."""
    found = read_labelled(settings, labels)
    for warning in [*found.warnings, *shared_groups_or_unknown(found, settings.data, group_by=settings.group_by)]:
        logger.warning("%s", warning)
    split = settings.split or next((split for split in ("test", "val") if getattr(found, split)), "train")
    clips: list[Clip] = getattr(found, split)
    if not clips:
        there = ", ".join(name for name, _ in found.items())
        raise DataError(f"split ({split}) must have clips, but {settings.data} has only {there}.")
    return split, numbered_as(labels, clips, found.labels, settings.data)


def _result(
    settings: EvaluateSettings,
    labels: tuple[str, ...],
    clips: Sequence[Clip],
    readable: Sequence[Clip],
    unreadable: Sequence[UnreadableVideoError],
    numbers: Mapping[int, Tensor],
    lost: Mapping[int, UnreadableVideoError],
) -> EvaluationResult:
    """The scores of the clips that could be read; others were lost when they were decoded for scoring."""
    tell_skipped(lost.values())
    errors = {error.name: error for error in (*unreadable, *lost.values())}
    if not numbers:
        raise unreadable_error(list(errors.values()), len(clips), settings.on_error)
    order, scores, logits = as_tensors(numbers, settings.per_view)
    scored = [readable[index] for index in order]
    return EvaluationResult(
        labels,
        tuple(clip_name(clip, settings.data) for clip in scored),
        torch.tensor([clip.label for clip in scored]),
        scores,
        tuple(clip.name for clip in clips if clip.name in errors),
        logits,
    )


def _check_names(place: str, names: Sequence[str]) -> None:
    """See before all clips are scored that they can be told apart."""
    check_path("save_scores", place)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(
            f"save_scores ({place}) must tell clips by their names, but {len(twice)} stand in the data more than once: "
            f"{shown(twice)}. Take them out of the list."
        )
