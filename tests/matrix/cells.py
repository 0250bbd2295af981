"""Which versions are tried together; the oldest come from `setup.cfg`, the newest from `tests/constraints.txt`."""

import configparser
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MAIN_PYTHON = "3.11"  # on which every pair of versions is tried
LAST_FOR = {"3.10": {"transformers": "5.20.2"}}  # transformers asks for Python 3.11 from 5.21 on
MORE_PEFT = ("0.21.0",)  # between the oldest and the newest


class Cell(NamedTuple):
    """One combination."""

    python: str
    versions: tuple[tuple[str, str], ...]  # of packages to install, torch first
    full: bool = False  # whether all of PEFT's own tests are run, or the quick part

    @property
    def name(self) -> str:
        return f"python {self.python}, " + ", ".join(f"{package} {version}" for package, version in self.versions)

    @property
    def torch(self) -> str:
        return dict(self.versions)["torch"]


def bounds() -> dict[str, str]:
    """Lower bounds of `setup.cfg`, by package."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return dict(re.findall(r"^(\w+)>=([\d.]+)$", config["options"]["install_requires"], re.MULTILINE))


def oldest() -> dict[str, str]:
    """The same as versions that exist: `peft>=0.20` -> 0.20.0."""
    return {package: bound if bound.count(".") > 1 else f"{bound}.0" for package, bound in bounds().items()}


def requirements(cell: Cell) -> list[str]:
    """What pip is to install: a cell's versions, and `setup.cfg`'s bounds for the rest."""
    stated = dict(cell.versions)
    return [f"{p}=={stated[p]}" if p in stated else f"{p}>={bound}" for p, bound in bounds().items()]


def newest() -> dict[str, str]:
    """The versions that the tests were last run with."""
    pins = (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^(\w+)==([\d.]+)$", pins, re.MULTILINE))


def all_cells() -> list[Cell]:
    """Every cell, those that share an environment one after the other."""
    old = oldest()
    cells = []
    for python in PYTHONS:
        new = newest() | LAST_FOR.get(python, {})
        if python == MAIN_PYTHON:
            pairs = [
                (transformers, peft)
                for transformers in (new["transformers"], old["transformers"])
                for peft in (new["peft"], *MORE_PEFT, old["peft"])
            ]
        else:
            pairs = [(new["transformers"], new["peft"]), (old["transformers"], old["peft"])]
        cells += [
            Cell(
                python,
                (("torch", new["torch"]), ("transformers", transformers), ("peft", peft)),
                full=python == MAIN_PYTHON and transformers == new["transformers"],
            )
            for transformers, peft in pairs
        ]
    # everything at its lower bound, in an environment of its own
    cells.append(Cell(MAIN_PYTHON, tuple(old.items())))
    return cells
