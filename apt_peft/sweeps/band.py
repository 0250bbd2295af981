"""How wide the range of good learning rates is, in decades; arithmetic only.

The accuracy between two rates of the grid lies on the straight line between theirs, over the logarithm of the rate. The
width is the length of all rates whose accuracy is at most so many points below the best of the grid: where the accuracy
dips between, the parts are added. Beyond the grid nothing is known: a range that reaches the lowest or the highest rate
is at least as wide as its width.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apt_peft.errors import ConfigError
from apt_peft.scores.intervals import Interval
from apt_peft.scores.seeds import percentiles

# Accuracies that differ by less are rounding.
TINY = 1e-9


@dataclass(frozen=True)
class Band:
    """The ranges of good rates of some curves: tensors, an entry a curve.

    Args:
        width: decades.
        low_open: whether the range reaches the lowest rate of the grid.
        high_open: whether it reaches the highest.
    """

    width: Tensor
    low_open: Tensor
    high_open: Tensor

    @property
    def open(self) -> Tensor:
        """Whether the range reaches an end of the grid, so that it may be wider."""
        return self.low_open | self.high_open


def bands(rates: Sequence[float], accuracy: Tensor, *, within: float = 2.0, best: Tensor | None = None) -> Band:
    """The range of rates of each curve that come within some points of its best.

    Args:
        rates: of the grid, rising.
        accuracy: (..., rates) in per cent.
        within: points below the best that still count.
        best: (...,) to measure from; None is each curve's own.

    Returns:
        The ranges, (...,) each.

    Raises:
        ConfigError: fewer than two rates, or rates that do not rise.
    """
    if len(rates) < 2 or any(not 0 < low < high for low, high in itertools.pairwise(rates)):
        raise ConfigError(
            f"rates ({', '.join(f'{rate:g}' for rate in rates)}) must be two or more above 0 that rise, for a range between them."
        )
    decades = torch.tensor([math.log10(rate) for rate in rates], dtype=torch.float64)
    top = accuracy.amax(dim=-1) if best is None else best
    above = accuracy.double() - (top[..., None] - within) + TINY
    left, right = above[..., :-1], above[..., 1:]
    upper, lower = torch.maximum(left, right), torch.minimum(left, right)
    # Of a segment that crosses the line, the part on the upper end's side.
    share = torch.where(lower >= 0, 1.0, torch.where(upper < 0, 0.0, upper / (upper - lower).clamp_min(TINY)))
    return Band((share * decades.diff()).sum(dim=-1), above[..., 0] >= 0, above[..., -1] >= 0)


@dataclass(frozen=True)
class Difference:
    """How much wider one range is than another.

    Args:
        value: decades, on the grid.
        interval: of it, on the grid.
        surely_wider: whether it is so at the level asked for, whatever lies beyond the grid.
        surely_not_wider: whether it is no wider at that level, whatever lies beyond the grid.
    """

    value: float
    interval: Interval
    surely_wider: bool
    surely_not_wider: bool


def difference(one: Band, other: Band, *, drawn_one: Band, drawn_other: Band, level: float) -> Difference:
    """How much wider one range is than another, with what is known of both.

    A range that reaches the grid's end has no upper bound. So in each draw the true difference has a lower bound, which is
    minus infinity where the other range reaches an end, and an upper bound, infinite where the one does.

    Args:
        one: a range.
        other: what is subtracted.
        drawn_one: (draws,) of the one, from seeds and clips drawn again.
        drawn_other: of the other, in the same draws.
        level: how often the interval is to hold the true value, in 0..1.

    Returns:
        The difference.
    """
    value = float(one.width - other.width)
    drawn = drawn_one.width - drawn_other.width
    interval = both_ways(value, drawn, level)
    rest = (1 - level) / 2
    # As many draws as an interval leaves out on a side may be otherwise.
    wider = (drawn > TINY) & ~drawn_other.open
    not_wider = (drawn <= TINY) & ~drawn_one.open
    return Difference(
        value,
        interval,
        bool(not other.open and interval.low > 0 and (~wider).double().mean() <= rest),
        bool(not one.open and interval.high <= TINY and (~not_wider).double().mean() <= rest),
    )


def both_ways(value: float, drawn: Tensor, level: float, *, span: float | None = None) -> Interval:
    """The interval of a width or of a difference: the percentile interval and its mirror image about the value, together.

    A drawn curve is rougher than the one that it was drawn from, and its best too good, so draws are narrower than the value,
    as the value is than the truth: the percentile interval misses wide truths, its mirror image (the basic bootstrap) decides
    too soon. `tests/unit/sweeps/test_sure.py` simulates it.

    Args:
        value: of the clips and seeds as they are.
        drawn: (draws,) of it.
        level: how often each of the two is to hold the true value, in 0..1.
        span: decades of the grid, for a width: it lies in 0..span.
    """
    found = percentiles(drawn, level)
    low, high = min(found.low, 2 * value - found.high), max(found.high, 2 * value - found.low)
    if span is not None:
        low, high = max(low, 0.0), min(high, span)
    return Interval(low, high, level, "percentile and basic")
