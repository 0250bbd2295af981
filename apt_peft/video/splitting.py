"""A stratified split that keeps groups whole: arithmetic on counts, no files.

A part is what a split or a fold gets. What is made small, in this order:

1. the number of classes that parts lack, as far as a class has groups enough for all parts;
2. the sum of (count - wanted count)^2 / (clips of the class) over parts and classes, and the same over the sizes of the parts.

Groups are placed one after another where they cost least, large ones first (by powers of two, within these in an order drawn from
the seed); a class that has just enough groups left for the parts that lack it goes to those. Then single groups move, and
pairs of groups that hold the same classes change places, while that costs less. The best of three orders is taken. Time
grows linearly with clips, groups and parts.

Where each clip is a group, the result is the best there is. With larger groups this is a hard problem in general: the tests
compare with every possible split of small sets.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence

PASSES = 8
ATTEMPTS = 3
_EPSILON = 1e-9


def split_groups(
    groups: Sequence[str], labels: Sequence[Hashable], fractions: Sequence[float], *, seed: int = 0
) -> list[int]:
    """Part clips so that no group is in two parts and classes are spread as wanted.

    Args:
        groups: name of each clip's group.
        labels: class of each clip.
        fractions: what each part wants of the clips, in 0..1; their sum is 1.
        seed: of the order in which groups of like size are placed.

    Returns:
        The part of each clip, from 0. It depends on the groups and their counts by class alone, not on the order of the clips.
    """
    # Classes get numbers in an order that does not depend on that of the clips.
    numbers = {
        label: number for number, label in enumerate(sorted(set(labels), key=lambda label: (str(label), repr(label))))
    }
    held: dict[str, Counter[int]] = {}
    for group, label in zip(groups, labels, strict=True):
        held.setdefault(group, Counter())[numbers[label]] += 1
    counts = {group: sorted(held[group].items()) for group in held}
    drawn = {group: hashlib.sha256(f"{seed}\0{group}".encode("utf-8", "surrogatepass")).digest() for group in held}
    size = {group: sum(count for _, count in counts[group]) for group in held}
    best: tuple[tuple[int, float], dict[str, int]] | None = None
    for attempt in range(ATTEMPTS):
        # Another eight bytes of what was drawn make another order.
        order = sorted(held, key=lambda group: (-size[group].bit_length(), drawn[group][8 * attempt :], group))
        table = _Table([counts[group] for group in order], len(numbers), fractions)
        table.place_all()
        for _ in range(PASSES):
            if not table.improve():
                break
        if best is None or table.price() < best[0]:
            best = table.price(), dict(zip(order, table.part, strict=True))
    assert best is not None
    return [best[1][group] for group in groups]


def split_cost(parts: Sequence[int], labels: Sequence[Hashable], fractions: Sequence[float]) -> float:
    """How far a split is from what is wanted, the second of the two things that `split_groups` makes small.

    Args:
        parts: the part of each clip.
        labels: class of each clip.
        fractions: what each part wants.

    Returns:
        The cost, 0 for a perfect split.
    """
    classes, sizes, cells = Counter(labels), Counter(parts), Counter(zip(parts, labels, strict=True))
    total = len(labels)
    return sum(
        sum((cells[part, label] - fraction * count) ** 2 / count for label, count in classes.items())
        + (sizes[part] - fraction * total) ** 2 / total
        for part, fraction in enumerate(fractions)
    )


class _Table:
    """Counts of classes by part, and what it costs to change them."""

    def __init__(self, counts: list[list[tuple[int, int]]], classes: int, fractions: Sequence[float]) -> None:
        # The size of a part is one more class, which every clip has.
        self.counts = [[*own, (classes, sum(count for _, count in own))] for own in counts]
        self.parts = range(len(fractions))
        total = [0] * (classes + 1)
        self.groups_of = [0] * (classes + 1)
        for own in self.counts:
            for label, count in own:
                total[label] += count
                self.groups_of[label] += 1
        self.total = total
        self.wanted = [[fraction * count for count in total] for fraction in fractions]
        self.count = [[0] * (classes + 1) for _ in self.parts]
        # Groups of a class in a part: a part lacks the class where there are none.
        self.groups = [[0] * (classes + 1) for _ in self.parts]
        self.part = [-1] * len(counts)

    def place_all(self) -> None:
        left = list(self.groups_of)
        for group, own in enumerate(self.counts):
            lacking = [sum(not self.groups[part][label] for part in self.parts) for label, _ in own]
            best = min(
                self.parts, key=lambda part: (-self._filled(own, part, left, lacking), self._added(own, part), part)
            )
            self._put(group, best)
            for label, _ in own:
                left[label] -= 1

    def price(self) -> tuple[int, float]:
        """Classes that parts lack, and the cost, rounded so that the order of a sum does not decide."""
        lacking = sum(not groups for part in self.parts for groups in self.groups[part])
        costs = (
            (have - want) ** 2 / total
            for part in self.parts
            for have, want, total in zip(self.count[part], self.wanted[part], self.total, strict=True)
        )
        return lacking, round(sum(costs), 9)

    def improve(self) -> bool:
        """Move single groups, then exchange pairs; whether anything changed."""
        changed = False
        for group, own in enumerate(self.counts):
            here = self.part[group]
            self._take(group)
            back = self._price(own, here)
            best = min(self.parts, key=lambda part: (*self._price(own, part), part != here, part))
            price = self._price(own, best)
            if price[0] < back[0] or (price[0] == back[0] and price[1] < back[1] - _EPSILON):
                changed, here = True, best
            self._put(group, here)
        return self._exchange() or changed

    def _exchange(self) -> bool:
        """Of groups that hold the same classes, try each with the next of another part: a few tries a group, not all pairs."""
        changed = False
        alike: dict[tuple[int, ...], list[int]] = {}
        for group, own in enumerate(self.counts):
            alike.setdefault(tuple(label for label, _ in own), []).append(group)
        for found in alike.values():
            for place, first in enumerate(found):
                seen: set[tuple[int, tuple[int, ...]]] = set()
                for second in found[place + 1 : place + 1 + 4 * len(self.parts)]:
                    kind = (self.part[second], tuple(count for _, count in self.counts[second]))
                    if (
                        self.part[first] == self.part[second]
                        or kind in seen
                        or self.counts[first] == self.counts[second]
                    ):
                        continue
                    seen.add(kind)
                    changed |= self._swap(first, second)
        return changed

    def _swap(self, first: int, second: int) -> bool:
        one, other = self.part[first], self.part[second]
        before = self._cost_of(self.counts[first], one) + self._cost_of(self.counts[first], other)
        self._take(first)
        self._take(second)
        self._put(first, other)
        self._put(second, one)
        if self._cost_of(self.counts[first], one) + self._cost_of(self.counts[first], other) < before - _EPSILON:
            return True
        for group, part in ((first, one), (second, other)):
            self._take(group)
            self._put(group, part)
        return False

    def _filled(self, own: list[tuple[int, int]], part: int, left: list[int], lacking: list[int]) -> int:
        """Classes that this part lacks and that have no group to spare."""
        return sum(
            not self.groups[part][label] and left[label] <= lack for (label, _), lack in zip(own, lacking, strict=True)
        )

    def _price(self, own: list[tuple[int, int]], part: int) -> tuple[int, float]:
        """Of putting a group that is nowhere now: minus the classes that the part lacked, and the cost."""
        return -sum(not self.groups[part][label] for label, _ in own), self._added(own, part)

    def _added(self, own: list[tuple[int, int]], part: int) -> float:
        have, wanted = self.count[part], self.wanted[part]
        return sum(count * (2 * (have[label] - wanted[label]) + count) / self.total[label] for label, count in own)

    def _cost_of(self, own: list[tuple[int, int]], part: int) -> float:
        have, wanted = self.count[part], self.wanted[part]
        return sum((have[label] - wanted[label]) ** 2 / self.total[label] for label, _ in own)

    def _put(self, group: int, part: int) -> None:
        self.part[group] = part
        for label, count in self.counts[group]:
            self.count[part][label] += count
            self.groups[part][label] += 1

    def _take(self, group: int) -> None:
        part = self.part[group]
        for label, count in self.counts[group]:
            self.count[part][label] -= count
            self.groups[part][label] -= 1
