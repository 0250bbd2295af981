"""How sure a mean over seeds is: seeds and clips are both drawn again."""

from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor

from apt_peft.errors import DataError
from apt_peft.scores.intervals import SAMPLES, Interval, by_group, draws
from apt_peft.scores.metric import places


def correct(results: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Which clips each seed has right.

    Args:
        results: (clips, labels) of each seed.
        targets: (clips,) the true labels.

    Returns:
        (seeds, clips) of 0 and 1, float64.
    """
    return torch.stack([(places(scores, targets) < 1).double() for scores in results])


def bootstrap_seeds(
    right: Tensor,
    other: Tensor | None = None,
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    samples: int = SAMPLES,
    seed: int = 0,
) -> tuple[float, Interval]:
    """A mean accuracy over seeds and clips, or the difference of two, with a percentile interval.

    In each draw, seeds are drawn with replacement, for each contender its own, and clips, for both the same. With few seeds the
    interval is too narrow in what it says of seeds: the spread of two or three tells little.

    Args:
        right: (seeds, clips) of 0 and 1.
        other: (its seeds, clips) of what is subtracted, of the same clips in the same order.
        groups: what each clip belongs to; whole groups are drawn.
        level: how often the interval is to hold the true value, in 0..1.
        samples: draws.
        seed: of the draws.

    Returns:
        Per cent, or points of difference, and the interval.

    Raises:
        DataError: other clips, or fewer than two to draw from.
    """
    both = [right] if other is None else [right, other]
    signs = (1.0, -1.0)
    value = sum(sign * 100 * float(part.mean()) for sign, part in zip(signs, both, strict=False))
    found = []
    for drawn in draw_means([part[:, None] for part in both], groups=groups, samples=samples, seed=seed):
        found.append(sum(sign * part[:, 0] for sign, part in zip(signs, drawn, strict=False)))
    return value, percentiles(torch.cat(found), level)  # type: ignore[arg-type]


def percentiles(drawn: Tensor, level: float) -> Interval:
    """The percentile interval of what was drawn.

    Args:
        drawn: (draws,) of a statistic.
        level: how often the interval is to hold the true value, in 0..1.
    """
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(drawn, ends).tolist()
    return Interval(low, high, level, "percentile")


def draw_means(
    several: Sequence[Tensor], *, groups: Sequence[Hashable] | None = None, samples: int = SAMPLES, seed: int = 0
) -> Iterator[list[Tensor]]:
    """Mean accuracies with seeds and clips drawn again: clips for all the same, seeds for each contender its own.

    Args:
        several: (its seeds, points, clips) of 0 and 1 for each contender, of the same clips in the same order. A seed is drawn
            with all its points, such as the rates that it was run at.
        groups: what each clip belongs to; whole groups are drawn.
        samples: draws.
        seed: of the draws.

    Returns:
        Some draws at a time: for each contender (draws, points) in per cent.

    Raises:
        DataError: other clips, or fewer than two to draw from.
    """
    clips = several[0].shape[2]
    if any(part.shape[2] != clips for part in several):
        raise DataError(
            f"scores ({' and '.join(str(part.shape[2]) for part in several)} clips) must be of the same clips to be compared."
        )
    # Sums over groups, the last row being the number of clips.
    flat = [part.flatten(0, 1) for part in several]
    rows = by_group(torch.cat([*flat, torch.ones(1, clips, dtype=torch.float64)]).T, groups).T
    if rows.shape[1] < 2:
        raise DataError(
            f"groups ({rows.shape[1]}) must be two or more to draw from, but one tells nothing of others. "
            "Leave the groups out, or score more clips."
        )
    generator = torch.Generator().manual_seed(seed + 1)
    for counts in draws(rows.shape[1], samples, seed):
        sums = counts @ rows.T
        accuracy = 100 * sums[:, :-1] / sums[:, -1:]
        found = []
        for part, drawn in zip(several, accuracy.split([len(part) for part in flat], dim=1), strict=True):
            seeds, points, _ = part.shape
            chosen = torch.randint(seeds, (len(counts), seeds, 1), generator=generator).expand(-1, -1, points)
            found.append(drawn.unflatten(1, (seeds, points)).gather(1, chosen).mean(dim=1))
        yield found
