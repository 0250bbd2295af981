"""What is said of constructed results: clips that are right by design, drawn again as real ones are."""

from dataclasses import replace

import pytest
import torch

from apt_peft.scores.intervals import Interval
from apt_peft.sweeps.cells import Outcomes
from apt_peft.sweeps.claims import Enough, hundreds, robust
from apt_peft.sweeps.grids import RobustnessPlan
from apt_peft.sweeps.prompts import fewest
from apt_peft.sweeps.robustness import curves_of
from apt_peft.sweeps.settings import RobustnessSettings
from apt_peft.training.settings import TrainSettings

RATES, CLIPS, SEEDS = (0.001, 0.01, 0.1, 1.0, 10.0), 400, 3
OWN = {"model": "m", "data": "d", "out": "o"}


def right(per_cent, seed):
    """So many per cent of the clips, others for each seed and number."""
    order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(17 * seed))
    found = torch.zeros(CLIPS, dtype=torch.float64)
    found[order[: round(CLIPS * per_cent / 100)]] = 1
    return found


def said(with_it, without, *, commonest=12.5, **changes):
    """Curve with, curve without, difference and claim of results that come out at these accuracies over `RATES`."""
    settings = RobustnessSettings(**OWN, lrs=RATES, seeds=SEEDS, samples=500, **changes)
    plan = RobustnessPlan(settings, TrainSettings(**OWN), [], None, None)
    cells = plan.first()
    found = {
        cell: right(accuracy, cell.seed)
        for name, curve in (("max", with_it), ("none", without))
        for row in cells[name]
        for cell, accuracy in zip(row, curve, strict=True)
    }
    outcomes = Outcomes(found, frozenset(), list(range(CLIPS)), commonest, 8)
    curves, differences = curves_of(plan, cells, outcomes)
    claim = robust(curves["max"], curves["none"], differences["max"], within=2.0, commonest=commonest)
    return curves["max"], curves["none"], differences["max"], claim


WIDE, NARROW = (20, 80, 80, 80, 20), (20, 40, 80, 40, 20)
CLAIM = "that reparameterization (max) makes tuning robust"


def numbers(one, two, apart):
    def shown(curve):
        least = "at least " if curve.low_open or curve.high_open else ""
        return f"{least}{curve.width:.2f} decades [{curve.interval.low:.2f}, {curve.interval.high:.2f}]"

    return (
        f"Rates over {shown(one)} come within 2 points of the best with it, and over {shown(two)} without; the difference on "
        f"this grid is {apart.value:+.2f} decades [{apart.interval.low:+.2f}, {apart.interval.high:+.2f}]."
    )


def test_the_numbers_are_those_of_the_curves():
    one, two, apart, _ = said(WIDE, NARROW)
    assert one.top1 == pytest.approx(WIDE)
    assert one.width == pytest.approx(2 / 60 + 2 + 2 / 60)
    assert two.width == pytest.approx(2 / 40 + 2 / 40)
    assert apart.value == pytest.approx(one.width - two.width)
    assert (one.best, one.best_rate, two.best_rate) == (pytest.approx(80), 0.01, 0.1)
    assert one.best_low < 80 < one.best_high
    assert one.interval.low <= one.width <= one.interval.high
    lower = replace(one, top1=())
    assert lower.ends == ""
    assert two.width_common == pytest.approx(two.width)


def test_confirmed():
    one, two, apart, claim = said(WIDE, NARROW)
    assert (claim.verdict, claim.text) == (
        "confirmed",
        f"CONFIRMED for these clips, {CLAIM}. {numbers(one, two, apart)}",
    )


def test_refuted():
    one, two, apart, claim = said(NARROW, WIDE)
    assert claim.verdict == "refuted"
    assert claim.text == f"REFUTED for these clips, {CLAIM}: the range is narrower. {numbers(one, two, apart)}"


def test_refuted_where_there_is_surely_no_difference():
    same = Interval(0.0, 0.0, 0.95, "percentile")
    one, two, apart, _ = said(WIDE, WIDE)
    apart = replace(apart, value=0.0, interval=same, surely_wider=False, surely_not_wider=True)
    claim = robust(one, two, apart, within=2.0, commonest=12.5)
    assert claim.text == f"REFUTED for these clips, {CLAIM}: the range is no wider. {numbers(one, two, apart)}"


def test_undecided_where_the_interval_holds_nothing():
    one, two, apart, claim = said((20, 60, 80, 60, 20), (20, 61, 80, 59, 20))
    assert apart.interval.holds(0)
    assert claim.verdict == "undecided"
    expected = (
        f"UNDECIDED for these clips, {CLAIM}: no significant difference. {numbers(one, two, apart)} More --seeds or clips would "
        "tell more."
    )
    assert claim.text == expected


@pytest.mark.parametrize(
    ("with_it", "without", "shown", "lrs"),
    [
        (WIDE, (20, 20, 40, 80, 80), "without reaches the highest rate (10)", "100"),
        ((80, 80, 40, 20, 20), WIDE, "with max reaches the lowest rate (0.001)", "0.0001"),
        (
            (80,) * 5, (80, 80, 40, 20, 20),
            "with max reaches the lowest rate (0.001) and the highest rate (10) and without reaches the lowest rate (0.001)",
            "0.0001 and 100",
        ),
    ],
)  # fmt: skip
def test_undecided_where_the_grid_ends_too_early(with_it, without, shown, lrs):
    one, two, apart, claim = said(with_it, without)
    assert claim.verdict == "undecided"
    expected = (
        f"UNDECIDED for these clips, {CLAIM}: the range {shown}, and nothing is known beyond. {numbers(one, two, apart)} Add "
        f"{lrs} to --lrs."
    )
    assert claim.text == expected


def test_an_open_range_that_is_wider_already_is_wider():
    one, _, _, claim = said((20, 80, 80, 80, 80), NARROW)
    assert one.high_open
    assert claim.verdict == "confirmed"
    assert "Rates over at least 3.03 decades" in claim.text


def test_undecided_where_some_draws_reach_the_end():
    _, two, apart, _ = said(WIDE, (20, 40, 80, 40, 20))
    one, two, apart, _ = said(WIDE, NARROW)
    two = replace(two, often_open=0.125)
    apart = replace(apart, surely_wider=False)
    claim = robust(one, two, apart, within=2.0, commonest=12.5)
    expected = (
        f"UNDECIDED for these clips, {CLAIM}: in 12 % (without) of the draws the range reaches an end of the grid. "
        f"{numbers(one, two, apart)} Add rates to --lrs."
    )
    assert (claim.verdict, claim.text) == ("undecided", expected)


def test_undecided_where_nothing_was_learned():
    one, _, _, claim = said((10, 11, 12, 11, 10), NARROW)
    assert claim.verdict == "undecided"
    expected = (
        f"UNDECIDED for these clips, {CLAIM}: the best of the grid, 12.0 % [{one.best_low:.1f}, {one.best_high:.1f}] (with max), "
        "is not surely above the 12.5 % of the commonest class, so there is nothing to tune. Train for more --epochs, or at "
        "other --lrs."
    )
    assert claim.text == expected


def test_a_reparameterization_that_is_worse_throughout_is_not_called_wide_for_it():
    one, two, *_ = said((20, 60, 60, 60, 20), NARROW)
    assert one.width > 2
    assert one.width_common == 0
    assert two.width_common == pytest.approx(two.width)


def enough(fewest, low, high, best=200, prompts=(1, 10, 100, 200)):
    return Enough("apt", prompts, fewest, Interval(low, high, 0.95, "percentile"), best, 60.0, 55.0, 65.0)


HUNDREDS = "that videos need hundreds of prompts"
OF = "of 1, 10, 100, 200"
SAYINGS = [
    (
        enough(100, 100, 200, best=100), "confirmed",
        f"CONFIRMED for these clips, {HUNDREDS}. apt comes within 2 points of its best (P = 100) from P = 100 "
        f"[100, 200] on, {OF}.",
    ),
    (
        enough(10, 1, 10, best=10), "refuted",
        f"REFUTED for these clips, {HUNDREDS}: fewer than 100 are enough. apt comes within 2 points of its best (P = 10) from "
        f"P = 10 [1, 10] on, {OF}.",
    ),
    (
        enough(10, 1, 10), "refuted",
        f"REFUTED for these clips, {HUNDREDS}: fewer than 100 are enough. apt comes within 2 points of its best (P = 200) from "
        f"P = 10 [1, 10] on, {OF}. The best is the largest P: still more may be better.",
    ),
    (
        enough(100, 10, 200, best=100), "undecided",
        f"UNDECIDED for these clips, {HUNDREDS}. apt comes within 2 points of its best (P = 100) from P = 100 "
        f"[10, 200] on, {OF}. "
        "More --seeds or clips would tell more.",
    ),
    (
        enough(10, 1, 10, best=10, prompts=(1, 10)), "undecided",
        f"UNDECIDED for these clips, {HUNDREDS}: --prompts must have numbers below and from 100 on. apt comes within 2 points of "
        "its best (P = 10) from P = 10 [1, 10] on, of 1, 10.",
    ),
    (
        enough(100, 100, 100, best=100, prompts=(100, 200)), "undecided",
        f"UNDECIDED for these clips, {HUNDREDS}: --prompts must have numbers below and from 100 on. apt comes within 2 points of "
        "its best (P = 100) from P = 100 [100, 100] on, of 100, 200.",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", SAYINGS, ids=[str(number) for number in range(len(SAYINGS))])
def test_hundreds_of_prompts(case):
    found, verdict, text = case
    claim = hundreds(found, within=2.0, commonest=12.5)
    assert (claim.verdict, claim.text) == (verdict, text)


def test_hundreds_of_prompts_where_nothing_was_learned():
    claim = hundreds(enough(1, 1, 10, best=10), within=2.0, commonest=55.0)
    expected = (
        f"UNDECIDED for these clips, {HUNDREDS}: the best of apt, 60.0 % [55.0, 65.0], is not surely above the 55.0 % of the "
        "commonest class. Train for more --epochs."
    )
    assert (claim.verdict, claim.text) == ("undecided", expected)


def test_the_fewest_prompts_that_come_near_the_best():
    accuracy = torch.tensor(
        [[50.0, 68.0, 60.0, 70.0], [70.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 50.0, 51.9, 54.0]]
    )
    prompts = torch.tensor([1.0, 10.0, 100.0, 400.0])
    assert fewest(accuracy, prompts, within=2.0).tolist() == [10, 1, 1, 400]
