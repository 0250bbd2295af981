"""The search of each contender's rates, carried out: trials, what they came to, and what was chosen."""

import json
import logging
import math
from dataclasses import dataclass
from typing import Any

from apt_peft.comparison.contenders import Contender
from apt_peft.comparison.runs import TunedPlan
from apt_peft.comparison.search import Point, Score, best_point, next_points, side_of
from apt_peft.comparison.trials import Runner
from apt_peft.errors import ConfigError
from apt_peft.training.checkpoints import write_json

logger = logging.getLogger(__name__)
CHOICE = "choice.json"


@dataclass(frozen=True)
class Choice:
    """The rates of a contender.

    Args:
        axes: names of the rates that were tuned.
        tried: points, with the outcome of each validation part.
        chosen: the best point.
    """

    axes: tuple[str, ...]
    tried: dict[Point, list[dict[str, Any]]]
    chosen: Point

    @property
    def rates(self) -> dict[str, float]:
        """The chosen rates by their names."""
        return dict(zip(self.axes, self.chosen, strict=True))

    @property
    def edges(self) -> dict[str, str]:
        """Rates whose best is the lowest or the highest that was tried: name -> `low` or `high`."""
        scores = {point: score_of(outcomes) for point, outcomes in self.tried.items()}
        sides = {axis: side_of(scores, place) for place, axis in enumerate(self.axes)}
        return {axis: side for axis, side in sides.items() if side is not None}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        tried = [{"rates": list(point), "parts": outcomes} for point, outcomes in self.tried.items()]
        return {"axes": list(self.axes), "tried": tried, "chosen": list(self.chosen)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Choice":
        """What `as_dict` gave."""
        tried = {tuple(entry["rates"]): entry["parts"] for entry in values["tried"]}
        return cls(tuple(values["axes"]), tried, tuple(values["chosen"]))


def score_of(outcomes: list[dict[str, Any]]) -> Score:
    """How good a point is: means over its validation parts; a part that diverged makes it the worst."""
    if any(outcome["diverged"] for outcome in outcomes):
        return Score()
    top1 = math.fsum(outcome["top1"] for outcome in outcomes) / len(outcomes)
    return Score(top1, -math.fsum(outcome["loss"] for outcome in outcomes) / len(outcomes))


def tune(plan: TunedPlan, runner: Runner) -> dict[str, Choice]:
    """Choose each contender's rates on the validation parts of the training clips, with as many trials each.

    Args:
        plan: the comparison.
        runner: that does the trials.

    Returns:
        The choice of each contender, by its name.

    Raises:
        AptError: a trial cannot be carried out, or all of a contender's diverged.
    """
    found: dict[str, Choice] = {}
    tried: dict[str, dict[Point, list[dict[str, Any]]]] = {}
    open_ones: list[Contender] = []
    for contender in plan.contenders:
        path = plan.trials(contender) / CHOICE
        if path.is_file():
            found[contender.name] = Choice.from_dict(json.loads(path.read_text(encoding="utf-8")))
        else:
            tried[contender.name] = {}
            open_ones.append(contender)
    budget = plan.settings.budget_trials
    while open_ones:
        jobs = {}
        for contender in list(open_ones):
            scores = {point: score_of(outcomes) for point, outcomes in tried[contender.name].items()}
            points = next_points(scores, plan.start(contender), budget)
            for point in points:
                for part in range(1, plan.parts + 1):
                    jobs[plan.trial(contender, point, part).name] = (contender, point, part)
            if not points:
                open_ones.remove(contender)
                found[contender.name] = _settled(plan, contender, tried[contender.name])
        outcomes: dict[tuple[str, Point], dict[int, dict[str, Any]]] = {}
        for job, outcome in runner.do_all([plan.trial(*key) for key in jobs.values()]):
            contender, point, part = jobs[job.name]
            outcomes.setdefault((contender.name, point), {})[part] = outcome
            said = "diverged" if outcome["diverged"] else f"validation top-1 {outcome['top1']:.1f} %"
            logger.info("%s: %s", job.name, said)
        for (name, point), by_part in outcomes.items():
            tried[name][point] = [by_part[part] for part in sorted(by_part)]
        # In the order of the search, which does not depend on which trial ended first.
        for name in tried:
            tried[name] = dict(sorted(tried[name].items()))
    return {contender.name: found[contender.name] for contender in plan.contenders}


def _settled(plan: TunedPlan, contender: Contender, tried: dict[Point, list[dict[str, Any]]]) -> Choice:
    scores = {point: score_of(outcomes) for point, outcomes in tried.items()}
    choice = Choice(plan.axes(contender), tried, best_point(scores))
    if math.isinf(scores[choice.chosen].top1):
        raise ConfigError(
            f"method ({contender.name}) must train without diverging at some rate, but it diverged at all {len(tried)} that were "
            "tried. Raise --budget-trials in another --out, or leave it out."
        )
    for text in edge_warnings(contender.name, choice):
        logger.warning("%s", text)
    write_json(plan.trials(contender) / CHOICE, choice.as_dict())
    return choice


def edge_warnings(name: str, choice: Choice) -> list[str]:
    """What must be said of rates whose best is at the end of those that were tried.

    Args:
        name: of the contender.
        choice: its rates.

    Returns:
        A sentence for each.
    """
    return [
        f"WARNING: {name} is NOT TUNED to its best: its best {axis} ({choice.rates[axis]:g}) is the "
        f"{'lowest' if side == 'low' else 'highest'} of the {len(choice.tried)} points tried, and the budget is spent. A better "
        "one may lie beyond: take more --budget-trials in another --out."
        for axis, side in choice.edges.items()
    ]
