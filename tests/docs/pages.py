"""The pages of the documentation, and the blocks of code in them."""

import re
from dataclasses import dataclass
from pathlib import Path

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
