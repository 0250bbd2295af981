"""Stored runs and scores -> rows, and rows -> tables for the terminal and Markdown, and results.jsonl."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from apt_peft.comparison.contenders import Contender
from apt_peft.comparison.cost import multiply_adds
from apt_peft.comparison.many import ManyRuns
from apt_peft.comparison.plan import Plan
from apt_peft.comparison.ratios import Ratios
from apt_peft.comparison.trials import WEIGHTS
from apt_peft.comparison.tuning import Choice, score_of
from apt_peft.scores import read_together
from apt_peft.scores.intervals import Interval
from apt_peft.scores.seeds import bootstrap_seeds, correct
from apt_peft.scores.whole import whole_file
from apt_peft.training.record import read_run, versions
from apt_peft.training.settings import TrainSettings

RESULTS, TABLE = "results.jsonl", "table.md"


@dataclass(frozen=True)
class Row:
    """What came out of a contender.

    Args:
        name: as the user wrote it.
        settings: in a few words.
        rates: that were chosen.
        edges: rates whose best is the lowest or highest that was tried.
        trained_parameters: head included.
        beside_head: of these, those that are no head's.
        stored_bytes: of the adapter's weights, head included.
        multiply_adds: of a clip's forward; None where they can't be told.
        ratios: measured cost, as `Ratios` has it; None where it was not measured.
        seeds: top-1 of each seed in per cent; None where training diverged.
        clips: of the test split that were scored; None where no seed was.
        top1: their mean; None where a seed diverged.
        low: lower end of its interval.
        high: upper end.
        difference: points above the reference; None for the reference itself.
        difference_low: lower end of its interval.
        difference_high: upper end.
        verdict: the difference in words.
    """

    name: str
    settings: str
    rates: dict[str, float]
    edges: dict[str, str]
    trained_parameters: int | None
    beside_head: int
    stored_bytes: int | None
    multiply_adds: int | None
    seeds: list[float | None]
    clips: int | None = None
    ratios: dict[str, Any] | None = None
    top1: float | None = None
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    verdict: str = ""


def verdict(interval: Interval) -> str:
    """A difference in words.

    Args:
        interval: of the contender's top-1 minus the reference's.
    """
    if interval.holds(0.0):
        return "no significant difference"
    return "better" if interval.low > 0 else "worse"


def rows_of(
    plan: Plan,
    choices: Mapping[str, Choice],
    diverged: Mapping[str, Sequence[int]],
    ratios: Mapping[str, Ratios] | None = None,
) -> list[Row]:
    """The rows of a comparison whose runs are scored.

    Args:
        plan: the comparison.
        choices: rates by contender.
        diverged: contender -> seeds whose training diverged.
        ratios: measured cost by contender.

    Returns:
        A row for each contender, in the plan's order.

    Raises:
        DataError: stored scores cannot be counted on.
    """
    whole = [contender for contender in plan.contenders if not diverged.get(contender.name)]
    keys = [
        (contender.name, seed)
        for contender in plan.contenders
        for seed in plan.seeds
        if seed not in diverged.get(contender.name, ())
    ]
    by_name = {contender.name: contender for contender in plan.contenders}
    stored = read_together([str(plan.scores(by_name[name], seed)) for name, seed in keys]) if keys else []
    results = {key: item.result for key, item in zip(keys, stored, strict=True)}
    right: dict[str, Tensor] = {}
    for contender in whole:
        own = [results[contender.name, seed] for seed in plan.seeds]
        right[contender.name] = correct([result.scores for result in own], own[0].targets)
    group_of = plan.groups(plan.clips.test)
    groups = [group_of.get(name, name) for name in stored[0].result.names] if stored else None
    sure: dict[str, Any] = {"groups": groups, "level": plan.settings.level, "samples": plan.settings.samples}
    rows = []
    for contender in plan.contenders:
        name = contender.name
        seeds = [results[name, seed].top1 if (name, seed) in results else None for seed in plan.seeds]
        facts = _facts(plan, contender, choices[name]) | {"seeds": seeds}
        facts["clips"] = len(stored[0].result.names) if stored else None
        facts["ratios"] = asdict(ratios[name]) if ratios and name in ratios else None
        if name not in right:
            rows.append(Row(**facts, verdict=f"diverged (seed {', '.join(map(str, diverged[name]))})"))
            continue
        value, interval = bootstrap_seeds(right[name], **sure)
        facts |= {"top1": value, "low": interval.low, "high": interval.high}
        if name == plan.reference.name:
            rows.append(Row(**facts, verdict="the reference"))
        elif plan.reference.name not in right:
            rows.append(Row(**facts, verdict="the reference diverged"))
        else:
            apart, between = bootstrap_seeds(right[name], right[plan.reference.name], **sure)
            facts |= {"difference": apart, "difference_low": between.low, "difference_high": between.high}
            rows.append(Row(**facts, verdict=verdict(between)))
    return rows


def _facts(plan: Plan, contender: Contender, choice: Choice) -> dict[str, Any]:
    folders = [plan.adapter(contender, seed) for seed in plan.seeds]
    there = next((folder for folder in folders if (folder / WEIGHTS).is_file()), None)
    run = read_run(there) if there is not None else None
    return {
        "name": contender.name,
        "settings": contender.described(plan.shared),
        "rates": choice.rates,
        "edges": choice.edges,
        "trained_parameters": run.values["trained_parameters"] if run is not None else None,
        "beside_head": plan.parameters(contender),
        "stored_bytes": (there / WEIGHTS).stat().st_size if there is not None else None,
        "multiply_adds": multiply_adds(contender.settings(plan.shared), plan.config),
    }


def as_text(rows: Sequence[Row], *, markdown: bool = False) -> list[str]:
    """The table.

    Args:
        rows: of the contenders.
        markdown: a Markdown table, else aligned columns.

    Returns:
        Lines.
    """
    cost = any(row.multiply_adds is not None for row in rows)
    heads = ["method", "settings", "rates", "beside head", "trained", "bytes", *(["multiply-adds"] if cost else [])]
    heads += ["top-1 (%)", "difference to the reference"]
    measured = any(row.ratios for row in rows)
    if measured:
        heads[-2:-2] = ["forward", "step", "memory"]
    cells = [heads]
    for row in rows:
        rates = ", ".join(f"{axis} {rate:g}{'!' if axis in row.edges else ''}" for axis, rate in row.rates.items())
        line = [row.name, row.settings, rates, f"{row.beside_head:,}", _number(row.trained_parameters)]
        line += [_number(row.stored_bytes), *([giga(row.multiply_adds)] if cost else [])]
        if measured:
            line += [f"{row.ratios[name]:.2f}x" if row.ratios else "-" for name in ("forward", "step", "memory")]
        line += [with_interval(row.top1, row.low, row.high, "")]
        apart = with_interval(row.difference, row.difference_low, row.difference_high, "+")
        line += [f"{apart} {row.verdict}" if row.difference is not None else row.verdict]
        cells.append(line)
    return laid_out(cells, markdown=markdown)


def laid_out(cells: Sequence[Sequence[str]], *, markdown: bool = False) -> list[str]:
    """Texts in columns.

    Args:
        cells: lines of them, the first being the heads.
        markdown: a Markdown table, else aligned columns.

    Returns:
        Lines.
    """
    heads = cells[0]
    if markdown:
        lines = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in cells]
        return [lines[0], "|" + "---|" * len(heads), *lines[1:]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def write_results(plan: Plan, rows: Sequence[Row], choices: Mapping[str, Choice], texts: Sequence[str]) -> None:
    """Write results.jsonl (the setup, each trial, each run, each contender) and table.md.

    Args:
        plan: the comparison.
        rows: its rows.
        choices: rates by contender.
        texts: the notes.
    """
    lines: list[dict[str, Any]] = [setup_line(plan.settings, plan.shared)]
    for row in rows:
        choice = choices[row.name]
        for point, outcomes in choice.tried.items():
            score = score_of(outcomes)
            mean = None if any(outcome["diverged"] for outcome in outcomes) else score.top1
            rates = dict(zip(choice.axes, point, strict=True))
            lines.append({"kind": "trial", "method": row.name, "rates": rates, "top1": mean, "parts": outcomes})
        for seed, top1 in zip(plan.seeds, row.seeds, strict=True):
            lines.append({"kind": "run", "method": row.name, "seed": seed, "rates": row.rates, "top1": top1})
    lines += [{"kind": "contender", **asdict(row)} for row in rows]
    write_files(plan.out, lines, as_text(rows, markdown=True), texts)


def setup_line(settings: ManyRuns, shared: TrainSettings) -> dict[str, Any]:
    """The line of results.jsonl that says how its numbers came to be.

    Args:
        settings: of the command.
        shared: of all its runs.
    """
    return {"kind": "setup", settings.command: settings.as_dict(), "shared": shared.as_dict(), "versions": versions()}


def write_files(out: Path, lines: Sequence[dict[str, Any]], table: Sequence[str], texts: Sequence[str]) -> None:
    """Write results.jsonl and table.md.

    Args:
        out: their folder.
        lines: of the one.
        table: lines of the other, in Markdown.
        texts: what stands below it.
    """
    with whole_file(out / RESULTS) as path:
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    with whole_file(out / TABLE) as path:
        path.write_text("\n".join(table) + "\n\n" + "\n\n".join(texts) + "\n", encoding="utf-8")


def read_results(out: str | Path) -> list[dict[str, Any]]:
    """The lines of a comparison's results.jsonl.

    Args:
        out: its folder.
    """
    return [json.loads(line) for line in (Path(out) / RESULTS).read_text(encoding="utf-8").splitlines()]


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def giga(value: int | None) -> str:
    """Multiply-adds in thousand millions, for a table."""
    return "-" if value is None else f"{value / 1e9:.4g} G"


def with_interval(value: float | None, low: float | None, high: float | None, sign: str) -> str:
    """A number and its interval for a table; `+` shows the sign."""
    if value is None:
        return "-"
    # Zero has no sign: what rounds to it may come from below.
    shown, *ends = (f"{round(number or 0.0, 1) + 0.0:{sign}.1f}" for number in (value, low, high))
    return f"{shown} [{', '.join(ends)}]"
