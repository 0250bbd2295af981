"""A data set's files looked at before training: what there is, what cannot be read, what would spoil a result."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from .clip import Clip, DataSplits, original_name
from .examine import Examination, examine_and_look
from .groups import shared_groups
from .guard import TIME_LIMIT, guarded
from .naming import ClassNames, common_root, contradiction
from .readable import check_on_error
from .report import AuditReport, FileReport
from .sampling import check_counts
from .shards.source import ShardVideo
from .similar import find_alike
from .source import UnreadableVideoError

if TYPE_CHECKING:
    import numpy as np


def audit(
    splits: DataSplits,
    *,
    num_frames: int | None = None,
    decode: bool = True,
    on_error: str = "raise",
    root: str | os.PathLike = "",
    group_by: str = "auto",
    time_limit: float = TIME_LIMIT,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> AuditReport:
    """Read every video of a data set once, in processes that a broken file may crash or block.

    Args:
        splits: the clips.
        num_frames: frames in a clip (T), to count videos that are shorter.
        decode: decode every frame; without it only packets are read, and the first frame is decoded.
        on_error: as in training: with `"skip"`, unreadable files alone do not make it fail.
        root: the data folder, which names are relative to.
        group_by: which clips were cut from one video, see `group_clips`: those of one must not be in two splits.
        time_limit: seconds for one file.
        workers: processes, each with a file at a time; None is one for each CPU core.
        progress: called with 1 after each file.

    Returns:
        What was found; unreadable files are in it and raise nothing.

    Raises:
        ConfigError: an unknown `on_error`, `num_frames` below 1, a `time_limit` that is not above 0, or a `group_by` that
            does not fit.
        MissingExtraError: PyAV is not installed.
    """
    check_on_error(on_error)
    if num_frames is not None:
        check_counts({"num_frames": num_frames})
    clips = [(split, clip) for split, of_split in splits.items() for clip in of_split]
    found = guarded(
        partial(_examined, decode=decode),
        [clip for _, clip in clips],
        names=[clip.name for _, clip in clips],
        time_limit=time_limit,
        workers=workers,
        progress=progress,
    )
    files = [
        FileReport(clip.name, split, clip.label, None, result.reason)
        if isinstance(result, UnreadableVideoError)
        else FileReport(clip.name, split, clip.label, result[0], None)
        for (split, clip), result in zip(clips, found, strict=True)
    ]
    files = _with_contrary_names(files, [clip for _, clip in clips], splits.labels)
    report = AuditReport(splits.labels, files, splits.ignored, _duplicates(files), num_frames=num_frames)
    report.missing = splits.missing
    report.alike = _alike(files, [None if isinstance(result, UnreadableVideoError) else result[1] for result in found])
    report.problems = _problems(report, on_error)
    report.warnings = [*splits.warnings, *shared_groups(splits, root, group_by=group_by), *_warnings(report)]
    return report


def _examined(clip: Clip, decode: bool) -> "tuple[Examination, np.ndarray | None]":
    return examine_and_look(clip.source, decode=decode)


def _with_contrary_names(files: list[FileReport], clips: Sequence[Clip], labels: Sequence[str]) -> list[FileReport]:
    paths = [_path(clip) for clip in clips]
    root, names = common_root([path for path in paths if path is not None]), ClassNames(labels)
    told = []
    for file, path in zip(files, paths, strict=True):
        found = contradiction(path, root, file.label, names) if path is not None and file.label is not None else None
        if found is not None and file.label is not None:
            classes = " and ".join(labels[label] for label in sorted(found[1]))
            file = replace(file, contrary=f'"{found[0]}" names {classes}, but its class is {labels[file.label]}')
        told.append(file)
    return told


def _path(clip: Clip) -> str | None:
    """Where a clip lies, or lay before it was written into a shard; None where nothing tells."""
    if isinstance(clip.source, (str, os.PathLike)):
        return os.path.abspath(clip.source)
    if isinstance(clip.source, ShardVideo):
        return os.path.join(os.sep, original_name(clip, ""))
    return None


def _alike(files: Sequence[FileReport], looks: "Sequence[np.ndarray | None]") -> list[list[FileReport]]:
    seen: set[str] = set()
    first: list[np.ndarray | None] = []
    for file, look in zip(files, looks, strict=True):
        copy = file.found is None or file.found.digest in seen
        first.append(None if copy else look)
        if file.found is not None:
            seen.add(file.found.digest)
    return [[files[place] for place in group] for group in find_alike(first)]


def _duplicates(files: Sequence[FileReport]) -> list[list[FileReport]]:
    groups: dict[str, list[FileReport]] = {}
    for file in files:
        if file.found is not None:
            groups.setdefault(file.found.digest, []).append(file)
    return [group for group in groups.values() if len(group) > 1]


def _problems(report: AuditReport, on_error: str) -> list[str]:
    problems = []
    unreadable = len(report.unreadable)
    if unreadable and on_error != "skip":
        problems.append(
            f"{unreadable} of {len(report.files)} videos cannot be read. Repair or remove them, or leave them out with "
            "--on-error skip."
        )
    usable = Counter(file.label for file in report.files if file.split == "train" and file.found is not None)
    if not usable:
        problems.append("There is no readable training video.")
    elif len(usable) == 1:
        problems.append("The training videos are all of one class: there is nothing to tell apart.")
    return problems


def _warnings(report: AuditReport) -> list[str]:
    counts = report.counts()
    trained = counts.get("train", {})
    empty = [name for name, count in trained.items() if not count]
    warnings = [f"Classes without a training video: {', '.join(empty)}."] if empty else []
    contrary = [group for group in report.duplicates if len({file.label for file in group}) > 1]
    if contrary:
        warnings.append(f"Videos that stand under two classes (see the duplicates): {len(contrary)}.")
    if report.duplicates_across_splits:
        warnings.append(
            f"Videos that lie in several splits, which flatters the score: {len(report.duplicates_across_splits)}."
        )
    if report.alike_across_splits:
        warnings.append(
            "Groups of videos that show the same and lie in several splits, which flatters the score: "
            f"{len(report.alike_across_splits)}."
        )
    contrary = [group for group in report.alike if len({file.label for file in group}) > 1]
    if contrary:
        warnings.append(f"Groups of videos that show the same under several classes: {len(contrary)}.")
    if report.misnamed:
        warnings.append(f"Videos that are named after another class than theirs: {len(report.misnamed)}.")
    most, least = max(trained.values(), default=0), min((n for n in trained.values() if n), default=0)
    if most > 10 * least > 0:
        warnings.append(f"Classes are uneven: from {least} to {most} training videos.")
    return warnings
