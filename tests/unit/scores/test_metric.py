"""Each metric against scikit-learn, or against its formula written out in plain loops."""

import numpy as np
import pytest
import torch
from helpers import raises_exactly
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score

from apt_peft import DataError
from apt_peft.scores.metric import (
    average,
    calibration_error,
    confusion,
    difference,
    mean_class_accuracy,
    metrics,
    places,
    top_k,
)


def drawn(clips: int, labels: int, seed: int, sharp: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores that know something of the label."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(clips, labels, generator=generator)
    targets = torch.randint(labels, (clips,), generator=generator)
    logits[range(clips), targets] += 1
    return logits.softmax(1), targets


def calibration_written_out(scores: torch.Tensor, targets: torch.Tensor, bins: int) -> float:
    total = 0.0
    for number in range(bins):
        inside = [
            (float(row.max()), int(row.argmax()) == target)
            for row, target in zip(scores.double(), targets.tolist(), strict=True)
            if number / bins < float(row.max()) <= (number + 1) / bins
        ]
        if inside:
            confidence, accuracy = np.mean([c for c, _ in inside]), np.mean([right for _, right in inside])
            total += len(inside) / len(scores) * abs(accuracy - confidence)
    return 100 * total


@pytest.mark.parametrize(("clips", "labels", "seed"), [(1, 2, 0), (40, 3, 1), (300, 8, 2), (500, 30, 3)])
def test_against_sklearn(clips, labels, seed):
    scores, targets = drawn(clips, labels, seed)
    found = {name: metric.value for name, metric in metrics(scores, targets).items()}
    names = range(labels)
    rows, true = scores.double().numpy(), targets.numpy()
    rows /= rows.sum(1, keepdims=True)
    predicted = rows.argmax(1)
    binary = rows[:, 1] if labels == 2 else rows
    wanted = {
        "top1": 100 * top_k_accuracy_score(true, binary, k=1, labels=names),
        "mean_class_accuracy": 100 * np.mean([np.mean(predicted[true == name] == name) for name in set(true)]),
        "calibration_error": calibration_written_out(scores, targets, 15),
        "loss": log_loss(true, rows, labels=names),
    }
    if labels > 5:
        wanted["top5"] = 100 * top_k_accuracy_score(true, rows, k=5, labels=names)
        assert wanted["mean_class_accuracy"] == pytest.approx(100 * balanced_accuracy_score(true, predicted))
    assert found == pytest.approx(wanted, rel=1e-6)
    table = confusion(targets, torch.from_numpy(predicted), labels)
    assert table.tolist() == confusion_matrix(true, predicted, labels=names).tolist()


def test_a_perfectly_calibrated_and_a_boastful_model():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(100_000, 4, generator=generator).softmax(1)
    honest = torch.multinomial(scores, 1, generator=generator)[:, 0]
    assert calibration_error(scores, honest).value < 1
    sure = torch.tensor([[1.0, 0.0]]).expand(10, 2)
    assert calibration_error(sure, torch.tensor([0] * 3 + [1] * 7)).value == pytest.approx(70)


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_confidences_on_the_borders_of_bins_belong_to_the_lower_one(bins):
    scores = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.76, 0.24], [1.0, 0.0]])
    targets = torch.tensor([0, 0, 1, 0])
    wanted = calibration_written_out(scores, targets, bins)
    assert calibration_error(scores, targets, bins=bins).value == pytest.approx(wanted)


def test_of_equal_scores_the_first_label_stands_higher():
    scores = torch.tensor([[0.2, 0.4, 0.4], [0.2, 0.4, 0.4], [1 / 3, 1 / 3, 1 / 3]])
    targets = torch.tensor([1, 2, 2])
    assert places(scores, targets).tolist() == [0, 1, 2]
    assert top_k(scores, targets, 1).value == pytest.approx(100 / 3)
    assert top_k(scores, targets, 2).value == pytest.approx(200 / 3)
    assert (scores.argmax(1) == targets).tolist() == [True, False, False]


def test_a_true_label_of_probability_nought():
    found = metrics(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([1, 0]))
    assert found["loss"].value == pytest.approx((-np.log(1e-12) - np.log(0.5)) / 2)


def test_classes_without_clips_do_not_count():
    scores = torch.eye(4)[[0, 0, 1]]
    assert mean_class_accuracy(scores, torch.tensor([0, 2, 2])).value == 50.0


def test_differences_and_averages_are_metrics():
    one, targets = drawn(50, 6, 0)
    other, _ = drawn(50, 6, 1)
    first, second = metrics(one, targets), metrics(other, targets)
    for name in first:
        apart = difference(first[name], second[name])
        assert apart.value == pytest.approx(first[name].value - second[name].value)
        assert difference(second[name], first[name]).value == pytest.approx(-apart.value)
        middle = average([first[name], second[name], first[name]])
        assert middle.value == pytest.approx((2 * first[name].value + second[name].value) / 3)
    with raises_exactly(DataError, "metrics (50 and 49 clips) must be of the same clips to be compared."):
        difference(first["top1"], top_k(one[1:], targets[1:], 1))
