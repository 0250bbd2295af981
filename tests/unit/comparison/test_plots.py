"""Pictures of a comparison: contenders that lie at the same place can be told apart."""

import itertools
import random
import re

import pytest

from apt_peft.comparison.plots import draw_all, shifts
from apt_peft.comparison.table import Row
from apt_peft.sweeps.claims import Curve
from apt_peft.sweeps.plots import draw_rates


def row(name, parameters, top1):
    return Row(name, "", {}, {}, 100, parameters, 1000, 10**9, [top1], top1=top1, low=top1 - 5, high=top1 + 5)


@pytest.mark.parametrize("seed", range(5))
def test_neighbours_are_apart_and_none_moves_further_than_it_must(seed):
    drawn = random.Random(seed)
    places = [drawn.choice([drawn.uniform(0, 60), 20.0, 400.0 + 50 * number]) for number in range(9)]
    found = shifts(places, 7.0)
    now = sorted((place + shift, place) for place, shift in zip(places, found, strict=True))
    assert all(b - a >= 7 - 1e-6 for (a, _), (b, _) in itertools.pairwise(now))
    assert [place for _, place in now] == sorted(places), "in their order"
    for place, shift in zip(places, found, strict=True):
        if all(abs(place - other) > 70 for other in places if other != place) and places.count(place) == 1:
            assert shift == pytest.approx(0)
    assert sum(found) == pytest.approx(0, abs=1e-9), "a group stays about its middle"


def test_contenders_with_as_many_parameters(tmp_path):
    rows = [row(f"method-{number}", 768, 50.0) for number in range(13)]
    files = draw_all(rows, tmp_path)
    assert [file.name for file in files] == [
        f"accuracy-{what}.{suffix}" for what in ("parameters", "cost") for suffix in ("png", "svg")
    ]
    svg = (tmp_path / "accuracy-parameters.svg").read_text()
    bars = re.findall(r'<g id="LineCollection_\d+">\s*<path d="M ([\d.]+) ', svg)
    middles = sorted(float(x) for x in bars[: len(rows)])  # those of the legend come after
    assert min(b - a for a, b in itertools.pairwise(middles)) > 6.5
    assert all(f"<!-- {item.name} -->" in svg for item in rows), "the legend names each"
    draw_all(rows, tmp_path)
    assert (tmp_path / "accuracy-parameters.svg").read_text() == svg


def test_numbers_of_a_heat_map_of_equal_values_can_be_read(tmp_path):
    from apt_peft.scores.intervals import Interval

    interval = Interval(0.0, 2.0, 0.95, "percentile")
    curve = Curve(
        "max", (0.01, 0.1, 1.0), (33.3,) * 3, 0.01, 33.3, 0, 60, 2.0, interval, True, True, 2.0, interval, 1.0
    )
    draw_rates([curve], 2.0, tmp_path)
    svg = (tmp_path / "rates.svg").read_text()
    assert re.findall(r'<!-- 33.3 -->\s*<g style="fill: (#\w+)"', svg) == ["#ffffff"] * 3
