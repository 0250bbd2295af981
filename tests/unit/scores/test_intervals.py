"""Intervals against scipy's, and how often they hold the true value on simulated scores."""

import numpy as np
import pytest
import torch
from helpers import raises_exactly
from scipy import stats

from apt_peft import ConfigError, DataError
from apt_peft.scores import intervals as module
from apt_peft.scores.intervals import bootstrap, bootstrap_all
from apt_peft.scores.metric import Metric, average, difference, metrics, negative_log_likelihood, top_k


def model(logits: torch.Tensor, sharp: float = 1.0) -> torch.Tensor:
    return (sharp * logits).softmax(1)


def simulated(clips: int, generator: torch.Generator, labels: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from their softmax."""
    logits = 1.5 * torch.randn(clips, labels, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@pytest.fixture(scope="module")
def scored():
    logits, targets = simulated(80, torch.Generator().manual_seed(0))
    return model(logits), model(logits + 0.7 * torch.randn(80, 6, generator=torch.Generator().manual_seed(1))), targets


@pytest.mark.parametrize("method", ["bca", "percentile", "basic"])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_against_scipy(scored, method, level):
    one, other, targets = scored
    losses = [-np.log(s[range(80), targets].numpy()) for s in (one, other)]
    scipys = {"bca": "BCa"}.get(method, method)
    first, second = (negative_log_likelihood(s, targets) for s in (one, other))
    for values, metric in [(losses[0], first), (losses[0] - losses[1], difference(first, second))]:
        wanted = stats.bootstrap(
            (values,), np.mean, n_resamples=20_000, confidence_level=level, method=scipys, rng=np.random.default_rng(0)
        )
        found = bootstrap(metric, samples=20_000, level=level, method=method)
        width = wanted.confidence_interval.high - wanted.confidence_interval.low
        assert found.low == pytest.approx(wanted.confidence_interval.low, abs=0.03 * width)
        assert found.high == pytest.approx(wanted.confidence_interval.high, abs=0.03 * width)
        assert (found.level, found.method) == (level, method)


def test_correction_of_a_skewed_metric_as_scipy_makes_it():
    """A ratio of sums over 12 clips, far from normal: BCa is far from percentile there, and as scipy's."""
    values = np.random.default_rng(3).lognormal(sigma=1.2, size=12)
    metric = Metric(
        torch.stack([torch.from_numpy(values), torch.ones(12, dtype=torch.float64)], 1), lambda s: s[..., 0] / s[..., 1]
    )
    wanted = stats.bootstrap(
        (values,), np.mean, n_resamples=30_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    found, plain = (bootstrap(metric, samples=30_000, method=method) for method in ("bca", "percentile"))
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=0.02)
    assert found.high > 1.05 * plain.high


def test_whole_groups_are_drawn(scored):
    one, _, targets = scored
    groups = [f"video {number // 5}" for number in range(80)]
    values = -np.log(one[range(80), targets].numpy())
    wanted = stats.bootstrap(
        (values.reshape(16, 5).mean(1),), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    metric = negative_log_likelihood(one, targets)
    found = bootstrap(metric, groups=groups, samples=20_000, method="percentile")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.03 * (wanted.high - wanted.low))
    # The order of the clips does not matter, only which belong together.
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    shuffled = Metric(metric.parts[order], metric.of_sums)
    again = bootstrap(shuffled, groups=[groups[place] for place in order], samples=20_000, method="percentile")
    assert (again.low, again.high) == pytest.approx((found.low, found.high), abs=0.03 * (found.high - found.low))


def test_intervals_hold_the_true_value_as_often_as_they_say():
    """300 simulated test sets of 100 clips: 95 % of the intervals, within three standard errors (of 1.26 %) and a bias of 1 %."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.Generator().manual_seed(1)

    def measured(clips: int) -> dict[str, Metric]:
        logits, targets = simulated(clips, generator)
        rough = logits + torch.randn(logits.shape, generator=noise, dtype=torch.float64)
        one, other = (metrics(model(x, 1.5), targets) for x in (logits, rough))
        wanted = ("top1", "mean_class_accuracy", "loss")
        return {k: one[k] for k in wanted} | {f"{k}, apart": difference(one[k], other[k]) for k in wanted}

    true = {name: metric.value for name, metric in measured(400_000).items()}
    held = dict.fromkeys(true, 0)
    for trial in range(300):
        for name, interval in bootstrap_all(measured(100), samples=500, seed=trial).items():
            held[name] += interval.holds(true[name])
    shares = {name: count / 300 for name, count in held.items()}
    assert all(0.90 < share < 0.985 for share in shares.values()), shares


def test_clips_of_one_video_need_groups():
    """40 videos cut into 5 clips each that are right or wrong together: single clips are too sure of themselves."""
    generator = torch.Generator().manual_seed(0)
    groups = [number // 5 for number in range(200)]
    held = [0, 0]
    for trial in range(200):
        right = (torch.rand(40, generator=generator) < 0.7).repeat_interleave(5)
        metric = top_k(torch.eye(2)[right.long()], torch.ones(200, dtype=torch.long), 1)
        for place, of in enumerate((groups, None)):
            held[place] += bootstrap(metric, groups=of, samples=500, seed=trial).holds(70)
    assert held[0] / 200 > 0.9
    assert held[1] / 200 < 0.75


def test_a_calibration_error_is_not_below_nought_and_lies_in_its_interval():
    logits, targets = simulated(60, torch.Generator().manual_seed(2))
    metric = metrics(model(logits), targets)["calibration_error"]
    found = bootstrap(metric)
    assert found.method == "basic"
    assert 0 <= found.low <= metric.value <= found.high
    assert bootstrap(metric, method="percentile").low > found.low, "resampling makes the error larger"


def test_the_same_numbers_for_a_seed_alone_together_and_in_small_portions(scored, monkeypatch):
    one, _, targets = scored
    several = metrics(one, targets)
    found = bootstrap_all(several, seed=3)
    assert found["top1"] == bootstrap(several["top1"], seed=3)
    assert found["top1"] != bootstrap(several["top1"], seed=4)
    assert found["loss"] == bootstrap(average([several["loss"]] * 2), seed=3)
    monkeypatch.setattr(module, "AT_ONCE", 170)
    for name, interval in bootstrap_all(several, seed=3).items():
        assert (interval.low, interval.high) == pytest.approx((found[name].low, found[name].high), rel=1e-12)


def test_where_nothing_varies():
    targets = torch.zeros(20, dtype=torch.long)
    interval = bootstrap(top_k(torch.eye(2)[targets], targets, 1))
    assert (interval.low, interval.high) == (100.0, 100.0)
    same = top_k(torch.eye(2)[[0, 1] * 10], targets, 1)
    interval = bootstrap(difference(same, same))
    assert (interval.low, interval.high) == (0.0, 0.0)


def test_what_cannot_be_drawn(scored):
    one, _, targets = scored
    metric = top_k(one, targets, 1)
    with raises_exactly(ConfigError, "method ('bc') must be one of bca, percentile, basic."):
        bootstrap(metric, method="bc")
    with raises_exactly(ConfigError, "level (95) must be above 0 and below 1, for example 0.95."):
        bootstrap(metric, level=95)
    with raises_exactly(ConfigError, "samples (0) must be at least 1."):
        bootstrap(metric, samples=0)
    with raises_exactly(DataError, "groups (3) must be one for each clip, but there are 80 clips."):
        bootstrap(metric, groups="abc")
    with raises_exactly(
        DataError,
        "groups (1) must be two or more to draw from, but one tells nothing of others. "
        "Leave the groups out, or score more clips.",
    ):
        bootstrap(metric, groups=["a"] * 80)
