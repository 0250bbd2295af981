"""Few shots: the same contenders on a few training clips of each class, drawn anew for each seed."""

import json
import math
import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from apt_peft.comparison.plan import Plan, make_plan
from apt_peft.comparison.runs import FORMAT, LISTS, PLAN
from apt_peft.comparison.settings import CompareSettings
from apt_peft.errors import ConfigError, DataError
from apt_peft.scores.whole import whole_file
from apt_peft.training.checkpoints import write_json
from apt_peft.training.settings import TrainSettings
from apt_peft.video.lists import fields_of_lines

DRAWS = "draws"
COMMAND = "compare --shots"


def in_drawn_order(names: Sequence[str], groups: Mapping[str, str], seed: int | str) -> list[str]:
    """The clips of a class in the order in which they are drawn: the first of it are a draw, and more of it a larger one.

    Videos are drawn first: no two clips are of one video while there is another that none was drawn of.

    Args:
        names: of the clips, in any order.
        groups: name -> video.
        seed: of the draw.

    Returns:
        All names.
    """
    by_group: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        by_group[groups.get(name, name)].append(name)
    drawn = random.Random(f"shots {seed}")
    videos = [by_group[group] for group in sorted(by_group)]
    for video in videos:
        drawn.shuffle(video)
    drawn.shuffle(videos)
    rounds = max(map(len, videos), default=0)
    return [video[place] for place in range(rounds) for video in videos if place < len(video)]


@dataclass(frozen=True)
class ShotsPlan(Plan):
    """A comparison on a few clips of each class, in a folder within that of all.

    Args:
        settings: of the comparison.
        shared: settings of all runs, as given.
        contenders: in the order given.
        clips: the data.
        config: of the backbone, of transformers.
        reference: the contender that others are compared to.
        shots: clips of each class.
    """

    shots: int

    @property
    def frames(self) -> Path:
        """Folder of decoded frames, which all runs share, whatever their shots."""
        return self.out.parent / "frames"

    def begin(self) -> None:
        """As for all runs; and draw the clips.

        Raises:
            ConfigError: its runs have other settings; all that changed are named.
            DataError: clips that cannot be divided, other ones than before, or too few of a class.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        super().begin()
        groups = self.groups(self.clips.train)
        # A list names a clip that lies elsewhere by its whole path.
        groups |= {os.path.abspath(name): group for name, group in groups.items()}
        (self.out / DRAWS).mkdir(exist_ok=True)
        for part in range(1, self.parts + 1):
            self._draw(Path(super().lists(part)["train"]), self._drawn(f"trial-{part}"), groups)
        for seed in self.seeds:
            self._draw(self.out / LISTS / "whole.csv", self._drawn(f"seed-{seed}"), groups)

    def lists(self, part: int) -> dict[str, str]:
        """Lists of a validation part: of the clips drawn from those to train on, and of all those to validate on.

        Args:
            part: from 1.
        """
        return {**super().lists(part), "train": str(self._drawn(f"trial-{part}"))}

    def training_list(self, seed: int) -> str:
        """List of the clips that a run is trained on.

        Args:
            seed: of the run, and of the draw.
        """
        return str(self._drawn(f"seed-{seed}"))

    def run_length(self) -> dict[str, Any]:
        """How long a run trains: as many epochs as give the steps that are asked for."""
        return self.length(self._epochs(self.settings.shot_steps))

    def trial_length(self) -> dict[str, Any]:
        """How long a trial trains: shorter than a run in the same part as `--trial-epochs` says."""
        part = (self.settings.trial_epochs or self.shared.epochs) / self.shared.epochs
        return self.length(self._epochs(max(1, round(self.settings.shot_steps * part))))

    def counts(self) -> tuple[int, int]:
        """Clips that a trial and a run are trained on."""
        drawn = self.shots * len(self.clips.labels)
        return drawn, drawn

    def _epochs(self, steps: int) -> int:
        return math.ceil(steps / self.steps_of_epoch(self.counts()[0]))

    def _drawn(self, name: str) -> Path:
        return self.out / DRAWS / f"{name}.csv"

    def _decides(self) -> dict[str, Any]:
        decides = super()._decides()
        decides["settings"] |= {"shots": self.shots, "shot_steps": self.settings.shot_steps}
        return decides

    def _draw(self, pool: Path, path: Path, groups: Mapping[str, str]) -> None:
        lines: dict[str, bytes] = {}
        by_class: defaultdict[str, list[str]] = defaultdict(list)
        written = pool.read_bytes().splitlines(keepends=True)
        labels = self.clips.labels
        for (name, label), line in zip(fields_of_lines(pool), written, strict=True):
            lines[name] = line
            # Lists have numbers, or names where these are digits.
            by_class[label if label in labels else labels[int(label)]].append(name)
        few = [f"{label} has {len(by_class[label])}" for label in labels if len(by_class[label]) < self.shots]
        if few:
            raise DataError(
                f"shots ({self.shots}) must be there in each class of the clips that a run is trained on, but of {pool} "
                f"{', '.join(few)}. Take fewer shots, or hold fewer clips out."
            )
        drawn = [name for label in labels for name in self._first(by_class[label], groups, path.stem)]
        with whole_file(path) as begun:
            begun.write_bytes(b"".join(lines[name] for name in drawn))

    def _first(self, names: Sequence[str], groups: Mapping[str, str], seed: str) -> list[str]:
        return in_drawn_order(names, groups, seed)[: self.shots]


def make_shots(settings: CompareSettings, shared: TrainSettings) -> list[ShotsPlan]:
    """Settle a comparison for each number of shots; nothing is written.

    Args:
        settings: of the comparison, with shots.
        shared: of all its runs.

    Returns:
        A plan for each.

    Raises:
        AptError: settings, data or backbone cannot be used.
    """
    plan = make_plan(settings, shared)
    given = {field.name: getattr(plan, field.name) for field in fields(plan)}
    return [
        ShotsPlan(**given | {"settings": replace(settings, out=str(plan.out / f"shots-{shots}"))}, shots=shots)
        for shots in settings.shots or ()
    ]


def begin_shots(out: Path) -> None:
    """Mark a folder as one of few shots, or see that it is one.

    Args:
        out: the folder.

    Raises:
        ConfigError: other runs are in it.
    """
    path = out / PLAN
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))["settings"]["command"]
        if before != COMMAND:
            raise ConfigError(
                f"out ({out}) must be gone on with by the same settings, but command was {before!r} and is {COMMAND!r}. "
                "Repeat them, or choose another --out."
            )
    write_json(path, {"format": FORMAT, "settings": {"command": COMMAND}, "contenders": {}})


__all__ = ["ShotsPlan", "begin_shots", "in_drawn_order", "make_shots"]
