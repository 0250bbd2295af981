"""The table of docs/cost.md is that of its file, and the file that of the arithmetic as it is now."""

import json
import re

from pages import DOCS

from apt_peft.cost import VIT_S, multiply_adds, parameters, total

PAGE = (DOCS / "cost.md").read_text(encoding="utf-8")


def results(name: str) -> list[dict]:
    return [json.loads(line) for line in (DOCS / "results" / name).read_text(encoding="utf-8").splitlines()]


ROWS = results("cost.jsonl")
SHAPES = [row for row in ROWS if row["kind"] == "shapes"]


def cell(value, shown) -> str:
    return "-" if value is None else shown(value)


def test_the_table_is_that_of_the_file():
    page = PAGE.partition("File: `docs/results/cost.jsonl`")[0]
    lines = re.findall(r"^\| (.+) \|$", page, re.MULTILINE)[1:]
    table = [line.split(" | ") for line in lines]
    assert len(table) == len(SHAPES) >= 10
    for row, cells in zip(SHAPES, table, strict=True):
        ratios = [cell(row[name], lambda v: f"{v:.3f}x") for name in row if " / " in name]
        giga = [cell(row[name], lambda v: f"{v / 1e9:.2f} G") for name in ("forward", "step")]
        kept = cell(row["kept_bytes"], lambda v: f"{v / 2**20:.1f} MiB")
        wanted = [row["label"], f"{row['parameters']:,}", giga[0], ratios[0], giga[1], ratios[1], kept, ratios[2]]
        assert cells == wanted


def test_measured_cells_are_those_of_their_files():
    cells = set(re.findall(r"\| ([0-9.]+)x", PAGE.partition("## Measured")[2]))
    rows = results("cost_memory.jsonl") + results("attention_kept.jsonl")
    assert len(cells) >= 20
    assert all(any(abs(float(cell) - row["ratio"]) <= 0.00051 for row in rows) for cell in cells)


def test_the_file_is_that_of_the_arithmetic():
    for row in SHAPES:
        given = row["method"], row["size"] or 0, row["layers_to_transform"]
        parts = multiply_adds(VIT_S, *given)
        assert {name: list(work) for name, work in parts.items()} == row["multiply_adds"]
        assert row["forward"] == total(parts).forward
        assert row["step"] in (None, total(parts).step)
        assert row["parameters"] == parameters(VIT_S, *given)


def test_the_profile_of_a_step_is_that_of_its_file():
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    for row in results("step_profile.jsonl"):
        numbers = [row["ratio"], *row["parts"].values(), row["multiply_adds"]]
        assert " | ".join([f"| {row['label']}", *(f"{number:.2f}x" for number in numbers)]) + " |" in page
        assert abs(sum(row["parts"].values()) - row["ratio"]) < 0.03, "medians of parts, and of the whole"
