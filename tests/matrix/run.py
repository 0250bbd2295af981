"""The tuner's and parity tests and PEFT's own, over versions of Python, torch, transformers and PEFT, in one command.

    python tests/matrix/run.py

A virtual environment for each Python is made under `.cache/matrix` (5 GB each, one at a time, deleted afterwards), the
versions are installed over each other, and the results go to `docs/results/matrix.jsonl` and, for PEFT's own tests, to
`docs/results/peft_suite.jsonl`. Cells that stand in the file without a failure are not run again, so a run that was
stopped goes on.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

import results
import venvs
from cells import ROOT, Cell, all_cells, bounds, requirements

TESTS = ("tests/unit/tuner", "tests/parity", "tests/peft_suite")
TOOLS = ("pytest>=8", "pytest-xdist>=3.5")


def main() -> int:
    options = _options()
    cells = [cell for cell in all_cells() if all(part in cell.name for part in options.only)]
    if options.list:
        print("\n".join(f"{cell.name}{'  (PEFT suite in full)' if cell.full else ''}" for cell in cells))
        return 0
    options.work.mkdir(parents=True, exist_ok=True)
    lines = results.read(options.out)
    waiting = [cell for cell in cells if options.again or cell.name not in lines or results.is_bad(lines[cell.name])]
    for index, cell in enumerate(waiting):
        print(f"[{index + 1}/{len(waiting)}] {cell.name}", flush=True)
        line = run_cell(cell, options)
        lines[cell.name] = line
        results.write(options.out, [lines[known.name] for known in all_cells() if known.name in lines])
        print(f"    {results.in_words(line)}, {line['seconds']:.0f} s", flush=True)
        shares_environment = waiting[index + 1 : index + 2]
        if not options.keep and (not shares_environment or _folder(shares_environment[0]) != _folder(cell)):
            shutil.rmtree(options.work / _folder(cell), ignore_errors=True)
    print("\n" + results.matrix_table([lines[cell.name] for cell in cells if cell.name in lines]))
    return int(any(results.is_bad(lines[cell.name]) for cell in cells))


def run_cell(cell: Cell, options: argparse.Namespace) -> dict:
    """Install a cell's versions, run the tests, and say how it ended."""
    started = time.monotonic()
    line = {"cell": cell.name, "python": cell.python, **dict(cell.versions), "full": cell.full, "done": False}
    python = venvs.interpreter(cell.python, options.python)
    if python is None:
        return line | {"problem": f"no Python {cell.python} on this machine", "seconds": 0.0}
    name = cell.name.replace(", ", "_").replace(" ", "-")
    log, report = options.work / f"{name}.log", options.work / f"{name}.xml"
    log.unlink(missing_ok=True)
    try:
        inside = venvs.make(python, options.work / _folder(cell), log)
        venvs.install(inside, [*TOOLS, *requirements(cell)], log)
        # what other versions of a library warn of is not an error here, as it is in CI
        pytest = [str(inside), "-m", "pytest", "-q", "-W", "default", "-n", str(options.processes)]
        venvs.run(
            [*pytest, "-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}", *options.tests],
            log,
            options.timeout,
            PYTHONPATH=str(ROOT),
            PEFT_SUITE="full" if cell.full else "quick",
        )
    except venvs.Failed as problem:
        return line | {"problem": str(problem), "seconds": round(time.monotonic() - started, 1)}
    line |= {"done": True, **results.counts(report), "installed": venvs.installed(inside, list(bounds()))}
    if cell.full:
        results.replace_suite(options.suite_out, dict(cell.versions)["peft"], results.suite(report, line))
    return line | {"seconds": round(time.monotonic() - started, 1)}


def _folder(cell: Cell) -> str:
    return f"venv-{cell.python}-torch-{cell.torch}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="cells with this in their name; repeat for 'and'")
    parser.add_argument("--list", action="store_true", help="say which cells there are, and stop")
    parser.add_argument("--again", action="store_true", help="run cells that stand in the result file, too")
    parser.add_argument("--python", action="append", default=[], help="interpreters to use, instead of those found")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    parser.add_argument("--processes", type=int, default=2, help="of pytest")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for the tests of one cell")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="what to run")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "matrix")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "matrix.jsonl")
    parser.add_argument("--suite-out", type=Path, default=ROOT / "docs" / "results" / "peft_suite.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
