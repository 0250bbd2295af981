"""What is compared, on which clips, in which folders."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apt_peft.comparison.contenders import Contender, read_contenders
from apt_peft.comparison.ledger import LEDGER, Ledger
from apt_peft.comparison.runs import LISTS, PLAN, TunedPlan, parts_of, settle
from apt_peft.comparison.search import Point
from apt_peft.comparison.settings import CompareSettings
from apt_peft.comparison.trials import RUN, TEST, Job
from apt_peft.errors import ConfigError, DataError
from apt_peft.settings import nearest
from apt_peft.training.checkpoints import write_json
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

    def check_ledger(self) -> None:
        """See that the ledger is whole, and holds all that it held when the plan's file was last sealed.

        Raises:
            DataError: it does not.
        """
        self.ledger.records()
        lines, last = self._stored().get("sealed", (0, ""))
        sums = self.ledger.sums()
        if len(sums) < lines or (lines and sums[lines - 1] != last):
            raise DataError(
                f"ledger ({self.ledger.path}) must have the {lines} lines that the comparison ended with, but it has "
                f"{len(sums)}, or others: it was taken away or written anew. Restore the file, or begin anew in another folder."
            )

    def seal(self) -> None:
        """Write down, apart from the ledger, how far it has come."""
        sums = self.ledger.sums()
        if sums:
            write_json(self.out / PLAN, self._stored() | {"sealed": [len(sums), sums[-1]]})

    def joined(self) -> dict[str, dict[str, int]]:
        """How many lines the ledger had when a run became part of the comparison, by contender and seed."""
        return dict(self._stored().get("joined", {}))

    def _kept(self, before: dict[str, Any]) -> dict[str, Any]:
        lines = len(self.ledger.sums())
        joined: dict[str, dict[str, int]] = dict(before.get("joined", {}))
        for contender in self.contenders:
            joined[contender.name] = {str(seed): lines for seed in self.seeds} | joined.get(contender.name, {})
        return {"joined": joined} | ({"sealed": before["sealed"]} if "sealed" in before else {})

    def _stored(self) -> dict[str, Any]:
        path = self.out / PLAN
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def run(self, contender: Contender, point: Point, seed: int) -> Job:
        """The job that trains on all training clips.

        Args:
            contender: which.
            point: the rates that were chosen.
            seed: of the run.
        """
        rates = dict(zip(self.axes(contender), point, strict=True))
        given = {"train_list": self.training_list(seed), "val_list": None, "seed": seed, **self.run_length()}
        settings = self.settings_of(contender, self.adapter(contender, seed), rates | given)
        return Job(RUN, f"{contender.name} seed {seed}", settings)

    def training_list(self, seed: int) -> str:
        """List of the clips that a run is trained on.

        Args:
            seed: of the run.
        """
        return str(self.out / LISTS / "whole.csv")

    def run_length(self) -> dict[str, Any]:
        """How long a run trains: settings of `train`."""
        return self.length(self.shared.epochs)

    def counts(self) -> tuple[int, int]:
        """Clips that a trial and a run are trained on."""
        return parts_of(self)[0], len(self.clips.train)

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
    asked = (("reference", [settings.reference]), ("forget", (settings.forget or "").split(",")))
    for flag, given in asked:
        for name in filter(None, given):
            if name not in names:
                raise ConfigError(
                    f"{flag} ({name}) must be one of the methods, {', '.join(names)}.{nearest(name, names)}"
                )
    first = next((contender for contender in contenders if contender.method == "apt"), contenders[0])
    reference = next((contender for contender in contenders if contender.name == settings.reference), first)
    return Plan(settings, replace(shared, progress=False), contenders, found, config, reference)
