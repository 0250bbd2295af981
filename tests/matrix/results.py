"""Reports of pytest to lines of result files, and these to tables in Markdown.

    python tests/matrix/results.py

prints the tables.
"""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "peft_suite"))

MANY = 20  # failed tests that are named


# ------------------------------------------------------------------------------------------------- files of lines


def read(path: Path) -> dict[str, dict]:
    """Lines of the matrix by cell; empty where there is no file yet."""
    return {line["cell"]: line for line in _lines(path)}


def write(path: Path, lines: list[dict]) -> None:
    """Replace a file at once, so that a run that is stopped leaves a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    new.replace(path)


def replace_suite(path: Path, peft: str, lines: list[dict]) -> None:
    """Put a release's lines in the place of its former ones."""
    others = [line for line in _lines(path) if line["peft"] != peft]
    write(path, sorted([*others, *lines], key=lambda line: (line["peft"], line["file"], line["test"])))


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


# ---------------------------------------------------------------------------------------------- reports of pytest


def counts(report: Path) -> dict:
    """How many tests passed, failed and were skipped, and which failed."""
    outcomes = [(test, _outcome(test)) for test in _tests(report)]
    how = Counter(outcome for _, (outcome, _) in outcomes)
    failed = [f"{test.get('classname')}::{test.get('name')}" for test, (outcome, _) in outcomes if outcome == "failed"]
    return {name: how[name] for name in ("passed", "failed", "skipped")} | {"failures": failed[:MANY]}


def suite(report: Path, line: dict) -> list[dict]:
    """PEFT's own tests in a report: a line for each of their test methods."""
    found: dict[tuple[str, str], dict] = {}
    for test in _tests(report):
        where = re.search(r"peft_suite\.test_peft_(common|custom|config)", test.get("classname", ""))
        if where is None:
            continue
        file = {"common": "testing_common", "custom": "test_custom_models", "config": "test_config"}[where[1]]
        name = _their_name(test.get("name", ""))
        if name is None:
            continue
        versions = {package: line[package] for package in ("python", "torch", "transformers")}
        entry = found.setdefault(
            (file, name),
            {"peft": line["peft"], **versions, "file": file, "test": name}
            | {"passed": 0, "failed": 0, "skipped": 0, "reasons": {}},
        )
        outcome, message = _outcome(test)
        entry[outcome] += 1
        if outcome == "skipped":
            entry["reasons"][message] = entry["reasons"].get(message, 0) + 1
    return list(found.values())


def _their_name(name: str) -> str | None:
    common = re.match(r"test_common\[(_test\w+)", name)
    if common:
        return common[1]
    return None if name.startswith("test_every_method") else name.partition("[")[0]


def _tests(report: Path) -> Iterator[ElementTree.Element]:
    return ElementTree.parse(report).getroot().iter("testcase")


def _outcome(test: ElementTree.Element) -> tuple[str, str]:
    for tag, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        element = test.find(tag)
        if element is not None:
            return outcome, element.get("message") or ""
    return "passed", ""


# --------------------------------------------------------------------------------------------------------- tables


def in_words(line: dict) -> str:
    """How a cell ended."""
    if not line["done"]:
        return line["problem"]
    words = f"{line['passed']} passed, {line['failed']} failed, {line['skipped']} skipped"
    return words + "".join(f"\n        {name}" for name in line["failures"])


def is_bad(line: dict) -> bool:
    """Whether a cell was not run, or has failures."""
    return not line["done"] or line["failed"] > 0


def matrix_table(lines: list[dict]) -> str:
    """The version matrix.

    Args:
        lines: of `docs/results/matrix.jsonl`.

    Returns:
        A Markdown table: a row for each Python and torch, a column for each pair of transformers and PEFT.
    """
    columns = sorted({_pair(line) for line in lines}, key=_as_numbers, reverse=True)
    rows = sorted({(line["python"], line["torch"]) for line in lines}, key=_as_numbers)
    table = [["Python", "torch", *(f"transformers {t}, peft {p}" for t, p in columns)]]
    for row in rows:
        cells = {_pair(line): line for line in lines if (line["python"], line["torch"]) == row}
        table.append([*row, *(_short(cells.get(column)) for column in columns)])
    return _markdown(table)


def suite_table(lines: list[dict]) -> str:
    """PEFT's own tests by release.

    Args:
        lines: of `docs/results/peft_suite.jsonl`.

    Returns:
        A Markdown table.
    """
    table = [["peft", "their tests", "tests with our settings", "passed", "failed", "skipped, each for a reason below"]]
    for peft in sorted({line["peft"] for line in lines}, key=_numbers):
        of = [line for line in lines if line["peft"] == peft]
        sums = [sum(line[outcome] for line in of) for outcome in ("passed", "failed", "skipped")]
        table.append([peft, len(of), sum(sums), *sums])
    return _markdown(table)


def reasons_table() -> str:
    """Why some of PEFT's tests do not pass: `tests/peft_suite/reasons.py`.

    Returns:
        A Markdown table.
    """
    from reasons import NOT_RUN, ROWS, SKIPS_ITSELF

    endings = {NOT_RUN: "not run", SKIPS_ITSELF: "skips itself"}
    table = [["file", "tests", "when", "how it ends", "reason"]]
    for row in ROWS:
        names = ", ".join(f"`{name}`" for name in row.tests)
        ends = endings.get(row.ends_in) or f"`{row.ends_in.__name__}`"
        table.append([f"`{row.file}`", names, row.where, ends, row.reason])
    return _markdown(table)


def _short(line: dict | None) -> str:
    if line is None:
        return ""
    if not line["done"]:
        return line["problem"]
    return f"{line['passed']} passed" + (f", **{line['failed']} failed**" if line["failed"] else "")


def _pair(line: dict) -> tuple[str, str]:
    return line["transformers"], line["peft"]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _as_numbers(versions: tuple[str, ...]) -> list[list[int]]:
    return [_numbers(version) for version in versions]


def _markdown(table: list[list]) -> str:
    rows = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in table]
    return "\n".join([rows[0], "|" + "---|" * len(table[0]), *rows[1:]]) + "\n"


if __name__ == "__main__":
    folder = Path(__file__).parents[2] / "docs" / "results"
    print(matrix_table(_lines(folder / "matrix.jsonl")))
    print(suite_table(_lines(folder / "peft_suite.jsonl")))
    print(reasons_table())
