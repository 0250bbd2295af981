"""A comparison from flags to a table: tune, train, touch the test split once, tell what came out."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from apt_peft.comparison import plots, table
from apt_peft.comparison.estimate import estimate
from apt_peft.comparison.folder import alone, check_means
from apt_peft.comparison.ledger import LEDGER
from apt_peft.comparison.plan import Plan, make_plan
from apt_peft.comparison.settings import CompareSettings
from apt_peft.comparison.trials import Runner
from apt_peft.comparison.tuning import tune
from apt_peft.training.settings import TrainSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """What came out of a comparison.

    Args:
        out: its folder.
        rows: one for each contender.
        notes: what must be said beside them.
        files: results.jsonl, table.md and the pictures.
        text: all that the command prints.
    """

    out: Path
    rows: tuple[table.Row, ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...]
    text: str


def compare(settings: CompareSettings, shared: TrainSettings) -> Comparison:
    """Compare ways to train a backbone: all that `apt-peft compare` does.

    Each contender's rates are tuned on validation parts of the training clips, with the same number of trials. Then it is
    trained on all training clips with each seed, and each of these runs scores the test split once. What a kill interrupted is
    gone on with by the same call.

    Args:
        settings: of the comparison.
        shared: of all its runs; `model`, `data` and `out` are those of the comparison.

    Returns:
        The table and its files; of a dry run its text alone.

    Raises:
        AptError: settings, data, backbone or folder cannot be used; or the test split was touched already.
    """
    check_means(settings.command)
    plan = make_plan(settings, shared)
    if settings.dry_run:
        return Comparison(plan.out, (), (), (), "\n".join(estimate(plan)))
    with alone(plan.out), Runner(settings.jobs) as runner:
        return _compare(plan, runner)


def _compare(plan: Plan, runner: Runner) -> Comparison:
    plan.ledger.records()  # says now where it was damaged
    plan.begin()
    _forget(plan)
    choices = tune(plan, runner)
    runs = [
        (contender, seed, plan.run(contender, choices[contender.name].chosen, seed))
        for contender in plan.contenders
        for seed in plan.seeds
    ]
    named = {job.name: (contender, seed) for contender, seed, job in runs}
    diverged: dict[str, list[int]] = {}
    for job, outcome in runner.do_all([job for *_, job in runs]):
        contender, seed = named[job.name]
        if outcome["diverged"]:
            diverged.setdefault(contender.name, []).append(seed)
        logger.info("%s: %s", job.name, "diverged" if outcome["diverged"] else "trained")
    # All of it is trained: what the test split tells can change nothing any more.
    tests = [plan.test(contender, seed) for contender, seed, _ in runs if seed not in diverged.get(contender.name, ())]
    for job, _ in runner.do_all(tests):
        logger.info("%s: scored", job.name)
    rows = table.rows_of(plan, choices, {name: sorted(seeds) for name, seeds in diverged.items()})
    texts = table.notes(plan, rows, choices, len(plan.clips.test))
    texts += _forgotten(plan)
    table.write_results(plan, rows, choices, texts)
    files = (plan.out / table.RESULTS, plan.out / table.TABLE, *plots.draw_all(rows, plan.out))
    text = "\n".join([*table.as_text(rows), "", *texts, "files: " + ", ".join(map(str, files))])
    return Comparison(plan.out, tuple(rows), tuple(texts), files, text)


def _forget(plan: Plan) -> None:
    for name in (plan.settings.forget or "").split(","):
        for contender in plan.contenders:
            if contender.name == name:
                touched = {record["seed"] for record in plan.ledger.records() if record["method"] == name}
                stored = {seed for seed in plan.seeds if plan.scores(contender, seed).exists()}
                for seed in sorted(touched | stored):
                    plan.ledger.forget(name, seed, plan.scores(contender, seed))
                    logger.warning("The test split is open again for %s, seed %d; %s says so.", name, seed, LEDGER)


def _forgotten(plan: Plan) -> list[str]:
    names = {contender.name for contender in plan.contenders}
    count = Counter(
        record["method"]
        for record in plan.ledger.records()
        if record["event"] == "forget" and record["method"] in names
    )
    if not count:
        return []
    shown = ", ".join(f"{name} ({number} runs)" for name, number in count.items())
    return [f"WARNING: the test split was touched MORE THAN ONCE, by --forget: {shown}. These numbers flatter."]
