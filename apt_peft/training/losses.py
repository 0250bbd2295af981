"""The loss of a run: cross entropy or focal, smoothed labels, weighted classes, labels of mixed clips. Tensors only.

For a clip n with target y (one-hot, or the parts of mixed classes), C classes, smoothing s, weights w, focal gamma g:

    t[c]    = (1 - s) * y[c] + s / C
    loss[n] = -sum over c of  w[c] * t[c] * (1 - p[c])^g * log p[c]
    mass[n] =  sum over c of  w[c] * y[c]

and the loss of an optimizer step is sum(loss) / sum(mass) over its clips, as torch's own cross entropy divides.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# The label of which torch's cross entropy takes no notice, and which Trainer doesn't count.
IGNORED = -100
FOCAL_GAMMA = 2.0
EFFECTIVE_BETA = 0.999


@dataclass(frozen=True)
class ClassificationLoss:
    """What is added up over the clips of an optimizer step, and what it is divided by.

    Args:
        label_smoothing: part s of each target that is spread over all classes.
        weights: (classes,) weight w of each class; None weighs all alike.
        gamma: of the focal loss; None is cross entropy.

    Source: Lin et al. 2017 (focal loss). With smoothed or mixed targets each class's term is scaled by its own (1 - p)^g,
        as Keras' CategoricalFocalCrossentropy does.
    """

    label_smoothing: float = 0.0
    weights: Tensor | None = None
    gamma: float | None = None

    @classmethod
    def of(cls, settings: Any, labels: Iterable[int | None], classes: int) -> "ClassificationLoss":
        """The loss of a run.

        Args:
            settings: the run's flags.
            labels: of the training clips.
            classes: how many there are.

        Returns:
            The loss.
        """
        beta, gamma = settings.class_weights_beta, settings.focal_gamma
        count = Counter(labels)
        return cls(
            settings.label_smoothing,
            class_weights(
                settings.class_weights,
                [count[label] for label in range(classes)],
                beta=EFFECTIVE_BETA if beta is None else beta,
            ),
            (FOCAL_GAMMA if gamma is None else gamma) if settings.loss == "focal" else None,
        )

    def sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The losses of a batch, added up.

        Args:
            logits: (clips, classes).
            labels: (clips,) numbers of classes, `IGNORED` for clips that don't count; or (clips, classes) the parts of
                classes in each clip, rows of zeros for clips that don't count.

        Returns:
            A number; 0 where no clip counts.
        """
        weights = self._weights(logits)
        if labels.dim() == 1 and self.gamma is None:
            return torch.nn.functional.cross_entropy(
                logits, labels, weight=weights, label_smoothing=self.label_smoothing, reduction="sum"
            )
        parts = one_hot(labels, logits.shape[-1], logits.dtype)
        # A row of zeros stays one: a clip that doesn't count is not smoothed either.
        targets = (1 - self.label_smoothing) * parts + self.label_smoothing * parts.mean(dim=-1, keepdim=True)
        if weights is not None:
            targets = targets * weights
        log = logits.log_softmax(dim=-1)
        if self.gamma is not None:
            # 1 - p without the rounding of p near 1. Where it is 0 its power has no slope for gammas below 1.
            targets = targets * (-log.expm1()).clamp_min(torch.finfo(log.dtype).tiny) ** self.gamma
        return -(targets * log).sum()

    def mass(self, labels: Tensor) -> Tensor:
        """What the sum of a batch is to be divided by, together with the other batches of the step.

        Args:
            labels: as for `sum`.

        Returns:
            The clips that count, or the sum of their weights.
        """
        if self.weights is None:
            return (labels != IGNORED).sum() if labels.dim() == 1 else labels.sum()
        weights = self._weights(labels)
        assert weights is not None
        if labels.dim() == 1:
            return weights[labels[labels != IGNORED]].sum()
        return (labels * weights).sum()

    def _weights(self, like: Tensor) -> Tensor | None:
        if self.weights is None:
            return None
        return self.weights.to(like.device, like.dtype if like.is_floating_point() else self.weights.dtype)


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Labels as parts of classes.

    Args:
        labels: (clips,) numbers of classes, or parts of classes already.
        classes: how many there are.
        dtype: of the result.

    Returns:
        (clips, classes); rows of zeros where the label is `IGNORED`.
    """
    if labels.dim() > 1:
        return labels.to(dtype)
    counts = labels != IGNORED
    return torch.nn.functional.one_hot(labels.where(counts, 0), classes).to(dtype) * counts[:, None]


def class_weights(kind: str, counts: Sequence[int], *, beta: float = EFFECTIVE_BETA) -> Tensor | None:
    """Weights of classes from their numbers of training clips n_c.

    Args:
        kind: `none`; `balanced`, n / (k n_c) with n clips in k classes; or `effective`, (1 - b) / (1 - b^n_c), times what
            makes their mean 1.
        counts: clips of each class; a class without any weighs 0 and is none of the k.
        beta: b of `effective`.

    Returns:
        (classes,) float64, or None for `none`.

    Source: `effective`: Cui et al. 2019, Class-Balanced Loss Based on Effective Number of Samples.
    """
    if kind == "none":
        return None
    clips = torch.tensor(list(counts), dtype=torch.float64)
    present = clips > 0
    raw = 1 / clips if kind == "balanced" else (1 - beta) / (1 - beta**clips)
    raw = raw.where(present, torch.zeros_like(raw))
    return raw * (clips.sum() / present.sum() if kind == "balanced" else present.sum() / raw.sum())
