"""What `apt-peft score` tells: numbers with their intervals, differences of files, confusions."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from apt_peft.scores.files import StoredScores, shown
from apt_peft.scores.intervals import Interval, bootstrap_all
from apt_peft.scores.metric import difference

NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class_accuracy": "mean class accuracy",
    "calibration_error": "calibration error",
    "loss": "loss",
}
IN_PER_CENT = frozenset(NAMES) - {"loss"}
# Its intervals are rough (docs/evaluation.md), and those of its differences would be rougher.
NOT_COMPARED = "calibration_error"
CONFUSIONS = 5


@dataclass(frozen=True)
class Drawing:
    """How intervals are made: see `bootstrap_all`.

    Args:
        level: how often intervals are to hold the true value.
        samples: draws.
        seed: of the draws.
        method: `bca` or `percentile`; None is what suits each number.
        groups: what each clip belongs to, or None.
    """

    level: float = 0.95
    samples: int = 2000
    seed: int = 0
    method: str | None = None
    groups: Sequence[Hashable] | None = None


def report(files: Sequence[StoredScores], ensemble: StoredScores | None, drawing: Drawing) -> dict[str, Any]:
    """All numbers of files of scores.

    Args:
        files: of the same clips in the same order.
        ensemble: what they say together, or None.
        drawing: of the intervals.

    Returns:
        Plain values for JSON: `files`, `ensemble`, `differences` of the others (and of the ensemble) to the first, `drawing`.
    """
    first, *others = [*files, *([ensemble] if ensemble else [])]
    groups = drawing.groups
    return {
        "files": [_of_one(item, drawing) for item in files],
        "ensemble": _of_one(ensemble, drawing) if ensemble else None,
        "differences": [_difference(item, first, drawing) for item in others],
        "drawing": asdict(drawing) | {"groups": None if groups is None else len(set(groups))},
    }


def _draw(metrics: Mapping[str, Any], drawing: Drawing) -> dict[str, Interval | None]:
    clips = len(next(iter(metrics.values())).parts)
    if clips < 2:
        return dict.fromkeys(metrics)
    return {**bootstrap_all(metrics, **vars(drawing))}


def _of_one(item: StoredScores, drawing: Drawing) -> dict[str, Any]:
    result = item.result
    intervals = _draw(result.metrics, drawing)
    return {
        "file": item.path,
        "clips": len(result.names),
        "classes": len(result.labels),
        "metrics": {name: {"value": value, **_ends(intervals[name])} for name, value in result.values.items()},
        "per_class": result.per_class(),
        "labels": list(result.labels),
        "confusion": result.confusion.tolist(),
        "skipped": list(result.skipped),
        "provenance": item.provenance,
    }


def _difference(item: StoredScores, first: StoredScores, drawing: Drawing) -> dict[str, Any]:
    own, theirs = item.result.metrics, first.result.metrics
    apart = {name: difference(own[name], theirs[name]) for name in own if name != NOT_COMPARED}
    intervals = _draw(apart, drawing)
    metrics = {}
    for name, metric in apart.items():
        interval = intervals[name]
        significant = None if interval is None else not interval.holds(0.0)
        metrics[name] = {"value": metric.value, **_ends(interval), "significant": significant}
    return {"file": item.path, "minus": first.path, "metrics": metrics}


def _ends(interval: Interval | None) -> dict[str, Any]:
    if interval is None:
        return {"low": None, "high": None, "method": None}
    return {"low": interval.low, "high": interval.high, "method": interval.method}


def as_text(found: Mapping[str, Any]) -> list[str]:
    """The lines that a report is printed as.

    Args:
        found: what `report` gives.
    """
    drawing = found["drawing"]
    of = "clips" if drawing["groups"] is None else f"{drawing['groups']} groups of clips"
    lines = []
    for item in [*found["files"], *([found["ensemble"]] if found["ensemble"] else [])]:
        lines += [f"{item['file']}: {item['clips']} clips, {item['classes']} classes"]
        lines += [f"  {NAMES[name]:20}{_value(name, numbers)}" for name, numbers in item["metrics"].items()]
        if wrong := _confusions(item):
            lines.append(f"  most often wrong: {wrong}")
        if item["skipped"]:
            lines.append(
                f"  {len(item['skipped'])} clips were left out, for they could not be read: {shown(item['skipped'])}"
            )
    for item in found["differences"]:
        lines.append(f"{item['file']} minus {item['minus']}")
        for name, numbers in item["metrics"].items():
            verdict = {None: "", False: ": no significant difference", True: ""}[numbers["significant"]]
            lines.append(f"  {NAMES[name]:20}{_value(name, numbers, sign='+')}{verdict}")
    if all(item["clips"] > 1 for item in found["files"]):
        lines.append(
            f"In brackets: {100 * drawing['level']:g} % intervals, bootstrap over {of} ({drawing['samples']} draws, "
            f"seed {drawing['seed']})."
        )
    return lines


def _value(name: str, numbers: Mapping[str, Any], sign: str = "") -> str:
    form = f"{sign}.1f" if name in IN_PER_CENT else f"{sign}.3f"
    unit = " %" if name in IN_PER_CENT else ""
    text = f"{numbers['value']:{form}}{unit}"
    if numbers["low"] is None:
        return text
    return f"{text} ({numbers['low']:{form}} to {numbers['high']:{form}})"


def _confusions(item: Mapping[str, Any]) -> str:
    labels = item["labels"]
    wrong = [
        (-count, true, predicted)
        for true, row in enumerate(item["confusion"])
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    return ", ".join(
        f"{labels[true]} taken for {labels[predicted]} ({-count})"
        for count, true, predicted in sorted(wrong)[:CONFUSIONS]
    )
