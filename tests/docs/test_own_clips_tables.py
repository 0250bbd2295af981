"""The tables of `own-clips` say what the files of results say."""

import json
from pathlib import Path
from statistics import mean

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "recipes.md").read_text()


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DOCS / "results" / name).read_text().splitlines()]


def cells(found: list[dict]) -> tuple[str, float, str]:
    """Each run's accuracy, their mean, and the mean loss as it is printed."""
    return (
        ", ".join(f"{row['top1']:.1f}" for row in found),
        mean(row["top1"] for row in found),
        f"{mean(row['loss'] for row in found):.3f}",
    )


@pytest.mark.parametrize("name", ["default", "own-clips"])
@pytest.mark.parametrize("clips", ["yoga6", "basketball5"])
def test_of_the_test_splits(clips, name):
    found = [row for row in rows("own-clips.jsonl") if row["name"] == name and row["test_clips"] == f"{clips}.test.csv"]
    each, top1, loss = cells(found)
    assert len(found) == 3
    assert f"| {each.replace(', ', ' | ')} | {top1:.1f} | {loss} |\n" in PAGE
    assert f"| {found[0]['trained_parameters']:,} |" in PAGE


@pytest.mark.parametrize("name", ["start-from-data", "preset-flip"])
@pytest.mark.parametrize("clips", ["yoga6", "basketball5"])
def test_of_earlier_designs(clips, name):
    found = [row for row in rows("own-clips.jsonl") if row["name"] == name and row["test_clips"] == f"{clips}.test.csv"]
    assert len(found) == 3
    assert f"{cells(found)[0]} on `{clips}`" in PAGE


def test_of_the_folds():
    runs: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows("own-clips-folds.jsonl"):
        runs.setdefault((row["set"], row["name"], row["precision"]), []).append(row)
    for (_, _, precision), found in runs.items():
        each, top1, loss = cells(found)
        many = {1: "(one fold)", 2: "(two folds)", 3: f"(mean {top1:.1f})"}[len(found)]
        assert any(f"| {precision} | " in line and f"| {each} {many} | {loss} |" in line for line in PAGE.splitlines())
        for row in found:
            assert len(row["held_out"]) == row["clips"]
