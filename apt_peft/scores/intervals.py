"""How sure a metric is: intervals from clips drawn again, or from groups of clips that belong together."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from apt_peft.errors import ConfigError, DataError
from apt_peft.scores.metric import Metric

METHODS = ("bca", "percentile", "basic")
SAMPLES = 2000
# Numbers drawn at a time: bounds the memory, 8 bytes each.
AT_ONCE = 4_000_000
NORMAL = NormalDist()
# Sums in another order differ in their last digits: values that are nearer are equal.
TINY = 1e-9


@dataclass(frozen=True)
class Interval:
    """Where a metric lies, as far as these clips can tell.

    Args:
        low: its lower end.
        high: its upper end.
        level: how often such intervals hold the true value, in 0..1.
        method: how it was made.
    """

    low: float
    high: float
    level: float
    method: str

    def holds(self, value: float) -> bool:
        """Whether a value lies in it, its ends included."""
        return self.low - TINY <= value <= self.high + TINY


def bootstrap(
    metric: Metric,
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    samples: int = SAMPLES,
    seed: int = 0,
    method: str | None = None,
) -> Interval:
    """An interval for one metric: see `bootstrap_all`."""
    return bootstrap_all({"": metric}, groups=groups, level=level, samples=samples, seed=seed, method=method)[""]


def bootstrap_all(
    metrics: Mapping[str, Metric],
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    samples: int = SAMPLES,
    seed: int = 0,
    method: str | None = None,
) -> dict[str, Interval]:
    """Intervals for metrics of the same clips, from clips drawn with replacement.

    `bca` (Efron 1987) corrects the quantiles for bias and skewness; `percentile` takes them as they are; `basic` mirrors them
    about the value, for metrics that resampling itself makes larger, as it does a calibration error, and then takes the value
    in. Where every draw gives the same number, as at 100 % correct, the interval has no width.

    Args:
        metrics: by name, all of the same clips in the same order.
        groups: what each clip belongs to, for example the video that it was cut from; whole groups are drawn then. None draws
            single clips.
        level: how often the intervals are to hold the true value, in 0..1.
        samples: draws.
        seed: of the draws.
        method: `bca`, `percentile` or `basic`; None is what suits each metric.

    Returns:
        An interval for each metric.

    Raises:
        ConfigError: an unknown method, a level that is none, or no samples.
        DataError: groups for other clips, or fewer than two of them.
    """
    if method not in (None, *METHODS):
        raise ConfigError(f"method ({method!r}) must be one of {', '.join(METHODS)}.")
    if not 0 < level < 1:
        raise ConfigError(f"level ({level}) must be above 0 and below 1, for example 0.95.")
    if samples < 1:
        raise ConfigError(f"samples ({samples}) must be at least 1.")
    parts = {name: by_group(metric.parts.double(), groups) for name, metric in metrics.items()}
    units = min(map(len, parts.values()))
    if units < 2:
        raise DataError(
            f"groups ({units}) must be two or more to draw from, but one tells nothing of others. "
            "Leave the groups out, or score more clips."
        )
    widths = [part.shape[1] for part in parts.values()]
    drawn: dict[str, list[Tensor]] = {name: [] for name in metrics}
    everything = torch.cat(list(parts.values()), dim=1)
    for counts in draws(units, samples, seed):
        for (name, metric), sums in zip(metrics.items(), (counts @ everything).split(widths, dim=1), strict=True):
            drawn[name].append(metric.of_sums(sums))
    return {
        name: _interval(metric, parts[name], torch.cat(drawn[name]), level, method or metric.interval)
        for name, metric in metrics.items()
    }


def by_group(parts: Tensor, groups: Sequence[Hashable] | None) -> Tensor:
    """Sums over groups.

    Args:
        parts: (clips, k) what each clip adds.
        groups: what each clip belongs to; None makes each clip its own.

    Returns:
        (groups, k).

    Raises:
        DataError: groups for other clips.
    """
    if groups is None:
        return parts
    if len(groups) != len(parts):
        raise DataError(f"groups ({len(groups)}) must be one for each clip, but there are {len(parts)} clips.")
    numbers: dict[Hashable, int] = {}
    place = torch.tensor([numbers.setdefault(group, len(numbers)) for group in groups])
    return parts.new_zeros(len(numbers), parts.shape[1]).index_add_(0, place, parts)


def draws(units: int, samples: int, seed: int) -> Iterator[Tensor]:
    """How often each unit was drawn, (some samples, units) at a time; the same numbers however many at a time.

    Args:
        units: to draw from, as many as there are of them each time.
        samples: draws.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, AT_ONCE // units)
    for start in range(0, samples, at_once):
        rows = min(at_once, samples - start)
        drawn = torch.randint(units, (rows, units), generator=generator)
        counts = torch.zeros(rows, units, dtype=torch.float64)
        yield counts.scatter_add_(1, drawn, torch.ones_like(counts))


def _interval(metric: Metric, parts: Tensor, drawn: Tensor, level: float, method: str) -> Interval:
    value = float(metric.of_sums(parts.sum(dim=0)))
    ends = [(1 - level) / 2, (1 + level) / 2]
    if method == "bca":
        ends = _corrected(metric, parts, drawn, value, ends)
    low, high = torch.quantile(drawn, torch.tensor(ends, dtype=drawn.dtype)).tolist()
    if method == "basic":
        low, high = min(value, 2 * value - high), max(value, 2 * value - low)
    return Interval(max(low, metric.lowest), high, level, method)


def _corrected(metric: Metric, parts: Tensor, drawn: Tensor, value: float, ends: list[float]) -> list[float]:
    """The quantiles of BCa; those that were given where it has none.

    Source: Efron, Better Bootstrap Confidence Intervals, 1987; ties count half.
    """
    # Sums in another order differ in their last digits: such draws are ties.
    near = 1e-9 * max(1.0, abs(value))
    below = float(((drawn < value - near).double() + 0.5 * ((drawn - value).abs() <= near).double()).mean())
    if not 0 < below < 1:
        return ends
    bias = NORMAL.inv_cdf(below)
    left_out = metric.of_sums(parts.sum(dim=0) - parts)
    apart = left_out.mean() - left_out
    spread = float(apart.square().sum()) ** 1.5
    skew = float(apart.pow(3).sum()) / (6 * spread) if spread > 0 else 0.0
    shifted = [bias + NORMAL.inv_cdf(end) for end in ends]
    if min(1 - skew * shift for shift in shifted) <= 0:
        return ends
    return [NORMAL.cdf(bias + shift / (1 - skew * shift)) for shift in shifted]
