"""Widths of ranges of good rates, against numbers worked out by hand and against a fine grid of interpolated points."""

import math

import numpy as np
import pytest
import torch
from helpers import raises_exactly

from apt_peft.errors import ConfigError
from apt_peft.sweeps.band import Band, bands, difference

DECADE_APART = (0.01, 0.1, 1.0, 10.0)

# Accuracies -> decades within 2 points of the best, whether the lowest and the highest rate are reached.
BY_HAND = {
    "a plateau": ([50, 70, 70, 50], 0.1 + 1 + 0.1, False, False),
    "a peak": ([0, 80, 40, 0], 2 / 80 + 2 / 40, False, False),
    "a dip is left out, what lies beside it is added": ([70, 60, 70, 30], 2 / 10 + 2 / 10 + 2 / 40, True, False),
    "a small dip is not": ([20, 70, 68.5, 70], 2 / 50 + 2, False, True),
    "just within": ([40, 48, 50, 10], 1 + 2 / 40, False, False),
    "just without": ([40, 47, 50, 10], 2 / 3 + 2 / 40, False, False),
    "to the lowest": ([70, 69, 50, 40], 1 + 1 / 19, True, False),
    "to the highest": ([0, 0, 60, 60], 2 / 60 + 1, False, True),
    "flat": ([30, 30, 30, 30], 3, True, True),
    "nothing right": ([0, 0, 0, 0], 3, True, True),
    "best at the end": ([0, 0, 0, 50], 2 / 50, False, True),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    accuracy, width, low, high = BY_HAND[name]
    found = bands(DECADE_APART, torch.tensor(accuracy, dtype=torch.float64))
    assert float(found.width) == pytest.approx(width, abs=1e-9)
    assert (bool(found.low_open), bool(found.high_open), bool(found.open)) == (low, high, low or high)


def test_rates_that_are_not_evenly_apart():
    found = bands((0.01, 0.02, 1.0), torch.tensor([70.0, 70.0, 50.0]))
    assert float(found.width) == pytest.approx(math.log10(2) + 0.1 * math.log10(50))


def test_from_another_best():
    accuracy = torch.tensor([[50.0, 70.0, 70.0, 50.0], [50.0, 64.0, 50.0, 0.0]])
    own, common = bands(DECADE_APART, accuracy), bands(DECADE_APART, accuracy, best=torch.tensor([70.0, 70.0]))
    assert own.width.tolist() == pytest.approx([1.2, 2 / 14 + 2 / 14])
    assert common.width.tolist() == pytest.approx([1.2, 0])
    assert common.open.tolist() == [False, False]


@pytest.mark.parametrize("within", [0.5, 2.0, 15.0])
def test_against_a_fine_grid(within):
    generator = np.random.default_rng(0)
    rates = np.sort(10 ** generator.uniform(-4, 2, 7))
    curves = generator.uniform(0, 100, (50, 7))
    found = bands(rates.tolist(), torch.tensor(curves), within=within).width
    x = np.linspace(np.log10(rates[0]), np.log10(rates[-1]), 200_001)
    for curve, width in zip(curves, found.tolist(), strict=True):
        near = np.interp(x, np.log10(rates), curve) >= curve.max() - within
        assert width == pytest.approx(near.mean() * (x[-1] - x[0]), abs=1e-3)


@pytest.mark.parametrize("rates", [(0.1,), (0.1, 0.1), (1.0, 0.1), (0.0, 1.0), (-1.0, 1.0)])
def test_rates_without_a_range(rates):
    shown = ", ".join(f"{rate:g}" for rate in rates)
    message = f"rates ({shown}) must be two or more above 0 that rise, for a range between them."
    with raises_exactly(ConfigError, message):
        bands(rates, torch.zeros(len(rates)))


def made(width, low=False, high=False):
    width = torch.tensor(width, dtype=torch.float64)
    return Band(width, torch.as_tensor(low).expand(width.shape), torch.as_tensor(high).expand(width.shape))


ONES, TWOS = [1.0] * 1000, [2.0] * 1000


def apart(one, other, drawn_one, drawn_other):
    return difference(one, other, drawn_one=drawn_one, drawn_other=drawn_other, level=0.95)


def test_what_is_sure():
    found = apart(made(2.0), made(1.0), made(TWOS), made(ONES))
    assert (found.value, found.interval.low, found.interval.high) == (1, 1, 1)
    assert (found.surely_wider, found.surely_not_wider) == (True, False)
    found = apart(made(1.0), made(2.0), made(ONES), made(TWOS))
    assert (found.surely_wider, found.surely_not_wider) == (False, True)
    found = apart(made(1.0), made(1.0), made(ONES), made(ONES))
    assert (found.surely_wider, found.surely_not_wider) == (False, True)


def test_an_open_range_may_be_wider_and_never_narrower():
    # The wider one is open: it is wider at least.
    assert apart(made(2.0, high=True), made(1.0), made(TWOS, high=True), made(ONES)).surely_wider
    # What is subtracted is open: it may be as wide.
    found = apart(made(2.0), made(1.0, low=True), made(TWOS), made(ONES, low=True))
    assert (found.surely_wider, found.surely_not_wider) == (False, False)
    # The narrower one is open: it may be as wide.
    found = apart(made(1.0, low=True), made(2.0), made(ONES, low=True), made(TWOS))
    assert (found.surely_wider, found.surely_not_wider) == (False, False)
    # Both fill the grid: nothing is known.
    found = apart(made(3.0, low=True), made(3.0, low=True), made([3.0] * 9, low=True), made([3.0] * 9, low=True))
    assert (found.surely_wider, found.surely_not_wider) == (False, False)


@pytest.mark.parametrize(("otherwise", "sure"), [(20, True), (30, False)])
def test_one_draw_in_forty_may_be_otherwise(otherwise, sure):
    some = torch.arange(1000) < otherwise
    assert apart(made(2.0), made(1.0), made(TWOS), made(ONES, low=some)).surely_wider == sure
    reversed_ones = torch.where(some, 3.0, 1.0).tolist()
    assert apart(made(2.0), made(1.0), made(TWOS), made(reversed_ones)).surely_wider == sure
    assert apart(made(1.0), made(2.0), made(ONES, high=some), made(TWOS)).surely_not_wider == sure
