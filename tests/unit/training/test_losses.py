"""The loss against its formula written out in float64, term by term, and against torch's own where torch has one."""

import math

import numpy as np
import pytest
import torch

from apt_peft.training.losses import IGNORED, ClassificationLoss, class_weights, one_hot

CLASSES = 4
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)


def logits(clips: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(clips, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3


LABELS = torch.tensor([0, 3, 1, 1, 2, 0])
PARTS = torch.tensor(
    [[1, 0, 0, 0], [0, 0.3, 0, 0.7], [0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 0.9, 0.1], [0, 0, 0, 0]],
    dtype=torch.float64,
)


def written_out(x, parts, smoothing, weights, gamma):
    """sum(loss) / sum(mass) in Python's own numbers, and its gradient by the quotient of differences."""

    def value(x):
        total = mass = 0.0
        for row, y in zip(x, parts.tolist(), strict=True):
            if sum(y) == 0:
                continue
            largest = max(row)
            log_sum = largest + math.log(sum(math.exp(v - largest) for v in row))
            for c in range(CLASSES):
                w = 1.0 if weights is None else weights[c].item()
                target = (1 - smoothing) * y[c] + smoothing / CLASSES
                p = math.exp(row[c] - log_sum)
                total -= w * target * (1 - p) ** gamma * (row[c] - log_sum)
                mass += w * y[c]
        return total / mass

    rows = x.tolist()
    slopes = torch.zeros_like(x)
    for n in range(len(rows)):
        for c in range(CLASSES):
            rows[n][c] += 1e-5
            above = value(rows)
            rows[n][c] -= 2e-5
            below = value(rows)
            rows[n][c] += 1e-5
            slopes[n, c] = (above - below) / 2e-5
    return value(rows), slopes


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, 2.0])
@pytest.mark.parametrize("labels", [LABELS, PARTS], ids=["numbers", "parts"])
def test_value_and_gradient_are_those_of_the_formula(labels, gamma, weights, smoothing):
    x = logits().requires_grad_()
    loss = ClassificationLoss(smoothing, weights, gamma)
    value = loss.sum(x, labels) / loss.mass(labels)
    value.backward()
    parts = PARTS if labels is PARTS else torch.eye(CLASSES, dtype=torch.float64)[labels]
    wanted, slopes = written_out(x.detach(), parts, smoothing, weights, gamma or 0.0)
    assert value.item() == pytest.approx(wanted, abs=1e-12)
    torch.testing.assert_close(x.grad, slopes, rtol=0, atol=1e-8)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_it_is_torchs_cross_entropy_whichever_way_labels_are_written(weights, smoothing):
    labels = torch.cat([LABELS[:4], torch.tensor([IGNORED, IGNORED])])
    wanted = torch.nn.functional.cross_entropy(logits(), labels, weight=weights, label_smoothing=smoothing)
    for written in (labels, one_hot(labels, CLASSES, torch.float64)):
        for gamma in (None, 0.0):
            loss = ClassificationLoss(smoothing, weights, gamma)
            got = loss.sum(logits(), written) / loss.mass(written)
            assert got.item() == pytest.approx(wanted.item(), abs=1e-14)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("gamma", [None, 2.0])
def test_parts_of_a_step_add_up_to_the_whole(gamma, weights):
    """Batches of an optimizer step, over processes too: sums of losses, over the sum of masses."""
    loss, x = ClassificationLoss(0.1, weights, gamma), logits()
    cuts = [(0, 1), (1, 4), (4, 6)]
    total = sum(loss.sum(x[a:b], LABELS[a:b]) for a, b in cuts) / sum(loss.mass(LABELS[a:b]) for a, b in cuts)
    assert total.item() == pytest.approx((loss.sum(x, LABELS) / loss.mass(LABELS)).item(), abs=1e-14)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_clip_that_is_sure_has_a_finite_gradient(gamma, dtype):
    """Where p is 1 to the last digit, (1 - p)^gamma has an endless slope for gamma < 1."""
    x = torch.tensor([[500.0, 0, 0, 0], [0, 500.0, 0, 0], [10.0, 0, 0, 0]], dtype=dtype, requires_grad=True)
    value = ClassificationLoss(0.0, None, gamma).sum(x, torch.zeros(3, dtype=torch.long))
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()


def test_a_batch_in_which_no_clip_counts_is_nothing():
    labels = torch.full((6,), IGNORED)
    for gamma in (None, 2.0):
        for weights in (None, WEIGHTS):
            loss = ClassificationLoss(0.1, weights, gamma)
            assert loss.sum(logits(), labels) == 0
            assert loss.mass(labels) == 0


COUNTS = [90, 9, 1, 0]


def test_weights_are_those_of_their_formulas():
    assert class_weights("none", COUNTS) is None
    balanced = class_weights("balanced", COUNTS)
    assert balanced.tolist() == pytest.approx([100 / (3 * 90), 100 / (3 * 9), 100 / 3, 0], abs=1e-12)
    for beta in (0.0, 0.9, 0.999):
        raw = [1 / sum(beta**i for i in range(count)) for count in COUNTS[:3]]  # 1 / (1 + b + b^2 + ...)
        got = class_weights("effective", COUNTS, beta=beta)
        assert got.tolist() == pytest.approx([3 * w / sum(raw) for w in raw] + [0], rel=1e-10)
    assert class_weights("effective", COUNTS, beta=0.0).tolist() == [1, 1, 1, 0]


def test_balanced_weights_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    labels = [c for c, count in enumerate(COUNTS) for _ in range(count)]
    wanted = sklearn.compute_class_weight("balanced", classes=np.arange(3), y=np.array(labels))
    assert class_weights("balanced", COUNTS)[:3].tolist() == pytest.approx(wanted.tolist())
