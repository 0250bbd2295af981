"""Rows of comparisons with few shots -> one table, and what must be said beside it."""

from collections.abc import Mapping, Sequence

from apt_peft.comparison.settings import CompareSettings
from apt_peft.comparison.table import Row, laid_out, with_interval


def shots_table(rows: Mapping[int, Sequence[Row]], *, markdown: bool = False) -> list[str]:
    """Top-1 of each contender, and its difference to the reference, by shots.

    Args:
        rows: of the contenders by shots, the same contenders in the same order.
        markdown: a Markdown table, else aligned columns.

    Returns:
        Lines.
    """
    cells = [["method", "", *(f"{shots} of each class" for shots in rows)]]
    for place, first in enumerate(next(iter(rows.values()))):
        of_method = [several[place] for several in rows.values()]
        tops = [with_interval(row.top1, row.low, row.high, "") for row in of_method]
        cells.append([first.name, "top-1 (%)", *tops])
        apart = [
            f"{with_interval(row.difference, row.difference_low, row.difference_high, '+')} {row.verdict}"
            if row.difference is not None
            else row.verdict
            for row in of_method
        ]
        cells.append(["", "difference to the reference", *apart])
    return laid_out(cells, markdown=markdown)


def shots_notes(settings: CompareSettings) -> list[str]:
    """How the numbers of few shots came to be.

    Args:
        settings: of the comparison.
    """
    return [
        f"Each of {settings.seeds} seeds draws its clips anew, larger draws holding the smaller ones, and trains "
        f"{settings.shot_steps} steps. Rates were chosen for each number of shots, by training on a draw and scoring all clips "
        "that are held out for validation: more labels than the shots, the same for all contenders.",
        f"Intervals ({settings.level:.0%}): seeds (with their draws) and test clips drawn again, {settings.samples} times. Of "
        "many comparisons at this level, some differ by chance. Tables of each number of shots are in shots-*/table.md.",
    ]
