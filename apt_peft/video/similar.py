"""Which videos show the same: small pictures of each, compared where a search by halves finds them close."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Small pictures of a video, evenly over its length, and their side in pixels.
LOOKS, SIDE = 16, 16
# Two videos are alike when the pictures of each lie this close to the course of the other, as the root of the mean square
# over pixels, in deviations of the pictures' brightness. Measured: docs/benchmarks.md, near-duplicates.
ALIKE = 0.14
# Part of the pictures that must: a trimmed copy lacks some.
_PART = 0.8
# How far apart the summaries of two videos may lie that are compared.
_REACH = 0.22
# Dimensions that are searched by, and the size at which all of a group are compared with each other.
_DIMENSIONS, _FEW = 24, 48
# In a group that nothing tells apart each is compared with so many others.
_NEIGHBOURS = 32
# Pictures with less contrast, in grey levels, show nothing that could be alike.
_CONTRAST = 4.0


def find_alike(looks: "Sequence[np.ndarray | None]") -> list[list[int]]:
    """Find videos that show the same: encoded again, resized, brighter or darker, or with a little cut off.

    The time grows as n log n with the number of videos, unless most of them look the same.

    Args:
        looks: of each video uint8 (T, 384), pictures evenly over its length: 16 x 16 brightness and two times 8 x 8 colour, as in
            yuv420p; None is like no other.

    Returns:
        Groups of two or more, as indices in order. A video is like one of its group, not always like all.
    """
    import numpy as np

    places = [index for index, look in enumerate(looks) if look is not None and len(look) > 1 and _contrast(look)]
    courses = [_course(looks[index]) for index in places]
    if len(courses) < 2:
        return []
    summaries = np.stack([np.concatenate([c.mean(0), c.std(0)]) / c.shape[1] ** 0.5 for c in courses])
    groups = list(range(len(places)))

    def root(index: int) -> int:
        while groups[index] != index:
            groups[index] = index = groups[groups[index]]
        return index

    for first, second in _close(summaries):
        if root(first) != root(second) and distance(courses[first], courses[second]) <= ALIKE:
            groups[root(first)] = root(second)
    found: dict[int, list[int]] = {}
    for index, place in enumerate(places):
        found.setdefault(root(index), []).append(place)
    return sorted(group for group in found.values() if len(group) > 1)


def distance(first: "np.ndarray", second: "np.ndarray") -> float:
    """How far two videos lie apart.

    Args:
        first: float (T, D), the course of one: its pictures, in deviations of their brightness.
        second: of the other, which may have another number of pictures.

    Returns:
        The distance that most pictures of each keep to the course of the other.
    """
    import numpy as np

    return max(float(np.quantile(_to_course(*pair), _PART)) for pair in ((first, second), (second, first)))


def _contrast(look: "np.ndarray") -> bool:
    return float(look[:, : SIDE**2].std()) >= _CONTRAST


def _course(look: "np.ndarray | None") -> "np.ndarray":
    """Pictures as points, alike for other brightness, contrast and tint of the whole video."""
    import numpy as np

    assert look is not None
    points = look.astype("float32")
    bright = points[:, : SIDE**2]
    deviation = bright.std()
    for plane in np.split(points, [SIDE**2, SIDE**2 + (SIDE // 2) ** 2], axis=1):
        plane -= plane.mean()
    # Colour is stored more coarsely, and shifted by some encoders.
    points[:, SIDE**2 :] /= 2
    return points / deviation


def _to_course(points: "np.ndarray", course: "np.ndarray") -> "np.ndarray":
    """Distance (T,) of each point to the nearest stretch between two points that follow each other."""
    import numpy as np

    starts, steps = course[:-1], np.diff(course, axis=0)
    lengths = (steps**2).sum(1) + 1e-6
    away = points[:, None] - starts  # (T, stretches, D)
    along = np.clip(np.einsum("tsd,sd->ts", away, steps) / lengths, 0, 1)
    square = (away**2).mean(2) - (2 * along * np.einsum("tsd,sd->ts", away, steps) - along**2 * lengths) / course.shape[
        1
    ]
    return np.sqrt(np.maximum(square.min(1), 0))


def _close(summaries: "np.ndarray") -> list[tuple[int, int]]:
    """Pairs of rows that lie within reach of each other, found by halving again and again with an overlap."""
    import numpy as np

    centred = summaries - summaries.mean(0)
    # The directions in which videos differ most. Rows never lie farther apart in fewer dimensions, so none is lost.
    sample = centred[:: max(1, len(centred) // 1000)]
    axes = np.linalg.svd(sample, full_matrices=False)[2][:_DIMENSIONS]
    points = (centred @ axes.T).astype("float32")
    pairs: set[tuple[int, int]] = set()
    waiting = [np.arange(len(points))]
    while waiting:
        rows = waiting.pop()
        inside = points[rows]
        spreads = np.ptp(inside, axis=0)
        widest = int(spreads.argmax())
        values = inside[:, widest]
        middle = float(np.median(values))
        low, high = rows[values <= middle + _REACH], rows[values > middle]
        if len(rows) > _FEW and max(len(low), len(high)) <= 0.9 * len(rows):
            waiting += [low, high]
            continue
        order = rows[np.argsort(values, kind="stable")]
        span = len(order) - 1 if len(rows) <= 4 * _FEW else _NEIGHBOURS
        for step in range(1, span + 1):
            ahead, behind = order[:-step], order[step:]
            near = ((points[ahead] - points[behind]) ** 2).sum(1) <= _REACH**2
            pairs.update((int(min(a, b)), int(max(a, b))) for a, b in zip(ahead[near], behind[near], strict=True))
    return sorted(pairs)
