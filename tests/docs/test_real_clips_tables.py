"""The tables of comparisons and of pruning on real clips say what the files of results say."""

import json

from pages import DOCS


def test_the_page_of_comparisons_has_what_its_file_has():
    page = (DOCS / "compare.md").read_text(encoding="utf-8")
    file = DOCS / "results" / "compare-yoga6-folds.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    contenders = [line for line in lines if line["kind"] == "contender"]
    assert len(contenders) == 5
    for line in contenders:
        (rate,) = line["rates"].values()
        top1 = f"{line['top1']:.1f} [{line['low']:.1f}, {line['high']:.1f}]"
        cost = f"{line['multiply_adds'] / 1e9:.3f} G | {line['ratios']['step']:.2f}x"
        assert f"| {line['name']} | {rate:g} | {line['beside_head']:,} | {cost} | {top1} | " in page
        if line["difference"] is not None:
            difference = f"{line['difference']:+.1f} [{line['difference_low']:+.1f}, {line['difference_high']:+.1f}]"
            assert f" | {top1} | {difference} {line['verdict']} |" in page


def test_the_page_of_pruning_has_what_its_file_has():
    page = (DOCS / "pruning.md").read_text(encoding="utf-8")
    lines = (DOCS / "results" / "prune-real.jsonl").read_text(encoding="utf-8").splitlines()
    cells: dict[tuple[str, str, float], list[dict]] = {}
    for row in map(json.loads, lines):
        cells.setdefault((row["set"], row["by"], row["kept"]), []).append(row)
    assert len(cells) == 2 * (1 + 4 * 3)

    def cell(*key):
        clips = sum(row["clips"] for row in cells[key])
        right = sum(row["correct"] for row in cells[key])
        loss = sum(row["loss"] * row["clips"] for row in cells[key]) / clips
        return f"{100 * right / clips:.1f} ({loss:.2f})"

    sets = ("yoga6", "basketball5")
    assert "| 1 | {} | | | {} | | |".format(*(cell(name, "attention", 1.0) for name in sets)) in page
    for kept in (0.5, 0.25, 0.1, 0.02):
        found = [cell(name, by, kept) for name in sets for by in ("attention", "removal", "random")]
        assert f"| {kept:g} | {' | '.join(found)} |" in page
