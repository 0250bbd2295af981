"""The grids of `apt-peft robustness`: which contenders, at which rates, with which seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from apt_peft.comparison.contenders import Contender
from apt_peft.comparison.runs import Runs, settle
from apt_peft.sweeps.cells import Cell
from apt_peft.sweeps.settings import RobustnessSettings
from apt_peft.training.optimizer import learning_rates
from apt_peft.training.settings import TrainSettings


@dataclass(frozen=True)
class RobustnessPlan(Runs):
    """The grids, settled: as `Runs`."""

    settings: RobustnessSettings

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates, rising."""
        return tuple(sorted(self.settings.lrs))

    @property
    def places(self) -> list[tuple[float, float]]:
        """Weight decays and dropouts."""
        return [
            (decay, dropout)
            for decay in sorted(self.settings.weight_decays)
            for dropout in sorted(self.settings.dropouts)
        ]

    def name(self, reparameterization: str, place: tuple[float, float] | None = None) -> str:
        """Of a contender: a reparameterization at the usual weight decay and dropout, or at others."""
        if place is None or place == (self.shared.weight_decay, self.shared.prompt_dropout):
            return reparameterization
        return f"{reparameterization},decay={place[0]:g},dropout={place[1]:g}"

    def cell(self, name: str, rate: float, seed: int) -> Cell:
        """One run of a contender."""
        rates = {"lr": rate}
        if self.settings.tie_head:
            usual = learning_rates(
                rule=self.shared.lr_rule, method="apt", clips_per_step=256, head_lr=self.shared.head_lr
            )
            rates["head_lr"] = float(f"{rate * usual.head / usual.prompts:.6g}")
        return Cell(name, tuple(rates.items()), seed)

    def first(self) -> dict[str, list[list[Cell]]]:
        """Cells of learning rates: reparameterization -> seeds x rates."""
        return {
            name: [[self.cell(name, rate, seed) for rate in self.rates] for seed in self.seeds]
            for name in self.settings.reparameterizations
        }

    def second(self, best: Mapping[str, float]) -> dict[str, list[list[Cell]]]:
        """Cells of weight decay and dropout: reparameterization -> seeds x places."""
        if len(self.places) == 1:
            return {}
        return {
            name: [
                [self.cell(self.name(name, place), best[name], seed) for place in self.places] for seed in self.seeds
            ]
            for name in self.settings.reparameterizations
        }


def make_plan(settings: RobustnessSettings, shared: TrainSettings) -> RobustnessPlan:
    """Settle the grids; nothing is written.

    Args:
        settings: of the command.
        shared: of all its runs.

    Raises:
        AptError: settings, data or backbone cannot be used.
    """
    clips, config = settle(settings, shared)
    plan = RobustnessPlan(settings, replace(shared, progress=False), [], clips, config)
    contenders = {}
    for kind in settings.reparameterizations:
        for place in [None, *plan.places]:
            name = plan.name(kind, place)
            changes: dict[str, Any] = {"method": "apt", "reparameterization": kind}
            if name != kind and place is not None:
                changes |= {"weight_decay": place[0], "prompt_dropout": place[1]}
            contenders[name] = Contender(name, changes)
    plan = replace(plan, contenders=list(contenders.values()))
    plan.parameters(plan.contenders[0])  # says now what cannot be
    return plan
