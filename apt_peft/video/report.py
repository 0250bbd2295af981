"""What an audit found, and how it is told."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .examine import Examination

# Lines of a list that are printed; JSON has all.
_LINES = 50
# Signs in the longest bar of the histogram.
_BAR = 30


@dataclass(frozen=True)
class FileReport:
    """What was found out about one video.

    Args:
        name: of the file.
        split: `train`, `val` or `test`.
        label: number of its class.
        found: what is in it; None where it cannot be read.
        reason: why it cannot be read; None where it can.
        contrary: classes that its name names while it is of another, as the end of a sentence; None where it does not.
    """

    name: str
    split: str
    label: int | None
    found: Examination | None
    reason: str | None
    contrary: str | None = None


@dataclass
class AuditReport:
    """What `audit` found; as text it is what `apt-peft check` prints.

    Args:
        labels: names of the classes, by label.
        files: all videos, in order.
        ignored: files in the data folder that are no videos by their names.
        duplicates: groups of files with the same content.
        alike: groups of files that show the same and are not the same; of files with the same content the first.
        problems: why training would fail, as sentences.
        warnings: what may spoil a result, as sentences.
        num_frames: frames in a clip, where it was given.
        missing: videos that lists of a public data set name and that are not there.
    """

    labels: list[str]
    files: list[FileReport]
    ignored: list[str] = field(default_factory=list)
    duplicates: list[list[FileReport]] = field(default_factory=list)
    alike: list[list[FileReport]] = field(default_factory=list)
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
    def misnamed(self) -> list[FileReport]:
        """Videos whose names name another class than theirs."""
        return [file for file in self.files if file.contrary]

    @property
    def duplicates_across_splits(self) -> list[list[FileReport]]:
        """Groups of files with the same content that lie in more than one split."""
        return _across(self.duplicates)

    @property
    def alike_across_splits(self) -> list[list[FileReport]]:
        """Groups of files that show the same and lie in more than one split."""
        return _across(self.alike)

    def imbalance(self) -> dict[str, dict[str, float]]:
        """For each split: the largest and the smallest class that has clips, and how many equal classes would be as uneven."""
        return {split: _imbalance(list(by_class.values())) for split, by_class in self.counts().items()}

    def counts(self) -> dict[str, dict[str, int]]:
        """Split -> name of the class -> number of clips."""
        found = Counter((file.split, file.label) for file in self.files)
        splits = dict.fromkeys(file.split for file in self.files)
        return {split: {name: found[split, label] for label, name in enumerate(self.labels)} for split in splits}

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        values = asdict(self)
        for name in ("duplicates", "alike"):
            values[name] = [[file.name for file in group] for group in getattr(self, name)]
        return values | {
            "fatal": self.fatal,
            "counts": self.counts(),
            "imbalance": self.imbalance(),
            "unreadable": {file.name: file.reason for file in self.unreadable},
            "suspicious": {file.name: file.found.suspicions for file in self.suspicious if file.found},
            "misnamed": {file.name: file.contrary for file in self.misnamed},
            "duplicates_across_splits": len(self.duplicates_across_splits),
            "alike_across_splits": len(self.alike_across_splits),
        }

    def __str__(self) -> str:
        lines = [f"{len(self.files)} videos, {len(self.labels)} classes", *_table(self.counts()), *self._summary()]
        lines += _section("Files that are no videos by their names, ignored", self.ignored)
        lines += _section("Missing", self.missing)
        lines += _section("Unreadable", [f"{file.name}: {file.reason}" for file in self.unreadable])
        lines += _section(
            "Suspicious",
            [f"{file.name}: {'; '.join(file.found.suspicions)}" for file in self.suspicious if file.found],
        )
        lines += _section("Named after another class", [f"{file.name}: {file.contrary}" for file in self.misnamed])
        for title, groups in [
            ("The same video in several splits", self.duplicates_across_splits),
            ("The same video twice in a split", _within(self.duplicates)),
            ("Videos that show the same, in several splits", self.alike_across_splits),
            ("Videos that show the same, in a split", _within(self.alike)),
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


def _across(groups: Sequence[list[FileReport]]) -> list[list[FileReport]]:
    return [group for group in groups if len({file.split for file in group}) > 1]


def _within(groups: Sequence[list[FileReport]]) -> list[list[FileReport]]:
    return [group for group in groups if len({file.split for file in group}) == 1]


def _imbalance(counts: Sequence[int]) -> dict[str, float]:
    counts, total = [count for count in counts if count], sum(counts)
    if not counts:
        return {"largest": 0, "smallest": 0, "ratio": 1.0, "effective_classes": 0.0}
    entropy = -sum(count / total * math.log(count / total) for count in counts)
    largest, smallest = max(counts), min(counts)
    return {
        "largest": largest,
        "smallest": smallest,
        "ratio": round(largest / smallest, 3),
        "effective_classes": round(math.exp(entropy), 3),
    }


def _table(counts: dict[str, dict[str, int]]) -> list[str]:
    """Clips per class and split, aligned, with a bar for those of the first split."""
    splits = list(counts)
    first = counts[splits[0]] if splits else {}
    most = max(first.values(), default=0)
    rows = [["class", *splits, ""]]
    for name in first:
        bar = "#" * math.ceil(_BAR * first[name] / most) if most else ""
        rows.append([name, *(str(counts[split][name] or "-") for split in splits), bar])
    rows.append(["total", *(str(sum(counts[split].values())) for split in splits), ""])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for name, *numbers, bar in rows:
        cells = [name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(numbers, widths[1:], strict=True)), bar]
        lines.append("  ".join(cells).rstrip())
    return ["", *lines]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    shown = [f"  {line}" for line in lines[:_LINES]]
    more = [f"  and {len(lines) - _LINES} more: --json lists all"] if len(lines) > _LINES else []
    return ["", f"{title} ({len(lines)}):", *shown, *more]


def _counted(counter: Counter) -> str:
    shown = [f"{value} ({count})" for value, count in counter.most_common(6)]
    return ", ".join(shown + ([f"{len(counter) - 6} others"] if len(counter) > 6 else []))
