"""A sweep over numbers of prompts, settled: its contenders, and the jobs that try their rates."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from apt_peft.comparison.contenders import Contender, read_contenders
from apt_peft.comparison.runs import TRIAL_SEED, TunedPlan, settle
from apt_peft.comparison.search import Point as Rates
from apt_peft.comparison.trials import Job
from apt_peft.errors import ConfigError
from apt_peft.sweeps.cells import job
from apt_peft.sweeps.settings import PromptSweepSettings
from apt_peft.training.settings import TrainSettings

METHODS = ("apt", "vpt-deep", "vpt-shallow")


@dataclass(frozen=True)
class PromptPlan(TunedPlan):
    """The sweep, settled: as `TunedPlan`, and the methods in the order given."""

    settings: PromptSweepSettings
    methods: Sequence[str]

    @property
    def prompts(self) -> list[int]:
        """P, rising."""
        return sorted(self.settings.prompts)

    def runs(self) -> dict[int, int]:
        """Epochs -> how many runs of each number of prompts have them."""
        settings, epochs = self.settings, self.shared.epochs
        if settings.trial_epochs is None:  # then the trial with the best rate is the run of its seed
            return {epochs: (settings.budget_trials + settings.seeds - 1) * self.parts}
        found = Counter({settings.trial_epochs: settings.budget_trials * self.parts})
        found[epochs] += settings.seeds * self.parts
        return found

    def trial(self, contender: Contender, point: Rates, part: int) -> Job:
        """The job that tries rates: the cell of the trials' seed, which then need not be run again."""
        rates = dict(zip(self.axes(contender), point, strict=True))
        shorter = self.trial_length() if self.settings.trial_epochs is not None else {}
        return job(self, contender, rates | shorter, part, TRIAL_SEED)


def named(method: str, prompts: int) -> str:
    """The contender that a method with so many prompts is: `apt+data` and 8 are `apt:8+data`."""
    bare, *options = method.split("+")
    return "+".join([f"{bare}:{prompts}", *options])


def make_plan(settings: PromptSweepSettings, shared: TrainSettings) -> PromptPlan:
    """Settle the sweep; nothing is written.

    Args:
        settings: of the command.
        shared: of all its runs.

    Raises:
        AptError: settings, data or backbone cannot be used.
    """
    methods = [name.strip() for name in settings.methods.split(",")]
    if wrong := [name for name in methods if name.partition("+")[0] not in METHODS]:
        raise ConfigError(
            f"methods ({settings.methods}) must be of {', '.join(METHODS)}, without numbers, but {', '.join(map(repr, wrong))} "
            f"{'is' if len(wrong) == 1 else 'are'} not. Numbers go to --prompts."
        )
    clips, config = settle(settings, shared)
    names = [named(method, prompts) for method in methods for prompts in sorted(settings.prompts)]
    contenders = read_contenders(",".join(names), shared, config)
    return PromptPlan(settings, replace(shared, progress=False), contenders, clips, config, methods)
