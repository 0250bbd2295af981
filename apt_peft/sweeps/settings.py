"""Every flag of `apt-peft robustness` and of `apt-peft sweep-prompts` of their own."""

from dataclasses import dataclass
from typing import ClassVar

from apt_peft.comparison.many import DECIDED, SURE, ManyRuns, TunedRuns
from apt_peft.settings import INTEGERS, NUMBER, NUMBERS, SWITCH, TEXT, TEXTS, Rule, above, setting

GRID = "grid"
WITHOUT = "none"
REPARAMETERIZATIONS = ("max", "softplus", WITHOUT)
PROMPTS = "prompts"


def _distinct(values: tuple) -> bool:
    return len({f"{value:g}" for value in values}) == len(values)


def _within() -> float:
    return setting(NUMBER, "points below the best that still count as good", 2.0, rule=above(0), group=SURE)


@dataclass(frozen=True, kw_only=True)
class RobustnessSettings(ManyRuns):
    """What `robustness` needs to know besides the settings of `train`.

    Raises:
        ConfigError: values that break their rules, all named at once.
    """

    command: ClassVar[str] = "robustness"
    decided: ClassVar[frozenset[str]] = (DECIDED - {"head_lr"}) | {"reparameterization", "group_by"}
    repeated: ClassVar[tuple[str, ...]] = (*ManyRuns.repeated, "tie_head")

    lrs: tuple[float, ...] = setting(
        NUMBERS, "learning rates of the prompts", (0.001, 0.0032, 0.01, 0.032, 0.1, 0.32, 1.0, 3.2, 10.0),
        rule=Rule("be three or more different rates above 0", lambda v: len(v) > 2 and _distinct(v) and min(v) > 0),
        group=GRID,
    )  # fmt: skip
    tie_head: bool = setting(
        SWITCH, "let the head's rate move along, in the ratio of train's default rates; else it keeps --head-lr", True, group=GRID
    )  # fmt: skip
    reparameterizations: tuple[str, ...] = setting(
        TEXTS, "factors of the prompts, `none` among them", ("max", WITHOUT),
        rule=Rule(
            f"be two or three of {', '.join(REPARAMETERIZATIONS)}, with {WITHOUT} among them",
            lambda v: len(v) > 1 and len(set(v)) == len(v) and set(v) <= set(REPARAMETERIZATIONS) and WITHOUT in v,
        ),
        group=GRID, metavar="NAME",
    )  # fmt: skip
    weight_decays: tuple[float, ...] = setting(
        NUMBERS, "weight decays, each with each dropout at the best rate", (1e-5, 1e-3, 1e-1),
        rule=Rule("be different numbers from 0 on", lambda v: len(v) > 0 and _distinct(v) and min(v) >= 0), group=GRID,
    )  # fmt: skip
    dropouts: tuple[float, ...] = setting(
        NUMBERS, "dropouts of the prompts, each with each weight decay at the best rate", (0.0, 0.1, 0.3),
        rule=Rule(
            "be different numbers from 0 on and below 1", lambda v: len(v) > 0 and _distinct(v) and 0 <= min(v) <= max(v) < 1
        ),
        group=GRID,
    )  # fmt: skip
    within: float = _within()


@dataclass(frozen=True, kw_only=True)
class PromptSweepSettings(TunedRuns):
    """What `sweep-prompts` needs to know besides the settings of `train`.

    Raises:
        ConfigError: values that break their rules, all named at once.
    """

    command: ClassVar[str] = "sweep-prompts"
    decided: ClassVar[frozenset[str]] = DECIDED | {"num_prompt_tokens", "group_by"}

    methods: str = setting(
        TEXT, "contenders with prompts, with commas: apt, vpt-deep, vpt-shallow, and apt with options, such as apt+data",
        "apt,vpt-deep", group=GRID, metavar="A,B,...",
    )  # fmt: skip
    prompts: tuple[int, ...] = setting(
        INTEGERS, "P: prompt keys and values of a layer, or tokens", (1, 2, 5, 10, 20, 50, 100, 200, 400),
        rule=Rule(
            "be two or more different numbers from 1 on", lambda v: len(v) > 1 and len(set(v)) == len(v) and min(v) >= 1
        ),
        group=GRID,
    )  # fmt: skip
    within: float = _within()
