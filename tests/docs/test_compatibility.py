"""The page of what works: as its script writes it, complete, and without a failure."""

import runpy

import pytest
from architectures import ARCHITECTURES
from pages import DOCS, ROOT


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(ROOT / "tests" / "compatibility" / "write.py"))


def test_the_page_is_what_its_script_makes_of_the_results(script):
    assert script["page"]() == (DOCS / "compatibility.md").read_text(encoding="utf-8")


def test_every_cell_has_its_result(script):
    cells = script["read_cells"]()
    titles = {column.title for column in script["COLUMNS"]}
    assert {name: set(row) for name, row in cells.items()} == dict.fromkeys(ARCHITECTURES, titles)
    assert not [(name, title) for name, row in cells.items() for title, cell in row.items() if cell["failed"]]
    assert all(cell["tests"] for row in cells.values() for cell in row.values())


def test_every_column_has_a_test(script):
    for column in script["COLUMNS"]:
        assert f"def {column.test}(" in (ROOT / column.file).read_text(encoding="utf-8")
