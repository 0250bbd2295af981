"""Writes docs/compatibility.md: runs the tests of its table, keeps their results, and puts these into words.

    python tests/compatibility/write.py              # runs the tests: minutes
    python tests/compatibility/write.py --page-only  # the page from the results that are kept

Results: docs/results/compatibility.jsonl. PEFT's own tests and the version matrix have commands of their own; the page
shows what they left.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "matrix"), str(ROOT / "tests" / "compatibility")]

from columns import COLUMNS, Column  # noqa: E402

RESULTS = ROOT / "docs" / "results"
CELLS = RESULTS / "compatibility.jsonl"
PAGE = ROOT / "docs" / "compatibility.md"


# ---------------------------------------------------------------------------------------------------------- results


class Recorder:
    """A plugin of pytest that keeps, for each cell, what its tests came to."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], dict] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        parameters = getattr(item, "callspec", None) and item.callspec.params
        column = parameters and column_of(item.nodeid, parameters)
        if column and (report.when == "call" or not report.passed):
            key = (parameters["name"], column.title)
            cell = self.cells.setdefault(key, {"tests": 0, "failed": 0, "reason": None})
            cell["tests"] += report.when == "call"
            cell["failed"] += not report.passed
            cell["reason"] = dict(item.user_properties).get("reason", cell["reason"])
        return report


def column_of(nodeid: str, parameters: dict) -> Column | None:
    """The column that a test belongs to."""
    file, _, name = nodeid.partition("::")
    for column in COLUMNS:
        asked = column.parameters.items() <= {key: str(value) for key, value in parameters.items()}.items()
        if (column.file, column.test) == (file, name.partition("[")[0]) and asked:
            return column
    return None


def run() -> None:
    """Run the tests of all columns, and keep what they came to."""
    recorder = Recorder()
    tests = sorted({f"{column.file}::{column.test}" for column in COLUMNS})
    pytest.main(["-q", "--rootdir", str(ROOT), *tests], plugins=[recorder])
    kept = [
        json.dumps({"architecture": architecture, "ability": ability, **cell}) + "\n"
        for (architecture, ability), cell in sorted(recorder.cells.items())
    ]
    CELLS.write_text("".join(kept), encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------- page


def lines(path: Path) -> list[dict]:
    """The lines of a file of results."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_cells() -> dict[str, dict[str, dict]]:
    """Results by architecture and ability."""
    cells: dict[str, dict[str, dict]] = defaultdict(dict)
    for cell in lines(CELLS):
        cells[cell["architecture"]][cell["ability"]] = cell
    return cells


def architectures_table(cells: dict[str, dict[str, dict]]) -> str:
    """Rows of architectures in the order of tests/architectures.py, with footnotes for the cells that are empty."""
    from architectures import ARCHITECTURES

    notes: list[str] = []

    def text(cell: dict | None) -> str:
        if cell is None:
            return "not run"
        if cell["failed"]:
            return f"**{cell['failed']} of {cell['tests']} failed**"
        if cell["reason"] is None:
            return "yes"
        if cell["reason"] not in notes:
            notes.append(cell["reason"])
        return f"no ({notes.index(cell['reason']) + 1})"

    titles = [column.title for column in COLUMNS]
    rows = ["| architecture | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    for name in ARCHITECTURES:
        if name in cells:
            rows.append(f"| `{name}` | " + " | ".join(text(cells[name].get(title)) for title in titles) + " |")
    return "\n".join([*rows, "", *(f"({number}) {note}.  " for number, note in enumerate(notes, 1))]) + "\n"


def page() -> str:
    """The whole page."""
    from results import matrix_table, reasons_table, suite_table

    return f"""# Compatibility

Written by `python tests/compatibility/write.py` from the results of tests; not to be edited by hand.

## Architectures

Every architecture of `apt_peft/tuner/families.py`, as a tiny random model. Each "yes" is a test that passed; each "no" has its
reason, and a test that the reason still holds.

{architectures_table(read_cells())}
| column | what was tested | test |
|---|---|---|
{"".join(f"| {column.title} | {column.means} | `{column.file}::{column.test}` |" + chr(10) for column in COLUMNS)}
Results: `docs/results/compatibility.jsonl`. Not run: CUDA and other accelerators, NCCL, several machines; see
[on a GPU](gpu.md).

## PEFT's own tests

The tests that each release of PEFT brings along, with `AttentionPromptConfig`, on a tiny VideoMAE and on a custom model around
one, over default, list and regular-expression targets, `modules_to_save`, dropout and all reparameterizations
([how to run them](contributing.md)).

{suite_table(lines(RESULTS / "peft_suite.jsonl"))}
Results: `docs/results/peft_suite.jsonl`, of the full run that `tests/matrix/run.py` makes for each release. What is not run, or
ends otherwise than their test expects:

{reasons_table()}
## Versions

The tuner's tests, parity, and the quick part of PEFT's own, in an environment for each cell
([how to run it](contributing.md)). Results: `docs/results/matrix.jsonl`, by `python tests/matrix/run.py`.

{matrix_table(lines(RESULTS / "matrix.jsonl"))}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page-only", action="store_true", help="do not run the tests")
    if not parser.parse_args().page_only:
        run()
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
