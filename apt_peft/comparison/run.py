"""A comparison from flags to a table: tune, train, touch the test split once, tell what came out."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from apt_peft.comparison import plots, ratios, table
from apt_peft.comparison.estimate import estimate
from apt_peft.comparison.folder import alone, check_means
from apt_peft.comparison.ledger import LEDGER
from apt_peft.comparison.notes import late_notes, left_out_notes, notes
from apt_peft.comparison.plan import Plan, make_plan
from apt_peft.comparison.settings import CompareSettings
from apt_peft.comparison.shots import ShotsPlan, begin_shots, make_shots
from apt_peft.comparison.shots_table import shots_notes, shots_table
from apt_peft.comparison.trials import Job, Runner
from apt_peft.comparison.tuning import Choice, tune
from apt_peft.training.settings import TrainSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """What came out of a comparison.

    Args:
        out: its folder.
        rows: one for each contender; with few shots, for each contender at each number of them.
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
    gone on with by the same call. With `settings.shots`, all of this for each number of clips of a class, and all of it is
    trained before the test split is touched.

    Args:
        settings: of the comparison.
        shared: of all its runs; `model`, `data` and `out` are those of the comparison.

    Returns:
        The table and its files; of a dry run its text alone.

    Raises:
        AptError: settings, data, backbone or folder cannot be used; or the test split was touched already.
    """
    check_means(settings.command)
    if settings.shots is not None:
        return _few_shots(settings, shared)
    plan = make_plan(settings, shared)
    if settings.dry_run:
        plan.try_out()
        return Comparison(plan.out, (), (), (), "\n".join(estimate(plan)))
    with alone(plan.out), Runner(settings.jobs) as runner:
        trained = _train(plan, runner)
        _score(plan, runner, trained)
        return _tell(plan, trained)


def _few_shots(settings: CompareSettings, shared: TrainSettings) -> Comparison:
    plans, out = make_shots(settings, shared), Path(settings.out)
    if settings.dry_run:
        for plan in plans:
            plan.try_out()
        times: dict[str, tuple[float, float]] = {}
        lines = [line for plan in plans for line in [f"{plan.shots} of each class", *estimate(plan, times)]]
        return Comparison(out, (), (), (), "\n".join(lines))
    with alone(out), Runner(settings.jobs) as runner:
        begin_shots(out)
        for plan in plans:  # what cannot be drawn is told before anything is trained
            plan.check_ledger()
            plan.begin()
        done = []
        for plan in plans:
            logger.info("Clips of each class: %d", plan.shots)
            done.append((plan, _train(plan, runner)))
        for plan, trained in done:
            _score(plan, runner, trained)
        found = {plan.shots: _tell(plan, trained) for plan, trained in done}
    texts = [
        f"{shots} of each class: {text}" for shots, item in found.items() for text in item.notes if "WARNING" in text
    ]
    texts += shots_notes(settings)
    rows = {shots: item.rows for shots, item in found.items()}
    results = [{"shots": shots, **line} for shots, item in found.items() for line in table.read_results(item.out)]
    table.write_files(out, results, shots_table(rows, markdown=True), texts)
    files = (out / table.RESULTS, out / table.TABLE, *plots.draw_shots(rows, out))
    text = "\n".join([*shots_table(rows), "", *texts, "files: " + ", ".join(map(str, files))])
    return Comparison(out, tuple(row for item in found.values() for row in item.rows), tuple(texts), files, text)


@dataclass(frozen=True)
class _Trained:
    """What is known before the test split is touched: chosen rates, and the seeds that diverged; some may show only there."""

    choices: dict[str, Choice]
    diverged: dict[str, list[int]]


def _train(plan: Plan, runner: Runner) -> _Trained:
    plan.check_ledger()
    plan.begin()
    _forget(plan)
    choices = tune(plan, runner)
    runs = {
        (contender.name, seed): plan.run(contender, choices[contender.name].chosen, seed)
        for contender in plan.contenders
        for seed in plan.seeds
    }
    trained = _Trained(choices, {})
    _carry_out(runner, runs, trained, "trained")
    return trained


def _score(plan: Plan, runner: Runner, trained: _Trained) -> None:
    """Touch the test split: all is trained, so what it tells can change nothing any more."""
    tests = {
        (contender.name, seed): plan.test(contender, seed)
        for contender in plan.contenders
        for seed in plan.seeds
        if seed not in trained.diverged.get(contender.name, ())
    }
    _carry_out(runner, tests, trained, "scored")
    plan.seal()


def _carry_out(runner: Runner, jobs: Mapping[tuple[str, int], Job], trained: _Trained, done: str) -> None:
    """Do the jobs of contenders and seeds, and write down in `trained` which diverged."""
    named = {job.name: key for key, job in jobs.items()}
    for job, outcome in runner.do_all(list(jobs.values())):
        if outcome["diverged"]:
            name, seed = named[job.name]
            trained.diverged[name] = sorted([*trained.diverged.get(name, ()), seed])
        logger.info("%s: %s", job.name, "diverged" if outcome["diverged"] else done)


def _tell(plan: Plan, trained: _Trained) -> Comparison:
    choices = trained.choices
    found = {} if isinstance(plan, ShotsPlan) else ratios.measure(plan, plan.settings.ratio_rounds)
    rows = table.rows_of(plan, choices, trained.diverged, found)
    texts = notes(plan, rows, choices)
    texts += [*ratios.told(found), *late_notes(plan), *left_out_notes(plan), *_forgotten(plan)]
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
