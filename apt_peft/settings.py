"""A command's flags as a frozen dataclass: one table of names, kinds, rules and help makes checks, TOML and flags."""

import argparse
import dataclasses
import difflib
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from apt_peft.errors import ConfigError, require

T = TypeVar("T", bound="Settings")


@dataclass(frozen=True)
class Kind:
    """What a value may be: `says` completes "must ...", `parse` reads the text of a flag, `convert` an accepted value."""

    says: str
    accepts: Callable[[Any], bool]
    parse: Callable[[str], Any]
    convert: Callable[[Any], Any] = lambda value: value
    many: bool = False


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _is_list(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (list, tuple)) and all(accepts(item) for item in value)


TEXT = Kind("be text", lambda value: isinstance(value, (str, Path)) and str(value) != "", str, str)
INTEGER = Kind("be a whole number", _is_integer, int)
NUMBER = Kind("be a finite number", _is_number, float, float)
SWITCH = Kind("be true or false", lambda value: isinstance(value, bool), str)
INTEGERS = Kind("be whole numbers", _is_list(_is_integer), int, tuple, many=True)
TEXTS = Kind("be one text or more", lambda value: bool(value) and _is_list(TEXT.accepts)(value), str, tuple, many=True)
NUMBERS = Kind("be finite numbers", _is_list(_is_number), float, lambda value: tuple(map(float, value)), many=True)


@dataclass(frozen=True)
class Rule:
    """What a value of the right kind must do besides: `says` completes "must ..."."""

    says: str
    holds: Callable[[Any], bool]


def at_least(bound: float) -> Rule:
    """The rule that a value is this or more."""
    return Rule(f"be at least {bound}", lambda value: value >= bound)


def above(bound: float) -> Rule:
    """The rule that a value is more than this."""
    return Rule(f"be above {bound}", lambda value: value > bound)


def within(low: float, high: float, *, below: bool = False) -> Rule:
    """The rule that a value lies in low..high, with high itself left out where `below`."""
    return Rule(
        f"be at least {low} and {'below' if below else 'at most'} {high}",
        lambda value: low <= value and (value < high if below else value <= high),
    )


def setting(
    kind: Kind,
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    rule: Rule | None = None,
    choices: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
    group: str = "general",
    positional: bool = False,
    metavar: str | None = None,
) -> Any:
    """One field of a settings class.

    Args:
        kind: what the value may be; `None` is accepted where it is the default.
        help: a line for `--help`.
        default: the value where nothing is given; without one the setting is required.
        rule: what must hold besides.
        choices: the texts that are allowed, where the choice is closed.
        aliases: other words for some of these, which are taken for them.
        group: heading of `--help`.
        positional: given by place on the command line and not by a flag.
        metavar: placeholder of `--help`.

    Returns:
        A dataclass field.
    """
    table = {
        "kind": kind,
        "help": help,
        "rule": rule,
        "choices": tuple(choices),
        "aliases": dict(aliases or {}),
        "group": group,
        "positional": positional,
        "metavar": metavar,
    }
    return dataclasses.field(default=default, metadata=table)


def nearest(name: str, names: Sequence[str]) -> str:
    """A question that names the nearest of some names (`" Did you mean lr?"`), or nothing."""
    bare = {other.lstrip("-"): other for other in names}  # dashes would make all flags alike
    found = difflib.get_close_matches(name.lstrip("-"), list(bare), n=1, cutoff=0.5)
    return f" Did you mean {bare[found[0]]}?" if found else ""


def check_known(what: str, name: str, names: Collection[str]) -> None:
    """Hold that a name is one of a table's.

    Args:
        what: that it is the name of.
        name: as given.
        names: those there are.

    Raises:
        ConfigError: it is none of them.
    """
    if name not in names:
        raise ConfigError(f"{what} ({name}) must be one of {', '.join(names)}.{nearest(name, list(names))}")


def raise_all(problems: Sequence[str]) -> None:
    """Raise one error that states every problem, each on a line where there are several.

    Raises:
        ConfigError: there is a problem.
    """
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        raise ConfigError(f"{len(problems)} settings are wrong:\n" + "\n".join(f"  {text}" for text in problems))


def problem_of(field: dataclasses.Field, value: Any) -> str | None:
    """What is wrong with one value, as `name (value) must rule`, or None."""
    kind, rule, choices = (field.metadata[key] for key in ("kind", "rule", "choices"))
    if value is None and field.default is None:
        return None
    shown = f"{field.name} ({value!r})" if isinstance(value, str) or not isinstance(value, Path) else field.name
    if not kind.accepts(value):
        return f"{shown} must {kind.says}."
    if choices and value not in choices and value not in field.metadata["aliases"]:
        return f"{shown} must be one of {', '.join(choices)}.{nearest(value, choices)}"
    if rule and not rule.holds(value):
        return f"{shown} must {rule.says}."
    return None


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON and TOML can hold them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True)
class Settings:
    """Base of the settings classes: values are checked when an object is made, all bad ones are named at once.

    Raises:
        ConfigError: a value breaks its rule.
    """

    def __post_init__(self) -> None:
        fields = dataclasses.fields(self)
        problems = [text for field in fields if (text := problem_of(field, getattr(self, field.name)))]
        raise_all(problems)
        for field in fields:
            value = getattr(self, field.name)
            if value is not None:
                value = field.metadata["kind"].convert(value)
                aliases = field.metadata["aliases"]
                object.__setattr__(self, field.name, aliases.get(value, value) if aliases else value)
        raise_all(self.conflicts())

    @classmethod
    def complete(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given settings and what they imply for others, before defaults."""
        return dict(given)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """What settings are where they are not given, as plain values; without those that must be."""
        fields = {field.name: field.default for field in dataclasses.fields(cls)}
        return plain({name: value for name, value in fields.items() if value is not dataclasses.MISSING})

    def conflicts(self) -> list[str]:
        """Values that are fine alone and not together, in a sentence each."""
        return []

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values that JSON and TOML can hold."""
        return plain(dataclasses.asdict(self))


def read_toml(path: str | Path, *, keep_dashes: bool = False) -> dict[str, Any]:
    """Read a TOML file of settings.

    Args:
        path: the file.
        keep_dashes: leave its keys as they are.

    Returns:
        Its keys, with `-` as `_`.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    tomllib = __import__("tomllib") if sys.version_info >= (3, 11) else require("tomli", "train")
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"config ({path}) must be a file that can be read, but: {error.strerror}. Check the path."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config ({path}) must be TOML, but: {error}.") from None
    return {key if keep_dashes else key.replace("-", "_"): value for key, value in table.items()}


def add_arguments(
    parser: argparse.ArgumentParser, cls: type[Settings], *, config: bool = False, only: Collection[str] | None = None
) -> None:
    """Give a parser one flag for each setting of a class.

    Args:
        parser: the parser of a command.
        cls: the settings of the command.
        config: whether the command also reads `--config FILE.toml`.
        only: settings that get a flag; None is all of them.
    """
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        table = field.metadata
        if only is not None and field.name not in only:
            continue
        if table["group"] not in groups:
            groups[table["group"]] = parser.add_argument_group(table["group"])
        group = groups[table["group"]]
        shown = "" if field.default in (dataclasses.MISSING, None) else f" (default: {_text(field.default)})"
        options: dict[str, Any] = {"help": (table["help"] + shown).replace("%", "%%"), "default": argparse.SUPPRESS}
        if table["positional"]:
            # With "?" a missing value reaches our own check, which names every missing setting at once.
            many = "*" if table["kind"].many else "?"
            group.add_argument(field.name, metavar=table["metavar"], nargs=many, **options)
            continue
        flag = "--" + field.name.replace("_", "-")
        if table["kind"] is SWITCH:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        else:
            metavar = table["metavar"] or ("|".join(table["choices"]) if table["choices"] else _metavar(table["kind"]))
            group.add_argument(flag, metavar=metavar, nargs="+" if table["kind"].many else None, **options)
    if config:
        parser.add_argument(
            "--config",
            metavar="FILE.toml",
            default=argparse.SUPPRESS,
            help="read settings from a file, one `name = value` a line with the names of the flags; flags override it",
        )


def from_arguments(cls: type[T], arguments: Mapping[str, Any]) -> T:
    """Make settings from the parsed command line and, where it names one, a TOML file.

    Args:
        cls: the settings class.
        arguments: texts (or switches) by setting, and perhaps `config`.

    Returns:
        The settings; a flag overrides the file.

    Raises:
        ConfigError: unknown keys, missing settings or bad values, all named at once.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    problems: list[str] = []
    if "config" in arguments:
        for key, value in read_toml(arguments["config"]).items():
            if key in fields:
                values[key] = value
            else:
                problems.append(
                    f"{key} must be the name of a flag, but {arguments['config']} has it and "
                    f"there is no such setting.{nearest(key, list(fields))}"
                )
    for name, given in arguments.items():
        if name in fields:
            values[name] = _parse(fields[name], given)
    values = cls.complete(values)
    for name, value in values.items():
        if text := problem_of(fields[name], value):
            problems.append(text)
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in values:
            shown = field.metadata["metavar"] if field.metadata["positional"] else f"--{name.replace('_', '-')}"
            problems.append(f"{name} must be given. Add {shown}.")
    raise_all(problems)
    return cls(**values)


def _parse(field: dataclasses.Field, given: Any) -> Any:
    """The value that a flag's text stands for; text that does not parse is left for the check to name."""
    kind = field.metadata["kind"]
    try:
        if kind.many:
            return [kind.parse(text) for text in given]
        return given if isinstance(given, bool) else kind.parse(given)
    except ValueError:
        return given


def _text(value: Any) -> str:
    """A default as a user would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return str(value)


def _metavar(kind: Kind) -> str:
    return {TEXT.says: "TEXT", INTEGER.says: "N", NUMBER.says: "X", INTEGERS.says: "N", NUMBERS.says: "X"}[kind.says]
