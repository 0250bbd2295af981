"""`apt-peft recipes`: the settings of published runs, as a list, one by one, and as TOML for `train --config`."""

import argparse
import json
from dataclasses import asdict, dataclass
from typing import Any

from apt_peft import settings
from apt_peft.settings import SWITCH, TEXT, Settings, nearest, plain, setting
from apt_peft.training.recipes import RECIPES, Recipe

EXAMPLE = """examples:
  apt-peft recipes
  apt-peft recipes show ucf101-vit-small-p400
  apt-peft recipes show ucf101-vit-small-p400 --toml > run.toml
"""


@dataclass(frozen=True, kw_only=True)
class RecipesSettings(Settings):
    """Every flag of `apt-peft recipes`.

    Raises:
        ConfigError: values that break their rules, all named at once.
    """

    action: str | None = setting(TEXT, "show: every value of one recipe", None, positional=True, metavar="show")
    name: str | None = setting(TEXT, "the recipe to show", None, positional=True, metavar="NAME")
    json: bool = setting(SWITCH, "print JSON", False)
    toml: bool = setting(SWITCH, "print TOML that train --config takes", False)

    def conflicts(self) -> list[str]:
        """Values that are fine alone and not together."""
        problems = []
        if self.action not in (None, "show"):
            write = f" Write: apt-peft recipes show {self.action}." if self.action in RECIPES else ""
            problems.append(f"action ({self.action!r}) must be show.{write or nearest(str(self.action), ['show'])}")
        elif self.action is not None and self.name is None:
            problems.append("name must be given. Add the name of a recipe: apt-peft recipes lists them.")
        if self.name is not None and self.name not in RECIPES:
            problems.append(
                f"name ({self.name!r}) must be a recipe's, but there is none of this name.{nearest(self.name, list(RECIPES))} "
                "apt-peft recipes lists them."
            )
        if self.toml and (self.json or self.name is None):
            problems.append(
                "toml (True) must be of one recipe and without json: a file of settings holds one. Name it: "
                "apt-peft recipes show NAME --toml."
            )
        return problems


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, RecipesSettings)


def run(args: argparse.Namespace) -> int:
    """Print recipes.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        ConfigError: there is no recipe of the given name, or flags do not go together.
    """
    flags = settings.from_arguments(RecipesSettings, vars(args))
    if flags.name is None:
        recipes = list(RECIPES.values())
        print(json.dumps([recipe.as_dict() for recipe in recipes], indent=2) if flags.json else listed(recipes))
    elif flags.json:
        print(json.dumps(RECIPES[flags.name].as_dict(), indent=2))
    else:
        print(to_toml(RECIPES[flags.name]) if flags.toml else shown(RECIPES[flags.name]))
    return 0


def listed(recipes: list[Recipe]) -> str:
    """A table with a line for each recipe, and the sources below it."""
    head = ("recipe", "data set", "classes", "backbone", "prompts", "rate", "epochs", "clips a step", "views", "kind")
    rows = [head, *map(_row, recipes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    sources = dict.fromkeys(f"{recipe.kind}: {recipe.source}" for recipe in recipes)
    return "\n".join([*lines, "", *sources, "Rates are given for 256 clips a step, and scaled with them."])


def shown(recipe: Recipe) -> str:
    """Where a recipe is from, what it is for, and every value."""
    facts = _facts(recipe) + [(name, _toml_value(value)) for name, value in plain(recipe.settings).items()]
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in facts)


def to_toml(recipe: Recipe) -> str:
    """A recipe as a file for `train --config`, with its name, so that run.json records what is changed in it."""
    comments = [f"# {name}: {value}" for name, value in _facts(recipe)[1:]]
    values = [f"{name} = {_toml_value(value)}" for name, value in plain(recipe.settings).items()]
    return "\n".join([*comments, f'recipe = "{recipe.name}"', *values])


def _facts(recipe: Recipe) -> list[tuple[str, str]]:
    backbone = "any"
    if recipe.backbone is not None:
        sizes = {name: value for name, value in asdict(recipe.backbone).items() if name != "name"}
        backbone = f"{recipe.backbone.name} ({', '.join(f'{name} {value}' for name, value in sizes.items())})"
    return [
        ("recipe", recipe.name),
        ("kind", recipe.kind),
        ("source", recipe.source),
        ("data set", recipe.data_set + ("" if recipe.classes is None else f", {recipe.classes} classes")),
        ("backbone", backbone),
    ]


def _row(recipe: Recipe) -> tuple[str, ...]:
    values = recipe.settings
    linear = values.get("method") == "linear"
    rate = values.get("head_lr" if linear else "lr")
    return (
        recipe.name,
        recipe.data_set,
        _text(recipe.classes),
        "any" if recipe.backbone is None else recipe.backbone.name,
        "none" if linear else _text(values.get("num_prompt_tokens")),
        _text(rate),
        _text(values.get("epochs")),
        _text(recipe.clips_per_step),
        f"{values.get('segments', 1)} x {values.get('crops', 1)}",
        recipe.kind,
    )


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def _toml_value(value: Any) -> str:
    """A setting as TOML writes it: JSON does the same for text, numbers, switches and lists of them."""
    return json.dumps(value)
