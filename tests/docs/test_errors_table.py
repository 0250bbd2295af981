"""Every row of docs/errors.md: its test exists, and what the row quotes stands in that test's file."""

import ast
import re
from functools import cache

import pytest
from pages import DOCS, ROOT

TEXT = (DOCS / "errors.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (?!case |---)(.+) \| `(.+)` \| `(\S+)::(\w+)` \|$", TEXT, re.MULTILINE)
SUBJECTS = ["Settings of the method", "Where prompts go", "Weight files", "Backbones and adapters", "The Hub"]
SUBJECTS += ["Clips and lists", "Arguments"]
MATCHES_WHOLE = re.compile(r"raises_exactly|refused\(|refused_by_all\(|_fails\(|assert .* == ")


def test_there_are_enough_rows_and_each_is_read():
    lines = [line for line in TEXT.splitlines() if line.startswith("|") and not re.match(r"\| case |\|---", line)]
    assert len(ROWS) == len(lines) >= 30
    assert re.findall(r"^## (.+)$", TEXT, re.MULTILINE) == SUBJECTS
    assert len({(case, test) for case, _, _, test in ROWS}) == len(ROWS)


@cache
def parsed(file: str) -> ast.Module:
    return ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))


@cache
def texts(file: str) -> tuple[str, ...]:
    """All texts of a test file; what an f-string fills in is left open."""
    tree = parsed(file)
    found = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values))
    return tuple(text.replace("\n", " ") for text in found)


@pytest.mark.parametrize(("case", "message", "file", "test"), ROWS, ids=[row[0][:40] for row in ROWS])
def test_row(case, message, file, test):
    functions = {node.name: node for node in ast.walk(parsed(file)) if isinstance(node, ast.FunctionDef)}
    assert test in functions, f"{file} has no {test}"
    assert MATCHES_WHOLE.search(ast.unparse(functions[test])), f"{test} matches no whole message"
    for part in filter(None, (part.strip() for part in message.split("…"))):
        assert any(part in text for text in texts(file)), f"{file} does not say {part!r}"
