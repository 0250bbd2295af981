"""Many runs on the same clips in one folder: settled before anything is trained, and the same when gone on with."""

import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from apt_peft import flags
from apt_peft.baselines.common import VIDEOMAE
from apt_peft.comparison.contenders import Contender, parameters
from apt_peft.comparison.many import ManyRuns, TunedRuns
from apt_peft.comparison.search import Point
from apt_peft.comparison.trials import TRIAL, Job
from apt_peft.errors import ConfigError, DataError
from apt_peft.training.base import check_precision, frames_and_size, read_config
from apt_peft.training.checkpoints import changes, write_json
from apt_peft.training.clips import clip_settings
from apt_peft.training.data import AUTO_CACHE_BYTES
from apt_peft.training.optimizer import learning_rates
from apt_peft.training.options import random_changes
from apt_peft.training.settings import TrainSettings
from apt_peft.video import Clip, DataSplits
from apt_peft.video.clip import clip_name
from apt_peft.video.groups import group_clips
from apt_peft.video.write_lists import SplitPlan, write_lists

logger = logging.getLogger(__name__)
FORMAT = 1
PLAN, LISTS = "plan.json", "lists"
# Seed of the trials, which train on other clips than the runs that are reported.
TRIAL_SEED = 0


@dataclass(frozen=True)
class Runs:
    """Many runs, settled.

    Args:
        settings: of the command.
        shared: settings of all runs, as given.
        contenders: in the order given.
        clips: the data.
        config: of the backbone, of transformers.
    """

    settings: ManyRuns
    shared: TrainSettings
    contenders: Sequence[Contender]
    clips: DataSplits
    config: Any

    @property
    def out(self) -> Path:
        """The folder of the comparison."""
        return Path(self.settings.out)

    @property
    def parts(self) -> int:
        """Validation parts that each rate is tried on."""
        return self.settings.folds or 1

    @property
    def seeds(self) -> range:
        """Seeds of the runs on all training clips."""
        return range(self.settings.seeds)

    @property
    def frames(self) -> Path:
        """Folder of decoded frames, which all runs share."""
        return self.out / "frames"

    def parameters(self, contender: Contender) -> int:
        """Numbers that a contender trains beside the head."""
        return parameters(contender, self.shared, self.config)

    def groups(self, clips: Sequence[Clip]) -> dict[str, str]:
        """Name of each clip -> the video that it was cut from, or its own name."""
        group_by, layout = self.settings.group_by, self.clips.layout
        found, _ = group_clips(clips, self.settings.data, group_by=group_by, layout=layout)
        return {clip_name(clip, self.settings.data): group for clip, group in zip(clips, found, strict=True)}

    def trials(self, contender: Contender) -> Path:
        """Folder of a contender's trials."""
        return self.out / "trials" / contender.folder

    def lists(self, part: int) -> dict[str, str]:
        """Lists of a validation part, from 1: of the clips to train on and of those to validate on."""
        folder = self.out / LISTS / (f"fold-{part}" if self.settings.folds else "")
        return {split: str(folder / f"{split}.csv") for split in ("train", "val")}

    def begin(self) -> None:
        """Make the folder, its lists and its plan, or see that those that are there are the same.

        Raises:
            ConfigError: its runs have other settings; all that changed are named.
            DataError: clips that cannot be divided, or other ones than before.
        """
        path = self.out / PLAN
        now = json.loads(json.dumps(self._decides()))
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if before is not None:
            self._check_same(before, now)
            now["contenders"] = before["contenders"] | now["contenders"]
        self._write_lists()
        write_json(path, now | self._kept(before or {}))

    def try_out(self) -> None:
        """See that the clips can be divided and drawn, in a folder that is deleted at once.

        Raises:
            DataError: they cannot.
        """
        with TemporaryDirectory() as folder:
            elsewhere = str(Path(folder) / "out")
            try:
                replace(self, settings=replace(self.settings, out=elsewhere)).begin()
            except DataError as error:
                raise DataError(str(error).replace(elsewhere, str(self.out))) from None

    def settings_of(self, contender: Contender, out: Path, given: dict[str, Any]) -> dict[str, Any]:
        """Settings of a run, as plain values: on lists, without the test split, with frames that all runs share.

        Args:
            contender: whose run.
            out: its folder.
            given: what is this run's own.
        """
        cache, limit = self.shared.cache, self.shared.cache_limit
        if cache == "auto":
            kept = self.shared.sampling == "even" and self.shared.augment_resolution == "prepared"
            cache = str(self.frames) if kept else "none"
            limit = (limit or AUTO_CACHE_BYTES) if kept else None
        usual = {
            "out": str(out),
            "labels": str(self.out / LISTS / "labels.txt"),
            "test_list": None,
            "layout": "auto",
            "test": False,
            "val_fraction": 0.0,
            "cache": cache,
            "cache_limit": limit,
            "progress": False,
            "threads": self.threads(),
        }
        settings = contender.settings(self.shared, **usual | given)
        settings = replace(settings, **stored_features(settings, self.config, self.frames.with_name("features")))
        return {name: value for name, value in settings.as_dict().items() if name != "resume"}

    def threads(self) -> int | None:
        """CPU threads of a run: its share of the cores where several run at a time; None is torch's choice."""
        if self.shared.threads is not None or self.settings.jobs == 1:
            return self.shared.threads
        return max(1, (os.cpu_count() or 1) // self.settings.jobs)

    def _decides(self) -> dict[str, Any]:
        """What decides the results: who goes on must repeat it. Contenders and seeds may be added."""
        own = {name: getattr(self.settings, name) for name in ("command", "model", "data", *self.settings.repeated)}
        return {
            "format": FORMAT,
            "settings": own | self.shared.what_comes_out(),
            "contenders": {contender.name: contender.changes for contender in self.contenders},
        }

    def _kept(self, before: dict[str, Any]) -> dict[str, Any]:
        """What else the plan's file holds."""
        return {}

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        usual = self.shared.defaults() | self.settings.defaults()
        changed = changes(before["settings"], now["settings"], usual)
        changed += [
            f"{name} was {before['contenders'][name]} and is {changes}"
            for name, changes in now["contenders"].items()
            if before["contenders"].get(name, changes) != changes
        ]
        if changed:
            raise ConfigError(
                f"out ({self.out}) must be gone on with by the same settings, but {'; '.join(changed)}. "
                "Repeat them, or choose another --out."
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
                f"data ({settings.data}) must have the clips that the runs in {self.out} began with, but its lists come "
                "out otherwise now. Restore the clips, or choose another --out."
            )


@dataclass(frozen=True)
class TunedPlan(Runs):
    """Many runs whose rates are tuned on validation parts: as `Runs`."""

    settings: TunedRuns

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

    def trial(self, contender: Contender, point: Point, part: int) -> Job:
        """The job that tries rates on a validation part.

        Args:
            contender: whose rates.
            point: a rate for each axis.
            part: which, from 1.
        """
        rates = dict(zip(self.axes(contender), point, strict=True))
        name = ",".join(f"{axis}={rate:g}" for axis, rate in rates.items())
        lists = self.lists(part)
        out = self.trials(contender) / name / f"part-{part}"
        given = {"train_list": lists["train"], "val_list": lists["val"], "seed": TRIAL_SEED}
        length = self.trial_length()
        # What counts is the last epoch, so no other is scored.
        given |= length | {"validate_every": length["epochs"]}
        return Job(TRIAL, f"{contender.name} {name} part {part}", self.settings_of(contender, out, rates | given))

    def trial_length(self) -> dict[str, Any]:
        """How long a trial trains: settings of `train`."""
        return self.length(self.settings.trial_epochs or self.shared.epochs)

    def length(self, epochs: int) -> dict[str, Any]:
        """Settings of `train` for another number of epochs, the warm-up being as long a part of them.

        Args:
            epochs: of the run.
        """
        warmup = self.shared.warmup_epochs
        scaled = {} if warmup is None else {"warmup_epochs": warmup * epochs / self.shared.epochs}
        return {"epochs": epochs, **scaled}

    def steps_of_epoch(self, clips: int) -> int:
        """Optimizer steps of an epoch.

        Args:
            clips: to train on.
        """
        batches = clips / self.shared.batch_size
        whole = math.floor(batches) if self.shared.drop_last else math.ceil(batches)
        return max(1, math.ceil(whole / self.shared.gradient_accumulation_steps))


def parts_of(runs: Runs) -> tuple[int, int]:
    """Clips to train on, and validation clips, of a validation part: as near as can be told before clips are divided."""
    train, val = len(runs.clips.train), len(runs.clips.val)
    held = val or round(train / runs.parts if runs.settings.folds else train * runs.shared.val_fraction)
    return train if val else train - held, held


def stored_features(settings: TrainSettings, config: Any, folder: Path) -> dict[str, Any]:
    """Let runs of the head alone share what the frozen backbone makes of each clip, each epoch's draw of it apart.

    They train on the numbers that they would have trained on; only trials after the first of a seed find them.

    Args:
        settings: of a run.
        config: of the backbone, of transformers.
        folder: of the features.

    Returns:
        Settings of `train`; none where the run changes what the backbone makes of a clip, or that may differ by step.
    """
    if settings.method != "linear" or config.model_type != VIDEOMAE:  # the head of others may be no chain
        return {}
    drops = config.hidden_dropout_prob or config.attention_probs_dropout_prob
    if drops or settings.mixup or settings.cutmix:
        return {}
    views = settings.epochs if random_changes(settings) else None
    return {"feature_cache": str(folder), "feature_views": views}


def settle(settings: ManyRuns, shared: TrainSettings) -> tuple[DataSplits, Any]:
    """Find what the runs are made of; nothing is written.

    Args:
        settings: of the command.
        shared: of all its runs.

    Returns:
        The clips, and the backbone's config as runs load it.

    Raises:
        AptError: settings, data or backbone cannot be used.
    """
    check_precision(shared)
    config = read_config(settings.model)
    if hasattr(config, "use_mean_pooling"):
        config.use_mean_pooling = True  # as runs load it
    frames, size = frames_and_size(config)
    clip_settings(shared, model=settings.model, frames=frames, size=size)  # says now what cannot be
    found = flags.read_clips(shared)
    config.id2label = dict(enumerate(found.labels))
    config.label2id = {label: number for number, label in enumerate(found.labels)}
    return found, config
