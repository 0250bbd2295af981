"""Clips -> lists of train, val and test clips, a file of labels and a manifest, written as one."""

import hashlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, DataError
from ..version import __version__
from .clip import SPLITS, Clip, DataSplits, clip_name
from .data import LABELS_FILE
from .folder_of_files import MANIFEST, write_folder
from .groups import AUTO, group_clips
from .lists import line_of
from .splitting import split_groups

FORMAT = 1
_SHOWN = 10
_ORDER = {split: place for place, split in enumerate(SPLITS)}


@dataclass(frozen=True)
class SplitPlan:
    """How clips are divided.

    Args:
        val: part of the clips to divide that becomes validation clips, or None.
        test: likewise for test clips.
        folds: number of folds for cross-validation, or None.
        pool: divide all clips, whatever split they are in; else the training clips alone.
        group_by: which clips stay together, see `group_clips`.
        seed: of the split.
    """

    val: float | None = None
    test: float | None = None
    folds: int | None = None
    pool: bool = False
    group_by: str = AUTO
    seed: int = 0


@dataclass
class WrittenLists:
    """What `write_lists` wrote.

    Args:
        out: the folder.
        manifest: what its manifest says.
        warnings: what may spoil a result, as sentences.
    """

    out: str
    manifest: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        made = self.manifest
        lines = []
        for name, clips in made["clips"].items():
            lines.append(f"{name:14} {clips:>7} clips in {made['groups'][name]:>7} groups")
        lines.append(f"classes: {len(made['labels'])}; grouped by: {made['grouped_by']}; seed {made['seed']}")
        share, where = made["largest_deviation"]
        if where:
            lines.append(f"farthest from its wanted share: {where}, by {share:.2f} clips")
        lines.append(f"lists: {self.out}")
        if made["folds"] is None:
            files = " ".join(f"--{split}-list {self._quoted(f'{split}.csv')}" for split in made["clips"])
            lines.append(f"use: --data {shlex.quote(made['data'])} {files} --labels {self._quoted('labels.txt')}")
        return "\n".join(lines)

    def _quoted(self, file: str) -> str:
        return shlex.quote(os.path.join(self.out, file))


def write_lists(
    data: DataSplits, root: str | os.PathLike, out: str | os.PathLike, plan: SplitPlan, *, overwrite: bool = False
) -> WrittenLists:
    """Divide clips and write lists of them: `train.csv`, `val.csv`, `test.csv`, `labels.txt` and `manifest.json`.

    With folds, `fold-1/train.csv` and `fold-1/val.csv` to `fold-K`, and `test.csv` beside. The same clips and plan give the same
    bytes, in whatever order the clips are.

    Args:
        data: the clips.
        root: the data folder, which the paths of lists are relative to.
        out: folder for the lists, new or empty.
        plan: how to divide.
        overwrite: replace lists in `out`.

    Returns:
        What was written.

    Raises:
        ConfigError: a plan that does not fit the data, or a folder that is in use.
        DataError: clips that no list can name, or too few to divide.
    """
    clips = {split: list(getattr(data, split)) for split in SPLITS}
    _check_plan(plan, clips)
    if plan.pool:
        clips = {"train": [clip for split in SPLITS for clip in clips[split]], "val": [], "test": []}
    names = _names(clips, root)
    every = [clip for split in SPLITS for clip in clips[split]]
    found, rule = group_clips(every, root, group_by=plan.group_by, layout=data.layout)
    group = dict(zip((name for split in SPLITS for name in names[split]), found, strict=True))
    made, wanted = _divide(plan, clips, names, group)
    files = {f"{split}.csv": _list(entries, data.labels) for split, entries in made.items()}
    files[LABELS_FILE] = _labels(data.labels)
    manifest = {
        "format": FORMAT,
        "apt_peft": __version__,
        "data": os.fspath(root),
        "layout": data.layout,
        "seed": plan.seed,
        "val": plan.val,
        "test": plan.test,
        "folds": plan.folds,
        "pool": plan.pool,
        "group_by": plan.group_by,
        "grouped_by": rule.name,
        "grouped_alone": len(rule.alone),
        "fingerprint": _fingerprint(made, group, data.labels),
        "labels": data.labels,
        "clips": {split: len(entries) for split, entries in made.items()},
        "groups": {split: len({group[name] for name, _ in entries}) for split, entries in made.items()},
        "counts": {split: _counts(entries, data.labels) for split, entries in made.items()},
        "largest_deviation": _deviation(made, wanted, data.labels),
        "missing": data.missing,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
    }
    files[MANIFEST] = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
    write_folder(out, files, overwrite=overwrite)
    told = [*data.warnings, *filter(None, [rule.warning()]), *_warnings(made, group, data.labels, plan)]
    return WrittenLists(os.fspath(out), manifest, told)


def _check_plan(plan: SplitPlan, clips: dict[str, list[Clip]]) -> None:
    asked = {"val": plan.val, "test": plan.test}
    wrong = [
        f"{name} ({value}) must be above 0 and below 1."
        for name, value in asked.items()
        if value is not None and not 0 < value < 1
    ]
    if not wrong and (plan.val or 0) + (plan.test or 0) >= 1:
        wrong.append(
            f"val ({plan.val}) and test ({plan.test}) must leave clips to train on, but together they are 1 or more."
        )
    if plan.folds is not None and plan.folds < 2:
        wrong.append(f"folds ({plan.folds}) must be at least 2.")
    if plan.folds is not None and plan.val is not None:
        wrong.append(f"val ({plan.val}) must be left out with folds, each of which is the validation split once.")
    for name, value in asked.items():
        if clips[name] and not plan.pool and (value is not None or (name == "val" and plan.folds is not None)):
            flag = name if value is not None else "folds"
            wrong.append(
                f"{flag} ({plan.folds if flag == 'folds' else value}) must be left out, but the data has {len(clips[name])} "
                f"{name} clips of its own. Leave it out to keep these, or divide all clips anew with --pool."
            )
    nothing = plan.val is None and plan.test is None and plan.folds is None
    if nothing and (plan.pool or not (clips["val"] or clips["test"])):
        wrong.append(
            "val, test or folds must be given, but none says how to divide the clips. Add --val 0.2, for example."
        )
    if len(wrong) == 1:
        raise ConfigError(wrong[0])
    if wrong:
        raise ConfigError(f"{len(wrong)} settings are wrong:\n" + "\n".join(f"  {text}" for text in wrong))


def _names(clips: dict[str, list[Clip]], root: str | os.PathLike) -> dict[str, list[str]]:
    """The path of each clip as a list names it."""
    held = [clip for found in clips.values() for clip in found if not isinstance(clip.source, (str, os.PathLike))]
    if held:
        raise DataError(
            f"clips ({len(held)}) must be files to stand in lists, but these lie in a data set: {held[0].name} and so on. Write "
            "them to files first."
        )
    names = {
        split: [name if (name := clip_name(clip, root)) != clip.name else os.path.abspath(name) for clip in found]
        for split, found in clips.items()
    }
    return names


Entries = list[tuple[str, int]]


def _divide(
    plan: SplitPlan, clips: dict[str, list[Clip]], names: dict[str, list[str]], group: dict[str, str]
) -> tuple[dict[str, Entries], dict[str, dict[int, float]]]:
    """Entries (path, label) of each list, sorted; and what each list that was divided wanted of each class."""
    entries: dict[str, Entries] = {
        split: sorted(
            (name, clip.label) for name, clip in zip(names[split], clips[split], strict=True) if clip.label is not None
        )
        for split in SPLITS
    }
    wanted: dict[str, dict[int, float]] = {}

    def divide(pool: Entries, fractions: dict[str, float]) -> dict[str, Entries]:
        labels = [label for _, label in pool]
        if len({group[name] for name, _ in pool}) < len(fractions):
            raise DataError(
                f"clips ({len(pool)}) must be of {len(fractions)} groups or more to be divided, but they are of "
                f"{len({group[name] for name, _ in pool})}. Group them in another way by --group-by."
            )
        parts = split_groups([group[name] for name, _ in pool], labels, list(fractions.values()), seed=plan.seed)
        count = Counter(labels)
        for part, fraction in fractions.items():
            wanted[part] = {label: fraction * n for label, n in count.items()}
        found: dict[str, Entries] = {part: [] for part in fractions}
        by_number = list(found.values())
        for entry, number in zip(pool, parts, strict=True):
            by_number[number].append(entry)
        return found

    asked = {"val": plan.val, "test": plan.test}
    fractions = {split: value for split, value in asked.items() if value is not None}
    made = {split: found for split, found in entries.items() if found}
    if fractions:
        made |= divide(entries["train"], {"train": 1 - sum(fractions.values()), **fractions})
    if plan.folds is not None:
        wanted.pop("train", None)
        folds = divide(made.pop("train"), {f"fold-{k}": 1 / plan.folds for k in range(1, plan.folds + 1)})
        for name, held in folds.items():
            rest = sorted(entry for other, found in folds.items() if other != name for entry in found)
            made[f"{name}/train"], made[f"{name}/val"] = rest, held
            wanted[f"{name}/val"] = wanted.pop(name)
    return {split: made[split] for split in sorted(made, key=lambda split: _ORDER.get(split, len(_ORDER)))}, wanted


def _list(entries: Entries, labels: Sequence[str]) -> bytes:
    # Numbers, as the reference reads them; where names of classes are numbers, these would be taken for the names.
    numbers = not any(name.isdigit() for name in labels) or list(labels) == [str(n) for n in range(len(labels))]
    lines = [line_of(name, str(label) if numbers else labels[label]) for name, label in entries]
    bad = [name for (name, _), line in zip(entries, lines, strict=True) if line is None]
    if bad:
        shown = "\n".join(f"  {name!a}" for name in bad[:_SHOWN])
        raise DataError(
            f"paths ({len(bad)}) must fit into a line of a list, but these have line breaks, tabs or letters that do not. Rename "
            f"them.\n{shown}" + (f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else "")
        )
    return "".join(f"{line}\n" for line in lines).encode()


def _labels(labels: Sequence[str]) -> bytes:
    bad = [name for name in labels if name.splitlines() != [name] or name.strip() != name or name.startswith("\ufeff")]
    if bad:
        raise DataError(
            f"classes ({', '.join(map(ascii, bad[:_SHOWN]))}) must fit into a line each, without spaces at the ends, but these "
            "do not. Rename them."
        )
    return "".join(f"{name}\n" for name in labels).encode()


def _counts(entries: Entries, labels: Sequence[str]) -> dict[str, int]:
    found = Counter(label for _, label in entries)
    return {name: found[label] for label, name in enumerate(labels)}


def _deviation(
    made: dict[str, Entries], wanted: dict[str, dict[int, float]], labels: Sequence[str]
) -> tuple[float, str | None]:
    """The largest difference between what a list has of a class and what it wanted, in clips, and where."""
    found: tuple[float, str | None] = (0.0, None)
    for split, by_label in wanted.items():
        counts = Counter(label for _, label in made[split])
        for label, count in sorted(by_label.items()):
            if abs(counts[label] - count) > found[0] + 1e-9:
                found = abs(counts[label] - count), f"{labels[label]} in {split} ({counts[label]} of {count:.4g})"
    return round(found[0], 6), found[1]


def _fingerprint(made: dict[str, Entries], group: dict[str, str], labels: Sequence[str]) -> str:
    """16 hexadecimal digits of all names, labels and groups, whatever list they are in."""
    lines = sorted({f"{name}\t{labels[label]}\t{group[name]}" for entries in made.values() for name, label in entries})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _warnings(made: dict[str, Entries], group: dict[str, str], labels: Sequence[str], plan: SplitPlan) -> list[str]:
    warnings = []
    test = {group[name] for name, _ in made.get("test", ())}
    rest = {group[name] for split, entries in made.items() if split != "test" for name, _ in entries}
    if both := test & rest:
        warnings.append(
            "Groups that stand in the test split of the data and outside it, which flatters the score: "
            f"{len(both)}. Divide all clips anew with --pool."
        )
    for split, entries in made.items():
        present = {label for _, label in entries}
        lacking = [name for label, name in enumerate(labels) if label not in present]
        if lacking:
            shown = ", ".join(lacking[:_SHOWN]) + (
                f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
            )
            warnings.append(f"Classes without a clip in {split} ({len(lacking)}): {shown}.")
    return warnings
