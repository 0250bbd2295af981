"""Every number that is told of a set of scores, each in one place: a function of sums over the clips.

Written so, a metric of resampled clips costs one matrix product (`intervals.py`), and a difference of two metrics is a metric.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apt_peft.errors import DataError

TOP = 5
BINS = 15
# The smallest probability that a loss takes: a true label of probability 0 would make it infinite.
TINY = 1e-12


@dataclass(frozen=True)
class Metric:
    """A number that follows from sums over the clips.

    Args:
        parts: (clips, k) what each clip adds to k sums, float64.
        of_sums: (..., k) -> (...), the number.
        interval: the kind of interval that suits it: see `bootstrap`.
        lowest: no value is lower.
    """

    parts: Tensor
    of_sums: Callable[[Tensor], Tensor]
    interval: str = "bca"
    lowest: float = -math.inf

    @property
    def value(self) -> float:
        """The number of these clips."""
        return float(self.of_sums(self.parts.sum(dim=0)))


def metrics(scores: Tensor, targets: Tensor) -> dict[str, Metric]:
    """All that is told of a set of scores.

    Args:
        scores: (clips, labels) probabilities.
        targets: (clips,) the true labels.

    Returns:
        By name: `top1`, `top5` (where there are more than five labels), `mean_class_accuracy` and `calibration_error` in
        per cent, and `loss`, the mean of -log of the true label's probability.
    """
    found = {"top1": top_k(scores, targets, 1)}
    if scores.shape[1] > TOP:
        found["top5"] = top_k(scores, targets, TOP)
    return found | {
        "mean_class_accuracy": mean_class_accuracy(scores, targets),
        "calibration_error": calibration_error(scores, targets),
        "loss": negative_log_likelihood(scores, targets),
    }


def top_k(scores: Tensor, targets: Tensor, k: int) -> Metric:
    """Per cent of clips whose true label is among the k highest; of equal scores the first label's stands higher.

    Args:
        scores: (clips, labels).
        targets: (clips,) the true labels.
        k: how many.

    Returns:
        The metric.
    """
    return _mean(100 * (places(scores, targets) < k).double())


def mean_class_accuracy(scores: Tensor, targets: Tensor) -> Metric:
    """Mean over the classes that have clips of the per cent of their clips that are predicted right.

    Args:
        scores: (clips, labels).
        targets: (clips,) the true labels.

    Returns:
        The metric. Of resampled clips, a class of which none was drawn does not count.
    """
    labels = scores.shape[1]
    of_class = torch.nn.functional.one_hot(targets, labels).double()
    right = of_class * (places(scores, targets) < 1)[:, None]

    def mean_recall(sums: Tensor) -> Tensor:
        correct, clips = sums[..., :labels], sums[..., labels:]
        return 100 * (correct / clips.clamp_min(1)).sum(dim=-1) / (clips > 0).sum(dim=-1)

    return Metric(torch.cat([right, of_class], dim=1), mean_recall)


def negative_log_likelihood(scores: Tensor, targets: Tensor) -> Metric:
    """Mean of -log of the true label's probability, which counts as 1e-12 at least.

    Args:
        scores: (clips, labels) probabilities.
        targets: (clips,) the true labels.

    Returns:
        The metric.
    """
    return _mean(-scores.double().gather(1, targets[:, None])[:, 0].clamp_min(TINY).log())


def calibration_error(scores: Tensor, targets: Tensor, *, bins: int = BINS) -> Metric:
    """Expected calibration error in per cent: how far confidence and accuracy are apart.

    Clips are sorted by their highest probability into bins of equal width, open below and closed above; the error is the
    mean of |accuracy - mean confidence| over the bins, weighted by their clips.

    Args:
        scores: (clips, labels) probabilities.
        targets: (clips,) the true labels.
        bins: how many.

    Returns:
        The metric. Few clips make it larger than it is, and clips drawn again larger still: hence its kind of interval.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017, section 2.
    """
    confidence, predicted = scores.double().max(dim=1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = (predicted == targets).double() - confidence
    of_bin = torch.nn.functional.one_hot(place, bins).double() * gap[:, None]

    def error(sums: Tensor) -> Tensor:
        return 100 * sums[..., :bins].abs().sum(dim=-1) / sums[..., bins]

    parts = torch.cat([of_bin, torch.ones(len(scores), 1, dtype=torch.float64)], dim=1)
    return Metric(parts, error, interval="basic", lowest=0.0)


def difference(one: Metric, other: Metric) -> Metric:
    """What one metric is above another of the same clips.

    Args:
        one: of some clips.
        other: of the same clips in the same order.

    Returns:
        `one` minus `other`, paired: where clips are resampled, both see the same ones.

    Raises:
        DataError: they are of different numbers of clips.
    """
    if len(one.parts) != len(other.parts):
        raise DataError(
            f"metrics ({len(one.parts)} and {len(other.parts)} clips) must be of the same clips to be compared."
        )
    width = one.parts.shape[1]
    return Metric(
        torch.cat([one.parts, other.parts], dim=1),
        lambda sums: one.of_sums(sums[..., :width]) - other.of_sums(sums[..., width:]),
        one.interval,
    )


def average(several: Sequence[Metric]) -> Metric:
    """The mean of a metric over several runs on the same clips, for example of several seeds.

    Args:
        several: the metric of each run, of the same clips in the same order.

    Returns:
        Their mean, paired as in `difference`; the runs themselves are not resampled.
    """
    widths = [metric.parts.shape[1] for metric in several]

    def mean(sums: Tensor) -> Tensor:
        each = zip(several, sums.split(widths, dim=-1), strict=True)
        return torch.stack([metric.of_sums(part) for metric, part in each]).mean(dim=0)

    parts = torch.cat([metric.parts for metric in several], dim=1)
    return Metric(parts, mean, several[0].interval, several[0].lowest)


def places(scores: Tensor, targets: Tensor) -> Tensor:
    """How many labels stand above the true one: a higher score, or an equal one and a smaller number.

    Args:
        scores: (clips, labels).
        targets: (clips,) the true labels.

    Returns:
        (clips,) int64, from 0.
    """
    true = scores.gather(1, targets[:, None])
    first = torch.arange(scores.shape[1], device=scores.device) < targets[:, None]
    return ((scores > true) | ((scores == true) & first)).sum(dim=1)


def confusion(targets: Tensor, predictions: Tensor, labels: int) -> Tensor:
    """Clips by true and predicted label.

    Args:
        targets: (clips,) the true labels.
        predictions: (clips,) the predicted ones.
        labels: how many there are.

    Returns:
        (labels, labels) int64, a row for each true label.
    """
    return torch.bincount(targets * labels + predictions, minlength=labels * labels).reshape(labels, labels)


def _mean(values: Tensor) -> Metric:
    return Metric(
        torch.stack([values, torch.ones_like(values)], dim=1),
        lambda sums: sums[..., 0] / sums[..., 1],
    )
