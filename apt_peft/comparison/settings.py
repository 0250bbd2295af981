"""Every flag of `apt-peft compare` of its own, and those of `train` that every run shares."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apt_peft import settings
from apt_peft.errors import ConfigError
from apt_peft.scores.intervals import SAMPLES
from apt_peft.settings import INTEGER, NUMBER, SWITCH, TEXT, Rule, Settings, at_least, setting
from apt_peft.training.settings import TrainSettings

WHAT, TUNING, SURE, RUN = "comparison", "tuning", "how sure", "carrying out"
# Rates to begin with: four, a decade apart.
FIRST = 4
# What the comparison itself decides for each run.
DECIDED = frozenset(
    {
        *("method", "method_size", "lr", "head_lr", "seed", "test", "resume", "progress", "push_to_hub"),
        *("feature_cache", "feature_views"),
    }
)
OWN = ("model", "data", "out")
SHARED = frozenset(field.name for field in dataclasses.fields(TrainSettings)) - DECIDED - set(OWN)


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """What `compare` needs to know besides the settings of `train`.

    Raises:
        ConfigError: values that break their rules, all named at once.
    """

    model: str = setting(TEXT, "backbone: a folder or a name on the Hub", group=WHAT, metavar="DIR_OR_HUB")
    data: str = setting(TEXT, "clips with a test split, as for train, in files: not shards", group=WHAT, metavar="DATA")
    out: str = setting(TEXT, "folder of the comparison; one that was begun is gone on with", group=WHAT, metavar="DIR")
    methods: str = setting(
        TEXT,
        "contenders, with commas: a method of train, with its size (lora:8, apt:20), with options (apt+data+gate8, see "
        "docs/compare.md), or a variant of --variants",
        "linear,lora,vpt-deep,apt",
        group=WHAT,
        metavar="A,B,...",
    )
    variants: str | None = setting(
        TEXT, "TOML file: a table of train's settings for each contender of your own", None, group=WHAT, metavar="FILE"
    )
    match_parameters: str | None = setting(
        TEXT,
        "give contenders without a size one that trains so many numbers beside the head: a number, or those of a method",
        None,
        group=WHAT,
        metavar="METHOD|N",
    )
    reference: str | None = setting(
        TEXT, "contender that others are compared to (default: the first apt, else the first)", None, group=WHAT,
        metavar="NAME",
    )  # fmt: skip
    seeds: int = setting(INTEGER, "runs of each contender with its rate", 3, rule=at_least(1), group=WHAT)
    budget_trials: int = setting(
        INTEGER, "learning rates that are tried for each contender", 8, rule=at_least(FIRST), group=TUNING, metavar="N"
    )
    tune_head: bool = setting(SWITCH, "tune the head's rate as well, in the same budget", True, group=TUNING)
    folds: int | None = setting(
        INTEGER, "try each rate on K folds of the training clips, not on one part of --val-fraction", None,
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
    forget: str | None = setting(
        TEXT, "open the test split again for these contenders, which the ledger records", None, group=RUN,
        metavar="A,B,...",
    )  # fmt: skip


def from_arguments(arguments: Mapping[str, Any]) -> tuple[CompareSettings, TrainSettings]:
    """Settings of a comparison and of its runs, from the parsed command line.

    Args:
        arguments: texts by setting, and perhaps `config`, a TOML file of train's settings.

    Returns:
        Both.

    Raises:
        ConfigError: bad values, or settings that the comparison decides itself.
    """
    if "config" in arguments:
        check_shared(settings.read_toml(arguments["config"]), f"config ({arguments['config']})")
    names = {field.name for field in dataclasses.fields(CompareSettings)}
    own = {name: value for name, value in arguments.items() if name in names}
    runs = {name: value for name, value in arguments.items() if name not in names or name in OWN}
    comparison = settings.from_arguments(CompareSettings, own)
    return comparison, settings.from_arguments(TrainSettings, runs)


def check_shared(given: Mapping[str, Any], where: str) -> None:
    """Refuse settings of runs that the comparison decides itself.

    Args:
        given: settings by name.
        where: they come from, for the message.

    Raises:
        ConfigError: there are some; all are named.
    """
    if decided := sorted(DECIDED & set(given)):
        raise ConfigError(
            f"{where} must leave {', '.join(decided)} to the comparison, which tunes and repeats runs itself. "
            "Take them out."
        )
