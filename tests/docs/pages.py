"""The pages of the documentation, and the blocks of code in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apt_peft.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
# The published backbone of the pages; in tests a tiny one lies in a folder of that name.
BACKBONE = "MCG-NJU/videomae-small-finetuned-kinetics"

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run: [^>]+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One block of code: its language, its text, why it is not run (or None), and the line it starts at."""

    language: str
    code: str
    not_run: str | None
    line: int


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["code"], found["mark"], text[: found.start("code")].count("\n") + 1)
        for found in _BLOCK.finditer(text)
    ]


def commands(code: str) -> list[str]:
    """The command lines of a bash block, continued lines joined, comments and empty lines left out."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def run_page(page: Path, place: Path, capsys) -> dict[str, Any]:
    """Run a page from top to bottom: Python in one namespace, `apt-peft` lines through the command line's own function.

    Args:
        page: of the documentation.
        place: the current folder, where TOML blocks are written to.
        capsys: pytest's, for messages.

    Returns:
        The names that its Python made.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.not_run or block.language == "text":
            continue
        where = f"{page.name}, line {block.line}"
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)
        elif block.language == "toml":
            found = re.match(r"# (\S+\.toml)\n", block.code)
            assert found, f"{where}: a TOML block begins with its file's name"
            (place / found[1]).write_text(block.code, encoding="utf-8")
        elif block.language == "bash":
            for line in commands(block.code):
                program, *words = shlex.split(line)
                assert program == "apt-peft", f"{where}: {line}"
                code = main(words)
                assert code == 0, f"{where}: {line}: exit code {code}: {capsys.readouterr()}"
    return names
