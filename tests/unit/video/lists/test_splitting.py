"""The grouped split against every split there is, and what must hold for any clips."""

import itertools
import random
from collections import Counter, defaultdict

import pytest

from apt_peft.video.splitting import split_cost, split_groups

THIRDS = (1 / 3, 1 / 3, 1 / 3)


def drawn(seed: int, kind: str, groups: int) -> tuple[list[str], list[str]]:
    """Groups and classes of made-up clips: groups of one clip, of one class, or of several."""
    random_ = random.Random(seed)
    classes = [f"class {n}" for n in range(random_.choice([1, 2, 3]))]
    found = []
    for group in range(groups):
        own = random_.choice(classes)
        for _ in range(1 if kind == "single" else random_.randint(1, 6)):
            found.append((f"g{group}", random_.choice(classes) if kind == "mixed" and random_.random() < 0.3 else own))
    return [group for group, _ in found], [label for _, label in found]


def price(parts: list[int], labels: list[str], fractions: tuple[float, ...]) -> tuple[int, float]:
    """Classes that parts lack, and the sum of squares written out."""
    total, cost, lacking = len(labels), 0.0, 0
    for part, fraction in enumerate(fractions):
        for label, count in Counter(labels).items():
            here = sum(p == part and own == label for p, own in zip(parts, labels, strict=True))
            lacking += not here
            cost += (here - fraction * count) ** 2 / count
        cost += (parts.count(part) - fraction * total) ** 2 / total
    assert cost == pytest.approx(split_cost(parts, labels, fractions))
    return lacking, round(cost, 9)


def best(groups: list[str], labels: list[str], fractions: tuple[float, ...]) -> tuple[int, float]:
    """The price of the best of all splits, by trying each."""
    names = sorted(set(groups))
    place = [names.index(group) for group in groups]
    cells = Counter(zip(place, labels, strict=True))
    classes, total = Counter(labels), len(labels)
    sizes = Counter(place)
    found = []
    for tried in itertools.product(range(len(fractions)), repeat=len(names)):
        counts: dict = defaultdict(int)
        for (group, label), count in cells.items():
            counts[tried[group], label] += count
        cost = sum(
            (counts[part, label] - fraction * count) ** 2 / count
            for part, fraction in enumerate(fractions)
            for label, count in classes.items()
        )
        cost += sum(
            (sum(sizes[g] for g, p in enumerate(tried) if p == part) - fraction * total) ** 2 / total
            for part, fraction in enumerate(fractions)
        )
        lacking = sum(not counts[part, label] for part in range(len(fractions)) for label in classes)
        found.append((lacking, round(cost, 9)))
    return min(found)


@pytest.mark.parametrize(
    ("kind", "optimal", "excess"), [("single", 1.0, 0.0), ("one class", 0.85, 0.35), ("mixed", 0.75, 3.5)]
)
def test_against_every_split(kind, optimal, excess):
    """Never more classes lacking than need be; mostly the best cost, and never far from it."""
    hits, cases = 0, 40
    for seed in range(cases):
        fractions = [(0.8, 0.2), (0.7, 0.1, 0.2), THIRDS, (0.9, 0.1)][seed % 4]
        groups, labels = drawn(seed, kind, groups=6 if len(fractions) == 3 else 8)
        ours = price(split_groups(groups, labels, fractions, seed=seed), labels, fractions)
        lowest = best(groups, labels, fractions)
        assert ours[0] == lowest[0]
        assert ours[1] <= lowest[1] + excess
        hits += ours == lowest
    assert hits >= optimal * cases


@pytest.mark.parametrize("kind", ["single", "one class", "mixed"])
@pytest.mark.parametrize("fractions", [(0.8, 0.2), (0.7, 0.1, 0.2), (0.2,) * 5])
def test_what_holds_for_any_clips(kind, fractions):
    for seed in range(10):
        groups, labels = drawn(seed, kind, groups=30)
        parts = split_groups(groups, labels, fractions, seed=seed)
        # no group in two parts
        assert len(set(zip(groups, parts, strict=True))) == len(set(groups))
        assert set(parts) == set(range(len(fractions)))
        # in whatever order the clips are
        order = random.Random(seed).sample(range(len(groups)), len(groups))
        turned = split_groups([groups[i] for i in order], [labels[i] for i in order], fractions, seed=seed)
        assert turned == [parts[i] for i in order]
        if kind != "mixed":  # a class of groups enough is in every part
            held = Counter(label for _, label in set(zip(groups, labels, strict=True)))
            for label in (label for label, count in held.items() if count >= len(fractions)):
                assert {part for part, own in zip(parts, labels, strict=True) if own == label} == set(
                    range(len(fractions))
                )


def test_groups_of_one_clip_come_as_near_as_whole_clips_can():
    labels = [f"class {n % 7}" for n in range(700)]
    parts = split_groups([str(n) for n in range(700)], labels, (0.7, 0.1, 0.2))
    assert Counter(zip(labels, parts, strict=True)) == {
        (f"class {n}", part): count for n in range(7) for part, count in enumerate((70, 10, 20))
    }


def test_another_seed_is_another_split():
    labels = ["a", "b"] * 50
    groups = [str(n) for n in range(100)]
    splits = {tuple(split_groups(groups, labels, (0.5, 0.5), seed=seed)) for seed in range(20)}
    assert len(splits) == 20
    assert split_groups(groups, labels, (0.5, 0.5), seed=3) == split_groups(groups, labels, (0.5, 0.5), seed=3)


def test_the_split_is_the_same_on_every_machine():
    """Drawn from a digest, not from Python's or torch's generators."""
    parts = split_groups([f"g{n // 2}" for n in range(12)], ["a", "a", "b", "b"] * 3, (0.5, 0.25, 0.25), seed=1)
    assert parts == [1, 1, 1, 1, 2, 2, 0, 0, 0, 0, 2, 2]


def test_names_that_are_no_text_in_utf_8():
    parts = split_groups(["\udc80", "b", "c", "d"], [None, None, 1, 1], (0.5, 0.5))
    assert sorted(parts) == [0, 0, 1, 1]
