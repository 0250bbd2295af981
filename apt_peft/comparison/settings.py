"""Every flag of `apt-peft compare` of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from apt_peft.comparison.many import RUN, WHAT, TunedRuns, both_from_arguments
from apt_peft.settings import INTEGER, TEXT, Kind, at_least, setting
from apt_peft.training.settings import TrainSettings


def _counts(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list))
        and len(value) > 0
        and all(type(number) is int and number > 0 for number in value)
        and sorted(set(value)) == list(value)
    )


COUNTS = Kind(
    "be rising whole numbers from 1 on, with commas", _counts, lambda text: tuple(map(int, text.split(","))), tuple
)


@dataclass(frozen=True, kw_only=True)
class CompareSettings(TunedRuns):
    """What `compare` needs to know besides the settings of `train`; its clips have a test split.

    Raises:
        ConfigError: values that break their rules, all named at once.
    """

    command: ClassVar[str] = "compare"

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
    shots: tuple[int, ...] | None = setting(
        COUNTS,
        "compare on so many training clips of each class, drawn anew for each seed, such as 1,2,4,8",
        None,
        group=WHAT,
        metavar="N,N,...",
    )
    shot_steps: int = setting(
        INTEGER, "with --shots: optimizer steps of a run, in the place of --epochs", 100, rule=at_least(1), group=WHAT
    )
    ratio_rounds: int = setting(
        INTEGER,
        "rounds in which each contender's forward and training step are timed in turns with the bare backbone's and full "
        "tuning's; 0: they are not",
        5,
        rule=at_least(0),
        group=RUN,
        metavar="N",
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
    return both_from_arguments(CompareSettings, arguments)
