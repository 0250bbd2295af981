"""What is compared, on which clips, in which folders: settled before anything is trained, and the same when gone on with."""

import json
import logging
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apt_peft import flags
from apt_peft.comparison.contenders import Contender, parameters, read_contenders
from apt_peft.comparison.ledger import LEDGER, Ledger
from apt_peft.comparison.search import Point
from apt_peft.comparison.settings import CompareSettings
from apt_peft.comparison.trials import RUN, TEST, TRIAL, Job
from apt_peft.errors import ConfigError, DataError
from apt_peft.settings import nearest
from apt_peft.training.base import check_precision, read_config
from apt_peft.training.checkpoints import write_json
from apt_peft.training.data import AUTO_CACHE_BYTES
from apt_peft.training.optimizer import learning_rates
from apt_peft.training.settings import TrainSettings
from apt_peft.video import DataSplits
from apt_peft.video.clip import clip_name
from apt_peft.video.groups import group_clips
from apt_peft.video.write_lists import SplitPlan, write_lists

logger = logging.getLogger(__name__)
FORMAT = 1
PLAN, LISTS = "plan.json", "lists"
# Seed of the trials: it is none of what is reported.
TRIAL_SEED = 0


@dataclass(frozen=True)
class Plan:
    """A comparison, settled.

    Args:
        settings: of the comparison.
        shared: settings of all runs, as given.
        contenders: in the order given.
        reference: the one that others are compared to.
        clips: the data.
        config: of the backbone, of transformers.
    """

    settings: CompareSettings
    shared: TrainSettings
    contenders: list[Contender]
    reference: Contender
    clips: DataSplits
    config: Any

    @property
    def out(self) -> Path:
        """The folder of the comparison."""
        return Path(self.settings.out)

    @property
    def ledger(self) -> Ledger:
        """The record of touches of the test split."""
        return Ledger(self.out / LEDGER)

    @property
    def parts(self) -> int:
        """Validation parts that each rate is tried on."""
        return self.settings.folds or 1

    @property
    def seeds(self) -> range:
        """Seeds of the runs on all training clips."""
        return range(self.settings.seeds)

    def axes(self, contender: Contender) -> tuple[str, ...]:
        """The rates of a contender that are tuned: names of train's settings."""
        if contender.method == "linear":
            return ("head_lr",)
        return ("lr", "head_lr") if self.settings.tune_head else ("lr",)

    def start(self, contender: Contender) -> Point:
        """The rates that a contender's search begins around, before the rule scales them."""
        rates = learning_rates(rule=self.shared.lr_rule, method=contender.method, clips_per_step=256)
        found = {"lr": rates.prompts, "head_lr": rates.head}
        return tuple(found[axis] for axis in self.axes(contender))

    def parameters(self, contender: Contender) -> int:
        """Numbers that a contender trains beside the head."""
        return parameters(contender, self.shared, self.config)

    def groups(self) -> dict[str, str]:
        """Name of each test clip -> the video that it was cut from, or its own name."""
        group_by, layout = self.settings.group_by, self.clips.layout
        found, _ = group_clips(self.clips.test, self.settings.data, group_by=group_by, layout=layout)
        return {clip_name(clip, self.settings.data): group for clip, group in zip(self.clips.test, found, strict=True)}

    def trial(self, contender: Contender, point: Point, part: int) -> Job:
        """The job that tries rates on a validation part.

        Args:
            contender: whose rates.
            point: a rate for each axis.
            part: which, from 1.
        """
        rates = dict(zip(self.axes(contender), point, strict=True))
        name = ",".join(f"{axis}={rate:g}" for axis, rate in rates.items())
        lists = self.out / LISTS / (f"fold-{part}" if self.settings.folds else "")
        out = self.trials(contender) / name / f"part-{part}"
        given = {"train_list": str(lists / "train.csv"), "val_list": str(lists / "val.csv"), "seed": TRIAL_SEED}
        return Job(TRIAL, f"{contender.name} {name} part {part}", self._run(contender, out, rates | given))

    def run(self, contender: Contender, point: Point, seed: int) -> Job:
        """The job that trains on all training clips.

        Args:
            contender: which.
            point: the rates that were chosen.
            seed: of the run.
        """
        rates = dict(zip(self.axes(contender), point, strict=True))
        given = {"train_list": str(self.out / LISTS / "whole.csv"), "val_list": None, "seed": seed}
        settings = self._run(contender, self.adapter(contender, seed), rates | given)
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
            "threads": self._threads(),
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

    def trials(self, contender: Contender) -> Path:
        """Folder of a contender's trials."""
        return self.out / "trials" / contender.folder

    def adapter(self, contender: Contender, seed: int) -> Path:
        """Folder of a run on all training clips."""
        return self.out / "runs" / contender.folder / f"seed-{seed}"

    def scores(self, contender: Contender, seed: int) -> Path:
        """File of a run's scores of the test clips."""
        return self.out / "test" / contender.folder / f"seed-{seed}.safetensors"

    def begin(self) -> None:
        """Make the folder, its lists and its plan, or see that those that are there are the same.

        Raises:
            ConfigError: the folder holds something else, or a comparison with other settings; all of it is named.
            DataError: clips that cannot be divided, or other ones than before.
        """
        path = self.out / PLAN
        now = json.loads(json.dumps(self._decides()))
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if before is not None:
            self._check_same(before, now)
            now["contenders"] = before["contenders"] | now["contenders"]
        self._write_lists()
        write_json(path, now)

    def _run(self, contender: Contender, out: Path, given: dict[str, Any]) -> dict[str, Any]:
        """Settings of a run: on lists, without the test split, with frames that all runs share."""
        cache, limit = self.shared.cache, self.shared.cache_limit
        if cache == "auto":
            kept = self.shared.sampling == "even" and self.shared.augment_resolution == "prepared"
            cache = str(self.out / "frames") if kept else "none"
            limit = (limit or AUTO_CACHE_BYTES) if kept else None
        settings = contender.settings(
            self.shared,
            out=str(out),
            labels=str(self.out / LISTS / "labels.txt"),
            test_list=None,
            layout="auto",
            test=False,
            val_fraction=0.0,
            cache=cache,
            cache_limit=limit,
            progress=False,
            threads=self._threads(),
            **given,
        )
        return {name: value for name, value in settings.as_dict().items() if name != "resume"}

    def _threads(self) -> int | None:
        if self.shared.threads is not None or self.settings.jobs == 1:
            return self.shared.threads
        return max(1, (os.cpu_count() or 1) // self.settings.jobs)

    def _decides(self) -> dict[str, Any]:
        """What decides the results: a comparison that is gone on with must repeat it. Contenders and seeds may be added."""
        tuning = {name: getattr(self.settings, name) for name in ("budget_trials", "tune_head", "folds", "group_by")}
        return {
            "format": FORMAT,
            "settings": {"model": self.settings.model, "data": self.settings.data, **tuning}
            | self.shared.what_comes_out(),
            "contenders": {contender.name: contender.changes for contender in self.contenders},
        }

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        changed = [
            f"{name} was {before['settings'].get(name)!r} and is {now['settings'].get(name)!r}"
            for name in {**before["settings"], **now["settings"]}
            if before["settings"].get(name) != now["settings"].get(name)
        ]
        changed += [
            f"{name} was {before['contenders'][name]} and is {changes}"
            for name, changes in now["contenders"].items()
            if before["contenders"].get(name, changes) != changes
        ]
        if changed:
            raise ConfigError(
                f"out ({self.out}) must be gone on with by the same comparison, but {'; '.join(changed)}. "
                "Repeat its settings, or choose another --out."
            )

    def _write_lists(self) -> None:
        lists, made = self.out / LISTS, self.out / ".lists-now"
        shutil.rmtree(made, ignore_errors=True)
        settings = self.settings
        fraction = None if self.clips.val or settings.folds else self.shared.val_fraction
        plan = SplitPlan(val=fraction, folds=settings.folds, group_by=settings.group_by)
        written = write_lists(self.clips, settings.data, made, plan)
        parts = ("train.csv",) if self.clips.val else ("fold-1/train.csv", "fold-1/val.csv") if settings.folds else None
        names = parts or ("train.csv", "val.csv")
        lines = sorted(line for name in names for line in (made / name).read_bytes().splitlines(keepends=True))
        (made / "whole.csv").write_bytes(b"".join(lines))
        if not lists.exists():
            for warning in written.warnings:
                logger.warning("%s", warning)
            os.replace(made, lists)
            return
        before = json.loads((lists / "manifest.json").read_text(encoding="utf-8"))
        shutil.rmtree(made)
        if before["files"] != written.manifest["files"]:
            raise DataError(
                f"data ({settings.data}) must have the clips that the comparison in {self.out} began with, but its lists come "
                "out otherwise now. Restore the clips, or choose another --out."
            )


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
    check_precision(shared)
    config = read_config(settings.model)
    if hasattr(config, "use_mean_pooling"):
        config.use_mean_pooling = True  # as runs load it
    found = flags.read_clips(shared)
    config.id2label = dict(enumerate(found.labels))
    config.label2id = {label: number for number, label in enumerate(found.labels)}
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
    return Plan(settings, replace(shared, progress=False), contenders, reference, found, config)
