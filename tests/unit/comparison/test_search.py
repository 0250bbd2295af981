"""The search of rates, on made-up accuracies: three decades first, further where the best is the last, then nearer."""

import math

import pytest

from apt_peft.comparison.search import Score, best_point, first_points, next_points, side_of


def search(accuracy, start, budget):
    """Search with an accuracy that is a function of the point; everything that was tried, by rounds."""
    tried, rounds = {}, []
    while points := next_points(tried, start, budget):
        assert len(set(points)) == len(points)
        assert not set(points) & set(tried)
        rounds.append(points)
        tried |= {point: accuracy(*point) for point in points}
    return tried, rounds


def peak(*at):
    return lambda *point: Score(100 - sum(abs(math.log10(x / y)) for x, y in zip(point, at, strict=True)), 0.0)


def test_the_first_four_span_three_decades_around_the_start():
    rates = [rate for rate, _ in first_points((0.1, 0.01))]
    assert rates == [0.0032, 0.032, 0.32, 3.2]
    assert math.log10(rates[-1] / rates[0]) == pytest.approx(3)
    assert {head for _, head in first_points((0.1, 0.01))} == {0.01}


@pytest.mark.parametrize(("best", "side"), [(1e-5, "low"), (1e4, "high")])
def test_a_best_at_the_end_is_gone_beyond_until_it_is_inside(best, side):
    tried, rounds = search(peak(best), (0.1,), 12)
    assert side_of(tried, 0) is None
    found = best_point(tried)[0]
    assert abs(math.log10(found / best)) < 0.5
    rates = {point[0] for point in tried}
    assert min(rates) < found < max(rates)
    assert all(len(points) == 1 for points in rounds[1:3])


@pytest.mark.parametrize(("best", "side"), [(1e-5, "low"), (1e4, "high")])
def test_where_the_budget_ends_first_the_side_is_told(best, side):
    tried, _ = search(peak(best), (0.1,), 5)
    assert len(tried) == 5
    assert side_of(tried, 0) == side


@pytest.mark.parametrize("budget", range(4, 12))
@pytest.mark.parametrize("head", [0.01, 0.5])
def test_each_contender_gets_as_many_trials(budget, head):
    tried, _ = search(peak(0.09, head), (0.1, 0.01), budget)
    assert len(tried) == budget


def test_the_head_is_tuned_too_and_then_the_own_rate_nearer():
    tried, rounds = search(peak(0.12, 0.1), (0.1, 0.01), 10)
    assert {point[1] for point in rounds[1]} == {0.001, 0.1}
    assert rounds[2][0][1] == 1.0, "the best head rate was the highest, so a higher one is tried"
    assert best_point(tried) == (0.1, 0.1)
    assert side_of(tried, 0) is None
    assert side_of(tried, 1) is None


def test_without_room_for_the_head_its_one_rate_is_no_edge():
    tried, _ = search(peak(0.12, 0.1), (0.1, 0.01), 5)
    assert {point[1] for point in tried} == {0.01}
    assert side_of(tried, 1) is None


def test_of_equal_accuracies_the_smaller_loss_counts_then_the_lower_rate():
    assert best_point({(0.1,): Score(50, -2.0), (1.0,): Score(50, -1.0)}) == (1.0,)
    assert best_point({(0.1,): Score(50, -1.0), (1.0,): Score(50, -1.0)}) == (0.1,)


def test_what_diverged_is_never_the_best_and_all_of_it_sends_the_search_down():
    assert best_point({(0.1,): Score(0.0, -9.0), (1.0,): Score()}) == (0.1,)
    tried, _ = search(lambda rate: Score() if rate > 1e-4 else Score(60, -1.0), (1.0,), 8)
    assert best_point(tried)[0] <= 1e-4
