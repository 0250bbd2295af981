"""The command of the version matrix, and the results that are committed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import results
import venvs
from cells import ROOT, all_cells, bounds, newest, oldest, requirements

RESULTS = ROOT / "docs" / "results"


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]


def test_cells_span_what_the_package_asks_for_and_what_it_was_tested_with():
    cells = all_cells()
    assert len({cell.name for cell in cells}) == len(cells)
    for package in ("torch", "transformers", "peft"):
        tried = {dict(cell.versions)[package] for cell in cells}
        assert {oldest()[package], newest()[package]} <= tried, package
    everything_old = cells[-1]
    assert requirements(everything_old) == [f"{package}=={version}" for package, version in oldest().items()]
    assert f"accelerate>={bounds()['accelerate']}" in requirements(cells[0])


def test_a_report_becomes_counts_and_lines(tmp_path):
    """A real report of pytest, with the names that PEFT's tests have."""
    (tmp_path / "peft_suite").mkdir()
    (tmp_path / "peft_suite" / "test_peft_config.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_to_dict(n): assert n == 1\n"
        "def test_copy(): pytest.skip('no | copies')\n"
    )
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "peft_suite"]
    code = venvs.run(["env", f"--chdir={tmp_path}", *command], tmp_path / "log", 60)
    assert code == 1
    counts = results.counts(report)
    assert {name: counts[name] for name in ("passed", "failed", "skipped")} == {"passed": 1, "failed": 1, "skipped": 1}
    assert counts["failures"] == ["peft_suite.test_peft_config::test_to_dict[2]"]

    cell = {"peft": "0.21.0", "python": "3.11", "torch": "2.14.1", "transformers": "5.23.0"}
    found = {line["test"]: line for line in results.suite(report, cell)}
    assert (found["test_to_dict"]["passed"], found["test_to_dict"]["failed"]) == (1, 1)
    assert found["test_copy"]["reasons"] == {"no | copies": 1}
    out = tmp_path / "suite.jsonl"
    results.replace_suite(out, "0.21.0", list(found.values()))
    results.replace_suite(out, "0.20.0", [found["test_copy"] | {"peft": "0.20.0"}])
    results.replace_suite(out, "0.21.0", [found["test_copy"]])
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["peft"] for line in written] == ["0.20.0", "0.21.0"]
    assert results.suite_table(written).splitlines()[2] == "| 0.20.0 | 1 | 1 | 0 | 0 | 1 |"


def test_a_cell_that_hangs_is_ended_with_its_children(tmp_path):
    started = tmp_path / "child"
    script = f"import subprocess, sys; subprocess.run(['sh', '-c', 'echo $$ > {started}; exec sleep 60'])"
    with pytest.raises(venvs.Failed, match="took longer than 2 s"):
        venvs.run([sys.executable, "-c", script], tmp_path / "log", 2)
    child = started.read_text().strip()
    assert any(_has_ended(child) or time.sleep(0.1) for _ in range(50))


def _has_ended(process: str) -> bool:
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or ") Z " in state.read_text()  # a zombie waits to be counted only


def test_an_interpreter_of_another_version_is_not_taken():
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert venvs.interpreter(here, [sys.executable]) == sys.executable
    assert venvs.interpreter("3.1", [sys.executable]) is None


def test_the_matrix_that_is_committed_has_no_failure():
    table = lines("matrix.jsonl")
    assert {line["python"] for line in table} == {"3.10", "3.11", "3.12", "3.13"}
    assert [results.in_words(line) for line in table if results.is_bad(line)] == []
    assert "failed" not in results.matrix_table(table)


def test_peft_suite_that_is_committed_has_no_failure_and_a_reason_for_each_skip():
    from reasons import ROWS

    table = lines("peft_suite.jsonl")
    assert {line["peft"] for line in table} >= {"0.20.0", "0.21.0"}
    assert [line["test"] for line in table if line["failed"]] == []
    given = {reason for line in table for reason in line["reasons"]}
    assert given <= {row.reason for row in ROWS}
    listed = {test for row in ROWS for test in row.tests}
    assert {line["test"] for line in table if line["skipped"]} <= listed
    assert all(f"`{test}`" in results.reasons_table() for test in listed)


def test_the_command_lists_its_cells():
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "matrix" / "run.py", "--list", "--only", "3.12"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [cell.name for cell in all_cells() if cell.python == "3.12"]
