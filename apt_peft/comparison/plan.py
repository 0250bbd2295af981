"""What is compared, on which clips, in which folders."""

from dataclasses import dataclass, replace
from pathlib import Path

from apt_peft.comparison.contenders import Contender, read_contenders
from apt_peft.comparison.ledger import LEDGER, Ledger
from apt_peft.comparison.runs import LISTS, TunedPlan, settle
from apt_peft.comparison.search import Point
from apt_peft.comparison.settings import CompareSettings
from apt_peft.comparison.trials import RUN, TEST, Job
from apt_peft.errors import ConfigError, DataError
from apt_peft.settings import nearest
from apt_peft.training.settings import TrainSettings


@dataclass(frozen=True)
class Plan(TunedPlan):
    """A comparison, settled.

    Args:
        settings: of the comparison.
        shared: settings of all runs, as given.
        contenders: in the order given.
        clips: the data.
        config: of the backbone, of transformers.
        reference: the contender that others are compared to.
    """

    settings: CompareSettings
    reference: Contender

    @property
    def ledger(self) -> Ledger:
        """The record of touches of the test split."""
        return Ledger(self.out / LEDGER)

    def run(self, contender: Contender, point: Point, seed: int) -> Job:
        """The job that trains on all training clips.

        Args:
            contender: which.
            point: the rates that were chosen.
            seed: of the run.
        """
        rates = dict(zip(self.axes(contender), point, strict=True))
        given = {"train_list": str(self.out / LISTS / "whole.csv"), "val_list": None, "seed": seed}
        settings = self.settings_of(contender, self.adapter(contender, seed), rates | given)
        return Job(RUN, f"{contender.name} seed {seed}", settings)

    def test(self, contender: Contender, seed: int) -> Job:
        """The job that touches the test split.

        Args:
            contender: which.
            seed: of the run.
        """
        settings = {
            "adapter": str(self.adapter(contender, seed)),
            "data": self.settings.data,
            "split": "test",
            "test_list": str(self.out / LISTS / "test.csv"),
            "labels": str(self.out / LISTS / "labels.txt"),
            "save_scores": str(self.scores(contender, seed)),
            "progress": False,
            "threads": self.threads(),
            **{
                name: getattr(self.shared, name)
                for name in ("on_error", "look_over", "time_limit", "workers", "device")
            },
        }
        return Job(
            TEST,
            f"{contender.name} seed {seed} on the test split",
            settings,
            (str(self.out / LEDGER), contender.name, seed),
        )

    def adapter(self, contender: Contender, seed: int) -> Path:
        """Folder of a run on all training clips."""
        return self.out / "runs" / contender.folder / f"seed-{seed}"

    def scores(self, contender: Contender, seed: int) -> Path:
        """File of a run's scores of the test clips."""
        return self.out / "test" / contender.folder / f"seed-{seed}.safetensors"


def make_plan(settings: CompareSettings, shared: TrainSettings) -> Plan:
    """Settle a comparison; nothing is written.

    Args:
        settings: of the comparison.
        shared: of all its runs.

    Returns:
        The plan.

    Raises:
        AptError: settings, data or backbone cannot be used.
    """
    found, config = settle(settings, shared)
    if not found.test:
        raise DataError(
            f"data ({settings.data}) must have a test split, on which contenders are compared in the end, but it has none. "
            "Divide the clips by apt-peft lists, or add --test-list."
        )
    contenders = read_contenders(
        settings.methods, shared, config, variants=settings.variants, match=settings.match_parameters
    )
    names = [contender.name for contender in contenders]
    for flag, given in (("reference", settings.reference), ("forget", settings.forget)):
        for name in (given or "").split(",") if given else ():
            if name not in names:
                raise ConfigError(
                    f"{flag} ({name}) must be one of the methods, {', '.join(names)}.{nearest(name, names)}"
                )
    first = next((contender for contender in contenders if contender.method == "apt"), contenders[0])
    reference = next((contender for contender in contenders if contender.name == settings.reference), first)
    return Plan(settings, replace(shared, progress=False), contenders, found, config, reference)
