"""An adapter folder -> scores: what `apt-peft evaluate` and `apt-peft predict` do, in a process of its own."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apt_peft import flags
from apt_peft.errors import ConfigError, DataError, require
from apt_peft.evaluation import EvaluationResult, finite
from apt_peft.opening import Adapter, open_adapter, open_adapters
from apt_peft.scores.files import check_path, save_scores, shown
from apt_peft.scores.origin import clip_states, origin, with_groups
from apt_peft.scores.run import as_tensors, forget, score_clips
from apt_peft.scores.stream import score_each
from apt_peft.settings import INTEGER, NUMBERS, SWITCH, TEXT, Settings, at_least, setting
from apt_peft.training import processes
from apt_peft.training.data import clip_name
from apt_peft.training.datasets import video_dataset
from apt_peft.training.record import EVALUATION
from apt_peft.video import Clip, DataSplits, UnreadableVideoError, read_data
from apt_peft.video.backends import choose_decoder
from apt_peft.video.clip import VIDEO_SUFFIXES
from apt_peft.video.data import LABELS_FILE
from apt_peft.video.groups import shared_groups
from apt_peft.video.guard import warm_up
from apt_peft.video.readable import errors_of, unreadable_error
from apt_peft.video.shards.read import is_shards

logger = logging.getLogger(__name__)
WHAT, CLIPS, MACHINE = "what", "clips (default: as the adapter was trained)", "machine"


@dataclass(frozen=True, kw_only=True)
class ScoringSettings(Settings):
    """What both commands need to know; fields without a value follow the adapter's run.json."""

    adapter: str = setting(TEXT, "adapter: a folder or a name on the Hub", group=WHAT, metavar="DIR_OR_HUB")
    revision: str | None = setting(
        TEXT, "branch, tag or commit of an adapter on the Hub", None, group=WHAT, metavar="NAME"
    )
    model: str | None = setting(
        TEXT, "backbone (default: the one the adapter names)", None, group=WHAT, metavar="DIR_OR_HUB"
    )
    on_error: str = flags.on_error("when clips cannot be read: stop and name them, or leave them out", group=WHAT)
    look_over: str = flags.look_over(group=WHAT)
    time_limit: float = flags.time_limit(group=WHAT)
    num_frames: int | None = setting(INTEGER, "frames a clip", None, rule=at_least(1), group=CLIPS)
    sampling: str | None = setting(TEXT, "which frames", None, choices=("even", "uniform", "dense"), group=CLIPS)
    frame_stride: int | None = setting(
        INTEGER, "frames between two frames of a dense clip", None, rule=at_least(1), group=CLIPS
    )
    size: int | None = setting(INTEGER, "height and width in pixels", None, rule=at_least(1), group=CLIPS)
    resize: str | None = setting(TEXT, "cut a square out, or squash", None, choices=("crop", "squash"), group=CLIPS)
    mean: tuple[float, ...] | None = setting(NUMBERS, "mean of each colour channel", None, group=CLIPS)
    std: tuple[float, ...] | None = setting(NUMBERS, "deviation of each colour channel", None, group=CLIPS)
    segments: int | None = setting(INTEGER, "clips of a video in time", None, rule=at_least(1), group=CLIPS)
    crops: int | None = setting(INTEGER, "squares along the longer side", None, rule=at_least(1), group=CLIPS)
    batch_size: int | None = setting(
        INTEGER, "clips x views of one forward pass (default: training's)", None, rule=at_least(1), group=MACHINE
    )
    workers: int = setting(INTEGER, "processes that decode", 0, rule=at_least(0), group=MACHINE)
    decoder: str = flags.decoder(group=MACHINE)
    threads: int | None = setting(INTEGER, "CPU threads of torch", None, rule=at_least(1), group=MACHINE)
    device: str = setting(TEXT, "where to compute", "auto", choices=("auto", "cpu"), group=MACHINE)
    progress: bool = setting(SWITCH, "show a progress bar", True, group=MACHINE)


@dataclass(frozen=True, kw_only=True)
class LabelledSettings(ScoringSettings):
    """What commands that take labelled clips need to know besides."""

    data: str = setting(TEXT, "labelled clips, as for train", group=WHAT, metavar="DATA")
    train_list: str | None = setting(
        TEXT, "file of training clips, `path label` lines", None, group=WHAT, metavar="FILE"
    )
    val_list: str | None = setting(TEXT, "file of validation clips", None, group=WHAT, metavar="FILE")
    test_list: str | None = setting(TEXT, "file of test clips", None, group=WHAT, metavar="FILE")
    video_column: str | None = setting(TEXT, "column of a data set's videos", None, group=WHAT, metavar="NAME")
    label_column: str | None = setting(TEXT, "column of a data set's labels", None, group=WHAT, metavar="NAME")
    layout: str = flags.layout(group=WHAT)
    split_number: int = flags.split_number(group=WHAT)
    labels: str | None = setting(TEXT, "file of the data's class names, one a line", None, group=WHAT, metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(LabelledSettings):
    """Every flag of `apt-peft evaluate`."""

    split: str | None = setting(
        TEXT,
        "which clips (default: test, else val, else all there are)",
        None,
        choices=("train", "val", "test"),
        group=WHAT,
    )
    out: str | None = setting(
        TEXT,
        "folder for tables and pictures (default: ADAPTER/evaluation, with -train or -val for these splits; none for an "
        "adapter on the Hub)",
        None,
        group=WHAT,
        metavar="DIR",
    )
    save_scores: str | None = setting(
        TEXT,
        "file for the scores of each clip, .safetensors or .parquet: see apt-peft score",
        None,
        group=WHAT,
        metavar="FILE",
    )
    per_view: bool = setting(SWITCH, "save the logits of each view as well", False, group=WHAT)
    resume: bool = setting(
        SWITCH, "with --save-scores: go on with an evaluation of the same that was cut short", True, group=WHAT
    )

    def conflicts(self) -> list[str]:
        """Values that are fine alone and not together."""
        if self.per_view and self.save_scores is None:
            return [
                "per_view (True) must go with save_scores, for the logits are written there. Add --save-scores FILE."
            ]
        return []


@dataclass(frozen=True, kw_only=True)
class PredictSettings(ScoringSettings):
    """Every flag of `apt-peft predict`."""

    clips: str = setting(
        TEXT, "a video, a folder of them, or shards", group=WHAT, positional=True, metavar="CLIP_OR_FOLDER"
    )
    top_k: int = setting(INTEGER, "labels to show a clip", 5, rule=at_least(1), group=WHAT)
    json: bool = setting(SWITCH, "print JSON", False, group=WHAT)


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
    out = settings.out
    if out is None and Path(settings.adapter).is_dir():
        # The tables of the test split are those of the result, and stay.
        out = str(Path(settings.adapter) / (EVALUATION if split == "test" else f"{EVALUATION}-{split}"))
    if out is not None:
        require("matplotlib", "viz")  # which draws at the end
    if settings.save_scores:
        _check_names(settings.save_scores, [clip_name(clip, settings.data) for clip in clips])
    readable, unreadable = _readable(clips, settings)
    for error in unreadable:
        logger.warning("Skipped %s: %s.", error.name, error.reason)
    dependent = repr((adapter.fingerprint(), clip_states(readable, settings.data))) if settings.save_scores else ""
    numbers = score_clips(
        adapter.model,
        video_dataset(readable, adapter.clips, decoder=settings.decoder, **_lasting(settings)),
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
        if settings.save_scores:
            backbone = settings.model or adapter.model.peft_config[adapter.name].base_model_name_or_path
            place = {"name": settings.adapter, "backbone": backbone, "data": settings.data, "split": split}
            scores = with_groups(result, clips, settings.data)
            save_scores(settings.save_scores, scores, origin(adapter, clips, **place))
        if out is not None:
            result.save(out)
        return result if processes.world_size() == 1 else replace(result, logits=None)

    result = processes.on_first(write)
    if settings.save_scores:
        forget(settings.save_scores)
    return result, split, out


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
    clips, unreadable = _readable(clips, settings)
    found = list(
        score_each(
            adapter.model,
            video_dataset(clips, adapter.clips, decoder=settings.decoder, **_lasting(settings)),
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


def _labelled_clips(settings: EvaluateSettings, labels: Sequence[str]) -> tuple[str, list[Clip]]:
    """The clips to score, their labels numbered as the adapter numbers them."""
    found = read_labelled(settings, labels)
    for warning in [*found.warnings, *shared_groups(found, settings.data)]:
        logger.warning("%s", warning)
    split = settings.split or next((split for split in ("test", "val") if getattr(found, split)), "train")
    clips: list[Clip] = getattr(found, split)
    if not clips:
        there = ", ".join(name for name, _ in found.items())
        raise DataError(f"split ({split}) must have clips, but {settings.data} has only {there}.")
    return split, numbered_as(labels, clips, found.labels, settings.data)


def read_labelled(settings: LabelledSettings, labels: Sequence[str]) -> DataSplits:
    """Find labelled clips.

    Args:
        settings: where they are.
        labels: class names of the adapter, for lists that number the labels.

    Returns:
        The clips by split, their labels numbered as the data numbers them.

    Raises:
        DataError: nothing can be made of the data.
    """
    own = Path(settings.data) / LABELS_FILE
    names: Any = settings.labels or (own if own.is_file() else list(labels))
    return flags.read_clips(settings, labels=names)


def numbered_as(labels: Sequence[str], clips: Sequence[Clip], names: Sequence[str], data: str) -> list[Clip]:
    """Clips whose labels are numbered as an adapter numbers them.

    Args:
        labels: class names of the adapter.
        clips: labelled by the data.
        names: class names of the data.
        data: its place, for messages.

    Returns:
        The clips that have a label.

    Raises:
        DataError: there is a class that the adapter does not know.
    """
    used = {clip.label for clip in clips}
    strange = sorted(name for label, name in enumerate(names) if label in used and name not in labels)
    if strange:
        raise DataError(
            f"data ({data}) must have the adapter's labels, but it has {strange}. The adapter knows {list(labels)}."
        )
    place = {label: labels.index(name) for label, name in enumerate(names) if label in used}
    return [Clip(clip.source, place[clip.label]) for clip in clips if clip.label is not None]


def readable_clips(clips: Sequence[Clip], settings: ScoringSettings) -> list[Clip]:
    """The clips that can be read; the others are told by a warning.

    Args:
        clips: to look at.
        settings: what to do about those that cannot be read.

    Returns:
        One at least.

    Raises:
        DataError: none can be read, or one cannot and `on_error` is `stop`.
    """
    readable, unreadable = _readable(list(clips), settings)
    for error in unreadable:
        logger.warning("Skipped %s: %s.", error.name, error.reason)
    return readable


def _lasting(settings: ScoringSettings) -> dict[str, Any]:
    """Files are read in processes of their own, but where a worker of the loader is one already, and may end."""
    skip = settings.on_error == "skip"
    return {"time_limit": settings.time_limit, "on_error": settings.on_error} if skip or not settings.workers else {}


def _readable(clips: list[Clip], settings: ScoringSettings) -> tuple[list[Clip], tuple[UnreadableVideoError, ...]]:
    """The clips that can be read and what is wrong with the others; each process looks at a part of them."""
    errors: list[UnreadableVideoError | None] = [None] * len(clips)
    mine = clips[processes.rank() :: processes.world_size()]
    found = errors_of(mine, whole=settings.look_over == "whole", time_limit=settings.time_limit)
    for first, part in enumerate(processes.gather(found)):
        errors[first :: processes.world_size()] = part
    unreadable = tuple(error for error in errors if error is not None)
    if len(unreadable) == len(clips) or (unreadable and settings.on_error == "stop"):
        raise unreadable_error(unreadable, len(clips), settings.on_error)
    return [clip for clip, error in zip(clips, errors, strict=True) if error is None], unreadable


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
    for error in lost.values():
        logger.warning("Skipped %s: %s.", error.name, error.reason)
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


def _clips(place: str) -> list[Clip]:
    if is_shards(place):
        return [clip for _, clips in read_data(place).items() for clip in clips]
    return [Clip(path) for path in _videos(Path(place))]


def _videos(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise ConfigError(f"clips ({place}) must be a video or a folder of videos, but there is nothing of that name.")
    found = [
        path
        for path in sorted(place.rglob("*"))
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not path.name.startswith(".")
    ]
    if not found:
        raise ConfigError(
            f"clips ({place}) must be a video or a folder of videos, but it holds no file with a suffix of one "
            f"({' '.join(sorted(VIDEO_SUFFIXES))})."
        )
    return found


__all__ = [
    "Adapter",
    "EvaluateSettings",
    "PredictSettings",
    "ScoringSettings",
    "evaluate_adapter",
    "open_adapter",
    "open_adapters",
    "predict",
]
