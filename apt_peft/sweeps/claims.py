"""Two claims of the paper, in words that follow from numbers: tuning made robust, and hundreds of prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

from apt_peft.scores.intervals import Interval
from apt_peft.sweeps.band import Difference

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"
HUNDRED = 100


@dataclass(frozen=True)
class Claim:
    """What the numbers say of a claim.

    Args:
        verdict: `confirmed`, `refuted` or `undecided`.
        text: sentences.
    """

    verdict: str
    text: str


@dataclass(frozen=True)
class Curve:
    """Accuracy over learning rates, summed up.

    Args:
        name: of the reparameterization.
        rates: of the grid, rising.
        top1: mean over seeds at each rate, in per cent.
        best_rate: where it is highest; of equals the lowest.
        best: accuracy there.
        best_low: lower end of its interval.
        best_high: upper end.
        width: decades of rates that come near the best.
        interval: of the width.
        low_open: whether they reach the lowest rate.
        high_open: whether they reach the highest rate.
        width_common: the same, near the best of all curves.
        interval_common: of that width.
        often_open: share of the draws in which they reach an end.
    """

    name: str
    rates: tuple[float, ...]
    top1: tuple[float, ...]
    best_rate: float
    best: float
    best_low: float
    best_high: float
    width: float
    interval: Interval
    low_open: bool
    high_open: bool
    width_common: float
    interval_common: Interval
    often_open: float

    @property
    def ends(self) -> str:
        """The ends of the grid that the range reaches, in words."""
        found = [
            f"the {word} rate ({rate:g})"
            for word, rate, is_open in (
                ("lowest", self.rates[0], self.low_open),
                ("highest", self.rates[-1], self.high_open),
            )
            if is_open
        ]
        return " and ".join(found)

    def shown(self) -> str:
        """Its width with its interval, for sentences and tables."""
        least = "at least " if self.ends else ""
        return f"{least}{self.width:.2f} decades {_ends(self.interval, 2)}"


def robust(with_it: Curve, without: Curve, apart: Difference, *, within: float, commonest: float) -> Claim:
    """Whether a reparameterization makes tuning of the learning rate more robust.

    Args:
        with_it: the curve with the reparameterization.
        without: the curve without one.
        apart: how much wider its range is.
        within: points below the best that count as good.
        commonest: share of the commonest class, in per cent.
    """
    claim = f"that reparameterization ({with_it.name}) makes tuning robust"
    numbers = (
        f"Rates over {with_it.shown()} come within {within:g} points of the best with it, and over {without.shown()} without; "
        f"the difference on this grid is {apart.value:+.2f} decades {_ends(apart.interval, 2, '+')}."
    )
    dull = [curve for curve in (with_it, without) if curve.best_low <= commonest]
    if dull:
        shown = " and ".join(f"{curve.best:.1f} % {_ends(curve, 1)} ({_name(curve)})" for curve in dull)
        return Claim(
            UNDECIDED,
            f"UNDECIDED for these clips, {claim}: the best of the grid, {shown}, is not surely above the {commonest:.1f} % of "
            "the commonest class, so there is nothing to tune. Train for more --epochs, or at other --lrs.",
        )
    if apart.surely_wider:
        return Claim(CONFIRMED, f"CONFIRMED for these clips, {claim}. {numbers}")
    if apart.surely_not_wider:
        how = "narrower" if apart.interval.high < 0 else "no wider"
        return Claim(REFUTED, f"REFUTED for these clips, {claim}: the range is {how}. {numbers}")
    # What would have decided, had the grid been wider.
    if ends := [curve for curve in (with_it, without) if curve.ends]:
        shown = " and ".join(f"{_name(curve)} reaches {curve.ends}" for curve in ends)
        lrs = _further(ends)
        return Claim(
            UNDECIDED,
            f"UNDECIDED for these clips, {claim}: the range {shown}, and nothing is known beyond. {numbers} Add {lrs} to --lrs.",
        )
    if apart.interval.holds(0.0):
        return Claim(
            UNDECIDED,
            f"UNDECIDED for these clips, {claim}: no significant difference. {numbers} More --seeds or clips would tell more.",
        )
    often = " and ".join(
        f"{100 * curve.often_open:.0f} % ({_name(curve)})" for curve in (with_it, without) if curve.often_open > 0
    )
    return Claim(
        UNDECIDED,
        f"UNDECIDED for these clips, {claim}: in {often} of the draws the range reaches an end of the grid. {numbers} Add rates "
        "to --lrs.",
    )


@dataclass(frozen=True)
class Enough:
    """The fewest prompts that come near the best.

    Args:
        method: the contender.
        prompts: P that were run, rising.
        fewest: the smallest of them whose accuracy is near the best of all.
        interval: of it.
        best: P of the highest accuracy; of equals the smallest.
        top1: accuracy there, in per cent.
        low: lower end of its interval.
        high: upper end.
    """

    method: str
    prompts: tuple[int, ...]
    fewest: int
    interval: Interval
    best: int
    top1: float
    low: float
    high: float


def hundreds(enough: Enough, *, within: float, commonest: float) -> Claim:
    """Whether hundreds of prompts are needed.

    Args:
        enough: what was found.
        within: points below the best that count as near.
        commonest: share of the commonest class, in per cent.
    """
    claim = "that videos need hundreds of prompts"
    numbers = (
        f"{enough.method} comes within {within:g} points of its best (P = {enough.best}) from P = {enough.fewest} "
        f"[{enough.interval.low:.0f}, {enough.interval.high:.0f}] on, of {', '.join(map(str, enough.prompts))}."
    )
    if enough.prompts[-1] < HUNDRED or enough.prompts[0] >= HUNDRED:
        return Claim(
            UNDECIDED,
            f"UNDECIDED for these clips, {claim}: --prompts must have numbers below and from {HUNDRED} on. {numbers}",
        )
    if enough.low <= commonest:
        return Claim(
            UNDECIDED,
            f"UNDECIDED for these clips, {claim}: the best of {enough.method}, {enough.top1:.1f} % [{enough.low:.1f}, "
            f"{enough.high:.1f}], is not surely above the {commonest:.1f} % of the commonest class. Train for more --epochs.",
        )
    more = ""
    if enough.best == enough.prompts[-1]:
        more = " The best is the largest P: still more may be better."
    if enough.interval.low >= HUNDRED:
        return Claim(CONFIRMED, f"CONFIRMED for these clips, {claim}. {numbers}{more}")
    if enough.interval.high < HUNDRED:
        return Claim(REFUTED, f"REFUTED for these clips, {claim}: fewer than {HUNDRED} are enough. {numbers}{more}")
    return Claim(
        UNDECIDED, f"UNDECIDED for these clips, {claim}. {numbers}{more} More --seeds or clips would tell more."
    )


def _name(curve: Curve) -> str:
    return "without" if curve.name == "none" else f"with {curve.name}"


def _further(curves: Sequence[Curve]) -> str:
    lowest, highest = curves[0].rates[0], curves[0].rates[-1]
    rates = [lowest / 10] if any(curve.low_open for curve in curves) else []
    rates += [highest * 10] if any(curve.high_open for curve in curves) else []
    return " and ".join(f"{rate:g}" for rate in rates)


def _ends(interval: Interval | Curve, digits: int, sign: str = "") -> str:
    low, high = (
        (interval.best_low, interval.best_high) if isinstance(interval, Curve) else (interval.low, interval.high)
    )
    return f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
