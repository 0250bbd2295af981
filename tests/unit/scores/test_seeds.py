"""Intervals of means over seeds, against every outcome of the draws written out."""

import itertools

import numpy as np
import pytest
import torch
from helpers import raises_exactly

from apt_peft.comparison.table import verdict, with_interval
from apt_peft.errors import DataError
from apt_peft.scores.seeds import bootstrap_seeds, correct


def every_outcome(right, other=None):
    """The statistic of each way to draw seeds and clips, all equally likely."""
    parts = [np.array(part) for part in (right, other) if part is not None]
    clips = parts[0].shape[1]
    found = []
    for drawn in itertools.product(range(clips), repeat=clips):
        draws = [itertools.product(range(len(part)), repeat=len(part)) for part in parts]
        for seeds in itertools.product(*draws):
            means = [100 * part[list(chosen)][:, list(drawn)].mean() for part, chosen in zip(parts, seeds, strict=True)]
            found.append(means[0] - (means[1] if len(means) > 1 else 0))
    return np.array(found)


ONE = [[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]]
TWO = [[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("other", [None, TWO])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_is_that_of_all_draws(other, level):
    outcomes = every_outcome(ONE, other)
    tensor = None if other is None else torch.tensor(other, dtype=torch.float64)
    value, interval = bootstrap_seeds(torch.tensor(ONE, dtype=torch.float64), tensor, level=level, samples=40_000)
    assert value == pytest.approx(100 * (np.mean(ONE) - (0 if other is None else np.mean(TWO))))
    assert value == pytest.approx(outcomes.mean())
    # The share of all outcomes below and above: what the ends of the interval must leave out.
    rest = (1 - level) / 2
    assert np.mean(outcomes < interval.low - 1e-9) <= rest + 0.01
    assert np.mean(outcomes <= interval.low + 1e-9) >= rest - 0.01
    assert np.mean(outcomes > interval.high + 1e-9) <= rest + 0.01
    assert np.mean(outcomes >= interval.high - 1e-9) >= rest - 0.01


def test_one_seed_is_the_bootstrap_of_clips_alone():
    right = torch.tensor([[1.0] * 60 + [0.0] * 40], dtype=torch.float64)
    value, interval = bootstrap_seeds(right, samples=20_000)
    assert value == pytest.approx(60)
    assert interval.low == pytest.approx(60 - 1.96 * 4.9, abs=1.1)
    assert interval.high == pytest.approx(60 + 1.96 * 4.9, abs=1.1)


def test_seeds_that_differ_widen_it():
    alike = torch.tensor([[1.0, 0.0] * 50] * 2, dtype=torch.float64)
    apart = torch.cat([torch.ones(1, 100), torch.zeros(1, 100)]).double()
    (_, narrow), (_, wide) = bootstrap_seeds(alike), bootstrap_seeds(apart)
    assert wide.high - wide.low == 100 > 3 * (narrow.high - narrow.low)


def test_the_same_against_itself_differs_by_nothing_in_one_seed():
    right = torch.tensor(ONE[:1], dtype=torch.float64)
    value, interval = bootstrap_seeds(right, right)
    assert (value, interval.low, interval.high) == (0, 0, 0)


def test_groups_are_drawn_whole():
    # Two videos of ten clips each: all right, all wrong. Single clips would hide how little that is.
    right = torch.tensor([[1.0] * 10 + [0.0] * 10], dtype=torch.float64)
    _, whole = bootstrap_seeds(right, groups=["a"] * 10 + ["b"] * 10)
    assert (whole.low, whole.high) == (0, 100)
    _, single = bootstrap_seeds(right)
    assert 0 < single.low < single.high < 100


def test_the_first_of_equal_scores_is_the_prediction():
    scores = [torch.tensor([[0.5, 0.5], [0.2, 0.8]]), torch.tensor([[0.4, 0.6], [0.9, 0.1]])]
    assert correct(scores, torch.tensor([1, 1])).tolist() == [[0, 1], [1, 0]]


def test_what_cannot_be_drawn():
    right = torch.ones(1, 4, dtype=torch.float64)
    with raises_exactly(DataError, "scores (4 and 3 clips) must be of the same clips to be compared."):
        bootstrap_seeds(right, right[:, :3])
    message = (
        "groups (1) must be two or more to draw from, but one tells nothing of others. "
        "Leave the groups out, or score more clips."
    )
    with raises_exactly(DataError, message):
        bootstrap_seeds(right, groups=["a"] * 4)


def test_an_end_that_is_zero_but_for_rounding_is_zero():
    """Equal sums of hits in another order differ by 1e-14 points, which is no significant difference."""
    generator = torch.Generator().manual_seed(0)
    seen = 0
    for _ in range(300):
        one, two = ((torch.rand(3, 12, generator=generator) < share).double() for share in (0.7, 0.35))
        apart, interval = bootstrap_seeds(one, two, samples=200)
        if 0 < interval.low < 1e-9:
            seen += 1
            assert verdict(interval) == "no significant difference"
            assert "[+0.0, " in with_interval(apart, -interval.low, interval.high, "+")
    assert seen, "the draws must have such an end, or this test tests nothing"


@pytest.mark.parametrize(
    ("spread", "clips", "least", "most"), [(0.0, 115, 0, 5), (0.4, 115, 0, 10), (0.4, 800, 10, 30)]
)
def test_how_often_equals_are_told_different(spread, clips, least, most):
    """Three seeds: as good as never where seeds are alike, too often where they differ more than clips decide."""
    generator = torch.Generator().manual_seed(0)

    def right(hard):
        shift = spread * torch.randn(3, 1, generator=generator)  # 0.4 is 6 points
        return (torch.rand(3, clips, generator=generator) < torch.sigmoid(0.8 + hard + shift)).double()

    told = 0
    for _ in range(100):
        hard = 1.5 * torch.randn(1, clips, generator=generator)
        told += verdict(bootstrap_seeds(right(hard), right(hard), samples=200)[1]) != "no significant difference"
    assert least <= told <= most
