"""Simulated grids whose true curves are known: how often verdicts are wrong, and intervals hold the true width."""

import pytest
import torch

from apt_peft.scores.seeds import draw_means
from apt_peft.sweeps.band import bands, both_ways, difference
from apt_peft.sweeps.claims import hundreds
from apt_peft.sweeps.prompts import enough_of

RATES = (0.001, 0.0032, 0.01, 0.032, 0.1, 0.32, 1.0, 3.2, 10.0)
# True accuracies: three rates that are equally good; a peak.
WIDE = torch.tensor([30.0, 50.0, 70.0, 80.0, 80.0, 80.0, 70.0, 40.0, 12.0])
NARROW = torch.tensor([30.0, 50.0, 60.0, 70.0, 80.0, 70.0, 50.0, 20.0, 12.0])
SEEDS, LEVEL = 3, 0.95


def simulated(generator, clips, truth, difficulty):
    """(seeds, rates, clips) of 0 and 1: hard clips are hard throughout, and each run has luck of its own."""
    shape = (SEEDS, len(truth), clips)
    luck = truth[None, :, None] + 2 * torch.randn(*shape[:2], 1, generator=generator)
    own = 100 * torch.rand(shape, generator=generator)
    mixed = torch.where(torch.rand(shape, generator=generator) < 0.6, difficulty.expand(shape), own)
    return (mixed < luck).double()


def experiments(clips, one, other, count, seed=0):
    """Verdicts wider and not wider, and whether the interval of the one held its true width, of some experiments."""
    generator = torch.Generator().manual_seed(seed)
    true = float(bands(RATES, one).width)
    found = []
    for _ in range(count):
        difficulty = 100 * torch.rand(clips, generator=generator)
        right = [simulated(generator, clips, truth, difficulty) for truth in (one, other)]
        value = [bands(RATES, 100 * part.mean(dim=(0, 2))) for part in right]
        chunks = list(draw_means(right, samples=200))
        drawn = [bands(RATES, torch.cat([chunk[place] for chunk in chunks])) for place in (0, 1)]
        apart = difference(*value, drawn_one=drawn[0], drawn_other=drawn[1], level=LEVEL)
        width = both_ways(float(value[0].width), drawn[0].width, LEVEL, span=4.0)
        found.append((apart.surely_wider, apart.surely_not_wider, width.holds(true), true - float(value[0].width)))
    return torch.tensor(found, dtype=torch.float64).mean(dim=0).tolist()


@pytest.mark.parametrize("clips", [64, 400])
@pytest.mark.parametrize("curve", [WIDE, NARROW], ids=["wide", "narrow"])
def test_curves_that_are_alike_are_seldom_called_otherwise(clips, curve):
    wider, not_wider, _, _ = experiments(clips, curve, curve, 40)
    assert wider + not_wider <= 0.05


def test_curves_that_differ_are_told_apart_with_enough_clips_and_never_the_wrong_way():
    wider, not_wider, held, too_small = experiments(1500, WIDE, NARROW, 20)
    assert wider >= 0.8
    assert not_wider == 0
    assert held >= 0.8
    assert too_small > 0, "widths come out too small where several rates are as good"
    wider, not_wider, _, _ = experiments(1500, NARROW, WIDE, 20)
    assert not_wider >= 0.8
    assert wider == 0


PROMPTS = (1, 5, 20, 100, 200, 400)
FEW = torch.tensor([50.0, 65.0, 80.0, 80.0, 80.0, 80.0])
MANY = torch.tensor([50.0, 55.0, 60.0, 70.0, 80.0, 80.0])


def verdicts(clips, truth, count):
    """What is said of hundreds of prompts in some experiments."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        right = simulated(generator, clips, truth, 100 * torch.rand(clips, generator=generator))
        drawn = torch.cat([chunk[0] for chunk in draw_means([right], samples=200)])
        enough = enough_of("apt", PROMPTS, 100 * right.mean(dim=(0, 2)), drawn, within=2.0, level=LEVEL)
        assert PROMPTS[0] <= enough.interval.low <= enough.fewest <= enough.interval.high <= PROMPTS[-1]
        found.append(hundreds(enough, within=2.0, commonest=12.5).verdict)
    return found


@pytest.mark.parametrize("clips", [64, 400])
def test_few_prompts_that_are_enough_are_not_called_too_few(clips):
    assert verdicts(clips, FEW, 40).count("confirmed") <= 2


def test_hundreds_are_told_with_enough_clips():
    found = verdicts(1500, MANY, 20)
    assert found.count("confirmed") >= 16
    assert "refuted" not in found
