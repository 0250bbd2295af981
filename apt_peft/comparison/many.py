"""Flags that all commands with many runs have, and which settings of `train` these runs share."""

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from apt_peft import settings
from apt_peft.errors import ConfigError
from apt_peft.scores.intervals import SAMPLES
from apt_peft.settings import INTEGER, NUMBER, SWITCH, TEXT, Rule, Settings, at_least, setting
from apt_peft.training.settings import TrainSettings

WHAT, TUNING, SURE, RUN = "runs", "tuning", "how sure", "carrying out"
# Rates to begin with: four, a decade apart.
FIRST = 4
# What such a command itself decides for each run.
DECIDED = frozenset(
    {
        *("preset", "method", "method_size", "lr", "head_lr", "seed", "test", "resume", "progress", "push_to_hub"),
        *("feature_cache", "feature_views", "validate_every"),
    }
)
# What the command and its runs both have.
OWN = ("model", "data", "out", "group_by")
ALL = frozenset(field.name for field in dataclasses.fields(TrainSettings))
SHARED = ALL - DECIDED - set(OWN)


@dataclass(frozen=True, kw_only=True)
class ManyRuns(Settings):
    """What a command with many runs needs to know besides the settings of `train`.

    Raises:
        ConfigError: values that break their rules, all named at once.
    """

    # Its name, settings of runs that it decides itself, and its own settings that a command that goes on must repeat.
    command: ClassVar[str]
    decided: ClassVar[frozenset[str]] = DECIDED
    repeated: ClassVar[tuple[str, ...]] = ("folds", "group_by")

    model: str = setting(TEXT, "backbone: a folder or a name on the Hub", group=WHAT, metavar="DIR_OR_HUB")
    data: str = setting(TEXT, "clips, as for train, in files: not shards", group=WHAT, metavar="DATA")
    out: str = setting(TEXT, "folder of all runs; one that was begun is gone on with", group=WHAT, metavar="DIR")
    seeds: int = setting(INTEGER, "runs of each contender with its rates", 3, rule=at_least(1), group=WHAT)
    folds: int | None = setting(
        INTEGER, "validate on K folds of the training clips, not on one part of --val-fraction", None,
        rule=at_least(2), group=TUNING, metavar="K",
    )  # fmt: skip
    group_by: str = setting(
        TEXT, "which clips stay together when clips are divided or drawn, as for apt-peft lists", "auto", group=TUNING,
        metavar="REGEX|FILE|folder|none|auto",
    )  # fmt: skip
    level: float = setting(
        NUMBER, "how often intervals are to hold the true value", 0.95,
        rule=Rule("be above 0 and below 1", lambda value: 0 < value < 1), group=SURE,
    )  # fmt: skip
    samples: int = setting(INTEGER, "draws of the bootstrap", SAMPLES, rule=at_least(100), group=SURE)
    jobs: int = setting(INTEGER, "runs at a time, each in a process of its own", 1, rule=at_least(1), group=RUN)
    dry_run: bool = setting(
        SWITCH, "print the plan and hours that one timed step suggests, and write nothing", False, group=RUN
    )

    @classmethod
    def shared(cls) -> frozenset[str]:
        """Settings of `train` that all its runs share."""
        return ALL - cls.decided - set(OWN)


@dataclass(frozen=True, kw_only=True)
class TunedRuns(ManyRuns):
    """What a command needs to know that tunes the rates of its runs.

    Raises:
        ConfigError: values that break their rules, all named at once.
    """

    repeated: ClassVar[tuple[str, ...]] = ("budget_trials", "trial_epochs", "tune_head", *ManyRuns.repeated)

    budget_trials: int = setting(
        INTEGER, "learning rates that are tried for each contender", 8, rule=at_least(FIRST), group=TUNING, metavar="N"
    )
    trial_epochs: int | None = setting(
        INTEGER, "epochs of a trial, all of its schedule in these (default: as many as of a run)", None, rule=at_least(1),
        group=TUNING, metavar="N",
    )  # fmt: skip
    tune_head: bool = setting(SWITCH, "tune the head's rate as well, in the same budget", True, group=TUNING)


M = TypeVar("M", bound=ManyRuns)


def add_arguments(parser: argparse.ArgumentParser, cls: type[ManyRuns]) -> None:
    """Give a parser one flag for each setting of a command with many runs, and of `train` what all its runs share.

    Args:
        parser: of the command.
        cls: settings of the command.
    """
    settings.add_arguments(parser, cls)
    settings.add_arguments(parser, TrainSettings, config=True, only=cls.shared())


def both_from_arguments(cls: type[M], arguments: Mapping[str, Any]) -> tuple[M, TrainSettings]:
    """Settings of a command with many runs and of its runs, from the parsed command line.

    Args:
        cls: settings of the command.
        arguments: texts by setting, and perhaps `config`, a TOML file of train's settings.

    Returns:
        Both.

    Raises:
        ConfigError: bad values, or settings that the command decides itself.
    """
    if "config" in arguments:
        check_shared(cls, settings.read_toml(arguments["config"]), f"config ({arguments['config']})")
    names = {field.name for field in dataclasses.fields(cls)}
    own = {name: value for name, value in arguments.items() if name in names}
    runs = {name: value for name, value in arguments.items() if name not in names or name in OWN}
    command = settings.from_arguments(cls, own)
    return command, settings.from_arguments(TrainSettings, runs)


def check_shared(cls: type[ManyRuns], given: Mapping[str, Any], where: str) -> None:
    """Refuse settings of runs that the command decides itself.

    Args:
        cls: settings of the command.
        given: settings by name.
        where: they come from, for the message.

    Raises:
        ConfigError: there are some; all are named.
    """
    if decided := sorted(cls.decided & set(given)):
        raise ConfigError(
            f"{where} must leave {', '.join(decided)} to {cls.command}, which decides them for each run. Take them out."
        )
