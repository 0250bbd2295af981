"""A data set's files looked at before training: what there is, what cannot be read, what would spoil a result."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from .clip import Clip, DataSplits
from .examine import Examination, examine
from .guard import TIME_LIMIT, guarded
from .readable import check_on_error
from .sampling import check_counts
from .source import UnreadableVideoError


@dataclass(frozen=True)
class FileReport:
    """What was found out about one video.

    Args:
        name: of the file.
        split: `train`, `val` or `test`.
        label: number of its class.
        found: what is in it; None where it cannot be read.
        reason: why it cannot be read; None where it can.
    """

    name: str
    split: str
    label: int | None
    found: Examination | None
    reason: str | None


@dataclass
class AuditReport:
    """What `audit` found; as text it is what `apt-peft check` prints.

    Args:
        labels: names of the classes, by label.
        files: all videos, in order.
        ignored: files in the data folder that are no videos by their names.
        duplicates: groups of files with the same content.
        problems: why training would fail, as sentences.
        warnings: what may spoil a result, as sentences.
        num_frames: frames in a clip, where it was given.
        missing: videos that lists of a public data set name and that are not there.
    """

    labels: list[str]
    files: list[FileReport]
    ignored: list[str] = field(default_factory=list)
    duplicates: list[list[FileReport]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    num_frames: int | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def fatal(self) -> bool:
        """Whether training would fail."""
        return bool(self.problems)

    @property
    def unreadable(self) -> list[FileReport]:
        """Videos that cannot be read."""
        return [file for file in self.files if file.found is None]

    @property
    def suspicious(self) -> list[FileReport]:
        """Videos that can be read and that a person should look at."""
        return [file for file in self.files if file.found is not None and file.found.suspicions]

    @property
    def duplicates_across_splits(self) -> list[list[FileReport]]:
        """Groups of files with the same content that lie in more than one split."""
        return [group for group in self.duplicates if len({file.split for file in group}) > 1]

    def counts(self) -> dict[str, dict[str, int]]:
        """Split -> name of the class -> number of clips."""
        found = Counter((file.split, file.label) for file in self.files)
        splits = dict.fromkeys(file.split for file in self.files)
        return {split: {name: found[split, label] for label, name in enumerate(self.labels)} for split in splits}

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        return asdict(self) | {"fatal": self.fatal, "counts": self.counts()}

    def __str__(self) -> str:
        lines = [f"{len(self.files)} videos, {len(self.labels)} classes", *_table(self.counts()), *self._summary()]
        lines += _section("Files that are no videos by their names, ignored", self.ignored)
        lines += _section("Missing", self.missing)
        lines += _section("Unreadable", [f"{file.name}: {file.reason}" for file in self.unreadable])
        lines += _section(
            "Suspicious",
            [f"{file.name}: {'; '.join(file.found.suspicions)}" for file in self.suspicious if file.found],
        )
        across = self.duplicates_across_splits
        within = [group for group in self.duplicates if group not in across]
        for title, groups in [
            ("The same video in several splits", across),
            ("The same video twice in a split", within),
        ]:
            lines += _section(title, [" = ".join(f"{file.name} ({file.split})" for file in group) for group in groups])
        lines += _section("Warnings", self.warnings)
        lines += _section("Training would fail", self.problems)
        return "\n".join(lines if self.fatal else [*lines, "", "Training can start."])

    def _summary(self) -> list[str]:
        infos = [file.found.info for file in self.files if file.found is not None]
        if not infos:
            return []
        frames, seconds = [info.num_frames for info in infos], [info.duration_seconds for info in infos]
        lines = [
            "",
            f"frames   {min(frames)} to {max(frames)}, median {statistics.median(frames):g}",
            f"seconds  {min(seconds):.1f} to {max(seconds):.1f}, median {statistics.median(seconds):.1f}",
            f"sizes    {_counted(Counter(f'{info.width}x{info.height}' for info in infos))}",
            f"rates    {_counted(Counter('variable' if i.variable_frame_rate else f'{i.fps:g} fps' for i in infos))}",
            f"codecs   {_counted(Counter(info.codec for info in infos))}",
        ]
        if any(info.rotation for info in infos):
            lines.append(f"rotated  {sum(bool(info.rotation) for info in infos)} are turned upright when they are read")
        short = sum(count < (self.num_frames or 0) for count in frames)
        if short:
            lines.append(f"short    {short} have fewer than {self.num_frames} frames, so their clips repeat some")
        return lines


def audit(
    splits: DataSplits,
    *,
    num_frames: int | None = None,
    decode: bool = True,
    on_error: str = "raise",
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
        time_limit: seconds for one file.
        workers: processes, each with a file at a time; None is one for each CPU core.
        progress: called with 1 after each file.

    Returns:
        What was found; unreadable files are in it and raise nothing.

    Raises:
        ConfigError: an unknown `on_error`, `num_frames` below 1, or a `time_limit` that is not above 0.
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
    files = [_file(split, clip, result) for (split, clip), result in zip(clips, found, strict=True)]
    report = AuditReport(splits.labels, files, splits.ignored, _duplicates(files), num_frames=num_frames)
    report.missing = splits.missing
    report.problems = _problems(report, on_error)
    report.warnings = [*splits.warnings, *_warnings(report)]
    return report


def _examined(clip: Clip, decode: bool) -> Examination:
    return examine(clip.source, decode=decode)


def _file(split: str, clip: Clip, found: Examination | UnreadableVideoError) -> FileReport:
    if isinstance(found, UnreadableVideoError):
        return FileReport(clip.name, split, clip.label, None, found.reason)
    return FileReport(clip.name, split, clip.label, found, None)


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
        warnings.append(f"{len(contrary)} videos stand under two classes: see the duplicates.")
    if report.duplicates_across_splits:
        warnings.append(
            f"{len(report.duplicates_across_splits)} videos lie in several splits, which flatters the score."
        )
    most, least = max(trained.values(), default=0), min((n for n in trained.values() if n), default=0)
    if most > 10 * least > 0:
        warnings.append(f"Classes are uneven: from {least} to {most} training videos.")
    return warnings


def _table(counts: dict[str, dict[str, int]]) -> list[str]:
    """Clips per class and split, aligned."""
    splits = list(counts)
    rows = [["class", *splits]]
    rows += [[name, *(str(counts[split][name] or "-") for split in splits)] for name in next(iter(counts.values()), {})]
    rows.append(["total", *(str(sum(counts[split].values())) for split in splits)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "",
        *(
            "  ".join(
                [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            ).rstrip()
            for row in rows
        ),
    ]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"{title} ({len(lines)}):", *(f"  {line}" for line in lines)] if lines else []


def _counted(counter: Counter) -> str:
    shown = [f"{value} ({count})" for value, count in counter.most_common(6)]
    return ", ".join(shown + ([f"{len(counter) - 6} others"] if len(counter) > 6 else []))
