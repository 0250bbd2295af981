"""Which learning rates to try next: four over three decades, further where the best is the last, then nearer to it.

A point has a rate for each axis: of the method's own parameters and of the head, or of the head alone. Arithmetic only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from apt_peft.comparison.many import FIRST

Point = tuple[float, ...]
LOW, HIGH = "low", "high"
# In decades: nearer rates are not tried.
NEAREST = 0.05


@dataclass(frozen=True, order=True)
class Score:
    """How good a point is: higher is better; of equal accuracies the smaller loss counts.

    Args:
        top1: per cent of the validation clips, mean over folds; minus infinity where training diverged.
        negative_loss: minus the validation loss, mean over folds.
    """

    top1: float = field(default=-math.inf)
    negative_loss: float = field(default=-math.inf)


def rounded(rate: float) -> float:
    """A rate as it is tried and shown: two digits, so that half-way between 0.032 and 0.32 is 0.1."""
    return float(f"{rate:.2g}")


def first_points(start: Point) -> list[Point]:
    """The rates to begin with: the first axis over three decades around its start, the others at theirs.

    Args:
        start: a rate for each axis.

    Returns:
        Four points, by rising rate.
    """
    return [(rounded(start[0] * 10 ** (place - (FIRST - 1) / 2)), *start[1:]) for place in range(FIRST)]


def best_point(tried: Mapping[Point, Score]) -> Point:
    """The best point; of equals the one with the lowest rates."""
    return max(tried, key=lambda point: (tried[point], tuple(-rate for rate in point)))


def side_of(tried: Mapping[Point, Score], axis: int) -> str | None:
    """The end of an axis at which the best point lies.

    Args:
        tried: points and their scores.
        axis: which.

    Returns:
        `low`, `high`, or None where it lies between others, or there is one rate alone.
    """
    rates = {point[axis] for point in tried}
    best = best_point(tried)[axis]
    if len(rates) == 1:
        return None
    return LOW if best == min(rates) else HIGH if best == max(rates) else None


def next_points(tried: Mapping[Point, Score], start: Point, budget: int) -> list[Point]:
    """What to try next; the points can be tried at the same time.

    Args:
        tried: points and their scores.
        start: a rate for each axis.
        budget: how many points may be tried in all.

    Returns:
        New points, none where the budget is spent.
    """
    if missing := [point for point in first_points(start) if point not in tried]:
        return missing
    left = budget - len(tried)
    if left < 1:
        return []
    best = best_point(tried)
    for axis in range(len(start)):
        if side := side_of(tried, axis):
            further = _at(best, axis, best[axis] * (0.1 if side == LOW else 10))
            if further not in tried:
                return [further]
        elif len({point[axis] for point in tried}) == 1 and left > 1:
            return [_at(best, axis, best[axis] * factor) for factor in (0.1, 10)]
    nearer = _between(tried, best)
    return [point for point in nearer if point not in tried][:left]


def _between(tried: Mapping[Point, Score], best: Point) -> list[Point]:
    """Points half-way to the neighbours of the best on the first axis, towards the better neighbour first."""
    found = []
    for below in (True, False):
        beside = [point for point in tried if (point[0] < best[0] if below else point[0] > best[0])]
        if not beside:
            continue
        rate = (max if below else min)(point[0] for point in beside)
        score = max(tried[point] for point in beside if point[0] == rate)
        if abs(math.log10(best[0] / rate)) > 2 * NEAREST:
            found.append((score, _at(best, 0, math.sqrt(best[0] * rate))))
    return [point for _, point in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _at(point: Point, axis: int, rate: float) -> Point:
    return (*point[:axis], rounded(rate), *point[axis + 1 :])
