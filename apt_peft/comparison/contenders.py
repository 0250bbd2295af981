"""The contenders: `lora:8`, `apt+data+gate8` or a table of a TOML file -> the settings in which their runs differ."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModelForVideoClassification

from apt_peft import settings as flags
from apt_peft.baselines.methods import method_of, size_for
from apt_peft.comparison.many import SHARED
from apt_peft.errors import ConfigError
from apt_peft.presets import PRESETS
from apt_peft.settings import nearest
from apt_peft.training.prompts import method_config
from apt_peft.training.settings import TrainSettings
from apt_peft.tuner.families import heads_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Options of apt, as text after a plus: what they set.
OPTIONS: dict[str, Callable[[str], dict[str, Any]]] = {
    r"best": lambda _: dict(PRESETS["best"].config),
    r"data": lambda _: {"init_weights": "data"},
    r"gate(\d+)": lambda number: {"key_gate": int(number)},
    r"norms": lambda _: {"train_norms": True},
    r"softplus": lambda _: {"reparameterization": "softplus"},
    r"plain": lambda _: {"reparameterization": "none"},
    r"heads": lambda _: {"share_prompts_across_heads": False},
    r"from(\d+)": lambda number: {"first layer": int(number)},
}
OPTIONS_SHOWN = "best, data, gate8, norms, softplus, plain, heads, from6"
# Settings of runs that a variant must share with the others, or the comparison is of something else.
COMMON = frozenset(
    {
        *("recipe", "train_list", "val_list", "test_list", "labels", "video_column", "label_column", "layout"),
        *(
            "split_number",
            "shard_window",
            "val_fraction",
            "on_error",
            "look_over",
            "time_limit",
            "cache",
            "cache_format",
        ),
        *(
            "cache_limit",
            "threads",
            "workers",
            "prefetch",
            "device",
            "save_steps",
            "num_frames",
            "size",
            "segments",
            "crops",
        ),
    }
)


@dataclass(frozen=True)
class Contender:
    """One way to train the backbone.

    Args:
        name: as the user wrote it.
        changes: settings of `train` in which its runs differ from the shared ones; `method` at least.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method of `train`."""
        return str(self.changes["method"])

    @property
    def folder(self) -> str:
        """Its name as a folder's; no two names give the same."""
        return self.name.replace(":", "=")

    def settings(self, shared: TrainSettings, **more: Any) -> TrainSettings:
        """Settings of one of its runs.

        Args:
            shared: of all runs.
            **more: of this run.

        Returns:
            All of them.

        Raises:
            ConfigError: they don't go together.
        """
        return replace(shared, **self.changes, **more)

    def described(self, shared: TrainSettings) -> str:
        """Its settings in a few words, for the table."""
        changes = dict(self.changes)
        method = changes.pop("method")
        if method == "apt":
            changes.setdefault("num_prompt_tokens", shared.num_prompt_tokens)
        elif "method_size" not in changes and method != "linear" and (row := method_of(method)).size is not None:
            changes["method_size"] = row.default_size
        words = [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in sorted(changes.items())]
        # What is added to prompts is not published.
        title = "attention prompts" if method == "apt" and len(changes) > 1 else method_of(method).title
        return ", ".join([title, *words])


def read_contenders(
    methods: str, shared: TrainSettings, config: Any, *, variants: str | None = None, match: str | None = None
) -> list[Contender]:
    """The contenders that a user names.

    Args:
        methods: names with commas.
        shared: settings of all runs.
        config: of the backbone, of transformers.
        variants: TOML file of contenders of the user's own.
        match: a number of parameters beside the head or a method that has it, for sizes that are not given.

    Returns:
        The contenders, in the order given.

    Raises:
        ConfigError: names, variants or sizes that cannot be; all bad names at once.
        TargetError: the backbone cannot take a method.
    """
    tables = _read_variants(variants) if variants is not None else {}
    names = [name.strip() for name in methods.split(",") if name.strip()]
    found, wrong = [], []
    for name in names:
        try:
            found.append(_contender(name, tables, config))
        except ConfigError as error:
            wrong.append(str(error))
    if not names:
        wrong.append(f"methods ({methods!r}) must name a contender. For example: linear,lora:8,apt.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        wrong.append(f"methods ({methods}) must name each contender once, but {', '.join(twice)} stand there again.")
    if wrong:
        raise ConfigError("\n".join(wrong))
    if match is not None:
        wanted = matched_count(match, shared, config, variants=variants)
        found = [_matched(contender, shared, config, wanted) for contender in found]
    for contender in found:
        parameters(contender, shared, config)  # says now what cannot be
    return found


def matched_count(match: str, shared: TrainSettings, config: Any, *, variants: str | None = None) -> int:
    """The number of parameters beside the head that contenders without a size are to train.

    Args:
        match: a number, or a method that has it.
        shared: settings of all runs.
        config: of the backbone, of transformers.
        variants: TOML file of contenders of the user's own.

    Returns:
        The number.

    Raises:
        ConfigError: no such method, or it trains nothing beside the head.
    """
    tables = _read_variants(variants) if variants is not None else {}
    found = int(match) if match.isdigit() else parameters(_contender(match, tables, config), shared, config)
    if found < 1:
        raise ConfigError(
            f"match_parameters ({match}) must train numbers beside the head, but it trains none. Give a number above 0, or a "
            "method such as lora:8."
        )
    return found


def parameters(contender: Contender, shared: TrainSettings, config: Any) -> int:
    """Numbers that a contender trains beside the head, counted on an empty model.

    Args:
        contender: which.
        shared: settings of all runs.
        config: of the backbone, of transformers.

    Returns:
        The count.

    Raises:
        ConfigError: no such size.
        TargetError: the backbone cannot take the method.
    """
    with torch.device("meta"):
        base = AutoModelForVideoClassification.from_config(config)
    head = sum(parameter.numel() for part in heads_of(base) for parameter in getattr(base, part).parameters())
    peft_config = method_config(contender.settings(shared), base)
    return int(get_peft_model(base, peft_config).get_nb_trainable_parameters()[0]) - head  # type: ignore[arg-type]


def _contender(name: str, tables: Mapping[str, dict[str, Any]], config: Any) -> Contender:
    if name in tables:
        return Contender(name, tables[name])
    method, *options = name.split("+")
    method, colon, size = method.partition(":")
    known = [*tables, *_methods()]
    if method not in _methods():
        raise ConfigError(
            f"method ({name}) must be one of {', '.join(_methods())}, or a table of --variants.{nearest(method, known)}"
        )
    changes: dict[str, Any] = {"method": method}
    if colon:
        if not size.isdigit() or int(size) < 1:
            raise ConfigError(f"method ({name}) must have a whole number from 1 on as its size, such as {method}:8.")
        if method != "apt" and (method == "linear" or method_of(method).size is None):
            raise ConfigError(f"method ({name}) must be written without a size, for {method} has none.")
    if options and method != "apt":
        raise ConfigError(f"method ({name}) must have no options, for those are of apt. Make a table of --variants.")
    for option in options:
        match = next(((make, m) for pattern, make in OPTIONS.items() if (m := re.fullmatch(pattern, option))), None)
        if match is None:
            raise ConfigError(f"method ({name}) must have options such as {OPTIONS_SHOWN}, but {option!r} is none.")
        made = match[0](match[1][1] if match[1].re.groups else "")
        if "first layer" in made:
            first, layers = made["first layer"], int(config.num_hidden_layers)
            if first >= layers:
                raise ConfigError(f"method ({name}) must begin at a layer of the backbone's 0 to {layers - 1}.")
            made = {"layers_to_transform": tuple(range(first, layers))}
        changes |= made
    if colon:
        changes["num_prompt_tokens" if method == "apt" else "method_size"] = int(size)
    return Contender(name, changes)


def _methods() -> tuple[str, ...]:
    from apt_peft.baselines.methods import METHODS

    return tuple(METHODS)


def _read_variants(path: str) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {}
    wrong = []
    for given, table in _toml(path).items():
        if not NAME.fullmatch(given) or given in _methods():
            wrong.append(f"{given!r} must be a name of letters, digits, dots, dashes and no method's")
            continue
        if not isinstance(table, dict):
            wrong.append(f"{given} must be a table, [{given}]")
            continue
        values = {key.replace("-", "_"): value for key, value in table.items()}
        allowed = (SHARED - COMMON) | {"method", "method_size"}
        if unknown := sorted(set(values) - allowed):
            wrong.append(
                f"{given} must have settings of train in which contenders may differ, and not {', '.join(unknown)}"
            )
            continue
        values.setdefault("method", "apt")
        if values["method"] not in _methods():
            wrong.append(f"{given} must have a method of train, and not {values['method']!r}")
            continue
        tables[given] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    if wrong:
        raise ConfigError(f"variants ({path}) must be tables of settings, but:\n" + "\n".join(f"  {w}." for w in wrong))
    return tables


def _toml(path: str) -> dict[str, Any]:
    try:
        # Its keys are names of contenders: dashes in them stay.
        return flags.read_toml(path, keep_dashes=True)
    except ConfigError as error:
        raise ConfigError(str(error).replace("config (", "variants (", 1)) from None


def _matched(contender: Contender, shared: TrainSettings, config: Any, wanted: int) -> Contender:
    key = "num_prompt_tokens" if contender.method == "apt" else "method_size"
    if key in contender.changes or contender.method == "linear":
        return contender
    if contender.method == "oft":  # its blocks divide the width
        width = int(config.hidden_size)
        sized = [
            replace(contender, changes={**contender.changes, key: size})
            for size in range(2, width + 1)
            if width % size == 0
        ]
        return min(sized, key=lambda one: abs(parameters(one, shared, config) - wanted))
    if contender.method != "apt":
        if method_of(contender.method).size is None:
            return contender
        size = size_for(contender.method, config, wanted)
        if contender.method == "partial":
            size = min(size, int(config.num_hidden_layers))
        return replace(contender, changes={**contender.changes, key: size})
    one, two = (
        parameters(replace(contender, changes={**contender.changes, key: size}), shared, config) for size in (1, 2)
    )
    return replace(contender, changes={**contender.changes, key: max(1, round((wanted - one) / (two - one)) + 1)})


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) if len(value) < 4 else f"{value[0]}-{value[-1]}"
    return str(value)


__all__ = ["COMMON", "Contender", "matched_count", "parameters", "read_contenders"]
