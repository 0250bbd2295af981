"""What must be said beside the table of a comparison."""

import statistics
from collections.abc import Mapping, Sequence

from apt_peft.comparison.contenders import matched_count
from apt_peft.comparison.plan import Plan
from apt_peft.comparison.runs import parts_of
from apt_peft.comparison.table import Row
from apt_peft.comparison.tuning import Choice, edge_warnings

# What is further from the number of parameters to match is named.
FAR = 0.1
# Where rates are chosen on fewer clips, one clip is more than two points.
FEW = 50


def notes(plan: Plan, rows: Sequence[Row], choices: Mapping[str, Choice]) -> list[str]:
    """What must be said beside the table: rates at an edge first, then how the numbers came to be.

    Args:
        plan: the comparison.
        rows: its rows.
        choices: rates by contender.

    Returns:
        Sentences.
    """
    found = [text for row in rows for text in edge_warnings(row.name, choices[row.name])]
    settings = plan.settings
    if untuned := [row.name for row in rows if _head_untuned(choices[row.name])]:
        found.append(
            f"WARNING: the head's rate of {', '.join(untuned)} is NOT TUNED: the budget was spent on their own rate. Take more "
            "--budget-trials in another --out."
        )
    found += _far_from_matched(plan, rows)
    tried = {row.name: len(choices[row.name].tried) for row in rows}
    budgets = sorted(set(tried.values()))
    if len(budgets) > 1:
        found.append(f"Fewer trials than the budget where rates would be too near each other: {tried}.")
    spread = [
        f"{row.name} {statistics.stdev(row.seeds):.1f}"  # type: ignore[type-var]
        for row in rows
        if len(row.seeds) > 1 and None not in row.seeds
    ]
    where = f"{plan.parts} folds" if settings.folds else "a part" if not plan.clips.val else "the validation split"
    short = f", in runs of {settings.trial_epochs} epochs" if settings.trial_epochs else ""
    found.append(
        f"Rates were chosen among {', '.join(map(str, budgets))} of each contender on {where} of the training clips{short}. "
        f"Test: {_clips(plan, rows)} clips, {settings.seeds} seed{'s' if settings.seeds > 1 else ''}, each touched once "
        f"(ledger.jsonl). Intervals ({settings.level:.0%}): seeds and clips drawn again, {settings.samples} times; differences "
        "on the same clips."
    )
    found += _few_to_choose_on(plan)
    if settings.seeds == 1:
        found.append("One seed: the intervals tell of the clips, and nothing of what another seed would do.")
    elif spread:
        few = " Two or three seeds tell little of others: where seeds differ much, the intervals are too narrow."
        found.append(
            f"Standard deviation over seeds, in points: {', '.join(spread)}.{few if settings.seeds < 4 else ''}"
        )
    if len(rows) > 2:
        found.append("Of many comparisons at this level, some differ by chance.")
    return found


def _head_untuned(choice: Choice) -> bool:
    """Whether the search meant to tune the head's rate as well, and did not come to it."""
    return len(choice.axes) > 1 and len({point[1] for point in choice.tried}) == 1


def _few_to_choose_on(plan: Plan) -> list[str]:
    """Whether a single clip may have decided on rates."""
    folds = plan.settings.folds
    count = len(plan.clips.train) if folds else parts_of(plan)[1]
    if count >= FEW:
        return []
    remedy = "Gather more clips" if folds else "Take --folds, which validates on every training clip"
    return [
        f"Rates were chosen on {count} clips, where one clip is {100 / count:.1f} points: a rate that won by so little may be "
        f"far from the best. {remedy}."
    ]


def _far_from_matched(plan: Plan, rows: Sequence[Row]) -> list[str]:
    settings = plan.settings
    if settings.match_parameters is None:
        return []
    wanted = matched_count(settings.match_parameters, plan.shared, plan.config, variants=settings.variants)
    counts = {row.name: row.beside_head for row in rows if row.beside_head}
    far = [f"{name} ({count:,})" for name, count in counts.items() if abs(count - wanted) > FAR * wanted]
    if not far:
        return []
    return [f"Matched to {wanted:,} parameters beside the head; more than {FAR:.0%} away: {', '.join(far)}."]


def _clips(plan: Plan, rows: Sequence[Row]) -> str:
    """How many test clips were scored, and of how many."""
    listed, scored = len(plan.clips.test), next((row.clips for row in rows if row.clips is not None), None)
    return f"{listed}" if scored in (None, listed) else f"{scored} of {listed}"


def late_notes(plan: Plan) -> list[str]:
    """What must be said of contenders and seeds that were added when others had been tested.

    Args:
        plan: of a comparison that was carried out.

    Returns:
        A sentence, or nothing.
    """
    joined = plan.joined()
    late = []
    for contender in plan.contenders:
        seeds = [seed for seed in plan.seeds if joined.get(contender.name, {}).get(str(seed), 0)]
        if len(seeds) == len(plan.seeds):
            late.append(contender.name)
        elif seeds:
            late.append(f"{contender.name} seed {', '.join(map(str, seeds))}")
    if not late:
        return []
    return [
        f"WARNING: added AFTER THE TEST SPLIT WAS TOUCHED, so that its scores may have led to it: {'; '.join(late)}."
    ]


def left_out_notes(plan: Plan) -> list[str]:
    """What must be said of contenders and seeds that were tested and are not in the table.

    Args:
        plan: of a comparison that was carried out.

    Returns:
        A sentence, or nothing.
    """
    shown = {contender.name for contender in plan.contenders}
    missing: dict[str, set[int]] = {}
    for record in plan.ledger.records():
        if record["method"] not in shown or record["seed"] not in plan.seeds:
            missing.setdefault(record["method"], set()).add(record["seed"])
    if not missing:
        return []
    texts = [
        name if name not in shown else f"{name} seed {', '.join(map(str, sorted(seeds)))}"
        for name, seeds in missing.items()
    ]
    return [f"WARNING: LEFT OUT of this table, though their test scores have been seen: {'; '.join(texts)}."]
