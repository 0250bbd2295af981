"""Views -> scores -> top-1, top-5, classes, confusion: the one place where a model is scored."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from apt_peft.errors import CheckpointError, DataError, require

TOP = 5
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class EvaluationResult:
    """The scores of a set of clips, and what follows from them.

    Args:
        labels: class names in label order.
        names: one name a clip, for example its path.
        targets: (clips,) the true label of each clip.
        scores: (clips, labels) softmaxed and averaged over the views; rows sum to 1.
        skipped: names of clips that could not be read and were left out.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    targets: Tensor
    scores: Tensor
    skipped: tuple[str, ...] = ()

    @cached_property
    def predictions(self) -> Tensor:
        """(clips,) the label with the highest score."""
        return self.scores.argmax(dim=1)

    @property
    def top1(self) -> float:
        """Per cent of clips whose highest score is the true label's."""
        return self._top(1)

    @property
    def top5(self) -> float | None:
        """Per cent of clips whose true label is among the five highest; None where there are no more than five."""
        return self._top(TOP) if len(self.labels) > TOP else None

    @property
    def loss(self) -> float:
        """Mean of -log of the true label's score."""
        true = self.scores.gather(1, self.targets[:, None])
        return float(-true.clamp_min(1e-12).log().mean())

    @cached_property
    def confusion(self) -> Tensor:
        """(labels, labels) clips by true label (row) and predicted label (column)."""
        count = len(self.labels)
        return torch.bincount(self.targets * count + self.predictions, minlength=count * count).reshape(count, count)

    def per_class(self) -> list[dict[str, Any]]:
        """One row a class: label, clips, correct, recall and precision in per cent (None where undefined)."""
        rows = []
        for index, label in enumerate(self.labels):
            clips, predicted = int(self.confusion[index].sum()), int(self.confusion[:, index].sum())
            correct = int(self.confusion[index, index])
            rows.append(
                {
                    "label": label,
                    "clips": clips,
                    "correct": correct,
                    "recall": round(100 * correct / clips, 2) if clips else None,
                    "precision": round(100 * correct / predicted, 2) if predicted else None,
                }
            )
        return rows

    def mistakes(self) -> list[dict[str, Any]]:
        """One row a misclassified clip: its name, true label, predicted label and the scores of both."""
        return [
            {
                "clip": self.names[index],
                "label": self.labels[int(self.targets[index])],
                "predicted": self.labels[int(self.predictions[index])],
                "score_of_label": round(float(self.scores[index, self.targets[index]]), 4),
                "score_of_predicted": round(float(self.scores[index, self.predictions[index]]), 4),
            }
            for index in (self.predictions != self.targets).nonzero()[:, 0].tolist()
        ]

    def summary(self) -> dict[str, Any]:
        """The numbers as JSON can hold them."""
        return {
            "top1": round(self.top1, 4),
            "top5": None if self.top5 is None else round(self.top5, 4),
            "loss": round(self.loss, 6),
            "clips": len(self.names),
            "correct": int((self.predictions == self.targets).sum()),
            "skipped": len(self.skipped),
        }

    def save(self, folder: str | Path) -> None:
        """Write result.json, per_class.csv, confusion.csv, confusion.png and mistakes.csv into a folder.

        Args:
            folder: made where it is missing; files of these names in it are replaced.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        require("matplotlib", "viz")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        result = {
            **self.summary(),
            "per_class": self.per_class(),
            "mistakes": self.mistakes(),
            "skipped_clips": list(self.skipped),
        }
        (folder / "result.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _write_csv(folder / "per_class.csv", self.per_class(), ("label", "clips", "correct", "recall", "precision"))
        _write_csv(
            folder / "mistakes.csv",
            self.mistakes(),
            ("clip", "label", "predicted", "score_of_label", "score_of_predicted"),
        )
        confusion = [{"": label, **dict(zip(self.labels, row, strict=True))} for label, row in self._confusion_rows()]
        _write_csv(folder / "confusion.csv", confusion, ("", *self.labels))
        self._draw(folder / "confusion.png")

    def _confusion_rows(self) -> list[tuple[str, list[int]]]:
        return list(zip(self.labels, self.confusion.tolist(), strict=True))

    def _draw(self, path: Path) -> None:
        """Draw the confusion table, its numbers written in where they are legible."""
        # The object-oriented interface: no window system, no global state of pyplot.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        count = len(self.labels)
        side = min(24.0, 2.5 + 0.4 * count)
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        share = self.confusion / self.confusion.sum(dim=1, keepdim=True).clamp_min(1)
        image = axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=axes, label="share of the true class")
        axes.set(xlabel="predicted", ylabel="true", title=f"top-1 {self.top1:.1f} % of {len(self.names)} clips")
        # "$" would start a formula in a class's name.
        names = [label.replace("$", r"\$") for label in self.labels]
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
        if count <= 40:
            for row in range(count):
                for column in range(count):
                    if number := int(self.confusion[row, column]):
                        dark = share[row, column] > 0.5
                        axes.text(
                            column, row, str(number), ha="center", va="center", color="white" if dark else "black"
                        )
        figure.savefig(path, dpi=100)

    def _top(self, k: int) -> float:
        best = self.scores.topk(k, dim=1).indices
        return 100 * float((best == self.targets[:, None]).any(dim=1).double().mean())


def evaluate(
    model: nn.Module,
    dataset: Any,
    *,
    labels: Sequence[str],
    names: Sequence[str],
    batch_size: int = 8,
    workers: int = 0,
    precision: str = "float32",
    progress: bool = False,
) -> EvaluationResult:
    """Score every clip of a dataset: all its views through the model, softmax per view, mean over the views.

    Args:
        model: video classifier; the logits of its first argument, (n, T, C, height, width), are (n, labels).
        dataset: items `pixel_values` (views, T, C, height, width), `labels`, `index`; each decodes its video once.
        labels: class names in label order.
        names: the clips' names in the dataset's order.
        batch_size: clips x views of one forward pass.
        workers: processes that decode.
        precision: `float32`, or `bfloat16` or `float16` for autocast.
        progress: show a bar.

    Returns:
        The scores, in the dataset's order.

    Raises:
        CheckpointError: scores are NaN.
        DataError: a video cannot be read.
    """
    scores, targets = score_all(
        model, dataset, batch_size=batch_size, workers=workers, precision=precision, progress=progress
    )
    return EvaluationResult(tuple(labels), tuple(names), targets, scores)


@torch.no_grad()
def score_all(
    model: nn.Module,
    dataset: Any,
    *,
    batch_size: int,
    workers: int = 0,
    precision: str = "float32",
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Scores and labels of every clip of a dataset; the model's mode and torch's random state stay as they were.

    Args:
        model: as for `evaluate`.
        dataset: as for `evaluate`; without `labels` the second result is -1.
        batch_size: clips x views of one forward pass.
        workers: processes that decode.
        precision: as for `evaluate`.
        progress: show a bar.

    Returns:
        Scores (clips, labels) and true labels (clips,).

    Raises:
        CheckpointError: scores are NaN.
        DataError: a video cannot be read.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    # A generator of its own: a loader otherwise draws its seed from torch's state, which training goes on with.
    loader = DataLoader(
        dataset,
        batch_size=max(1, batch_size // _views(dataset)),
        num_workers=workers,
        generator=torch.Generator().manual_seed(0),
    )
    rows: list[Tensor] = []
    targets: list[Tensor] = []
    try:
        with unreadable_by_name():
            for batch in tqdm(loader, desc="evaluating", unit="batch", disable=not progress, leave=False):
                clips = batch["pixel_values"].to(device)
                rows.append(score(model, clips, batch_size=batch_size, precision=precision))
                targets.append(batch.get("labels", torch.full((len(clips),), -1)))
    finally:
        model.train(was_training)
    return finite(torch.cat(rows)), torch.cat(targets)


def finite(scores: Tensor) -> Tensor:
    """The scores (clips, labels) as they are.

    Raises:
        CheckpointError: scores are NaN.
    """
    if bad := int((~scores.isfinite()).any(dim=1).sum()):
        raise CheckpointError(
            f"scores ({bad} of {len(scores)} clips) must be finite, but the model's are NaN: its weights are damaged, or "
            "its training has diverged. Train again with a lower --lr, or copy the weights again."
        )
    return scores


@contextmanager
def unreadable_by_name() -> Iterator[None]:
    """Turn a worker process's report of an unreadable video, a traceback as text, back into the error it was.

    Raises:
        DataError: a worker could not read a video.
    """
    try:
        yield
    except (RuntimeError, DataError) as error:  # torch makes an error of the same kind where it can
        text = str(error)
        if "UnreadableVideoError: " not in text:
            raise
        raise DataError(text.rpartition("UnreadableVideoError: ")[2].strip()) from None


def score(model: nn.Module, clips: Tensor, *, batch_size: int, precision: str = "float32") -> Tensor:
    """Scores of some clips: softmax of each view, mean over the views.

    Args:
        model: video classifier.
        clips: (clips, views, T, C, height, width) on the model's device.
        batch_size: views of one forward pass.
        precision: as for `evaluate`.

    Returns:
        (clips, labels) on the CPU, float32.
    """
    views = clips.flatten(0, 1)
    dtype = PRECISIONS[precision]
    parts = []
    with torch.autocast(views.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        for part in views.split(batch_size):
            parts.append(clip_logits(model(part).logits, len(part)).float().softmax(dim=-1))
    return torch.cat(parts).unflatten(0, clips.shape[:2]).mean(dim=1).cpu()


def clip_logits(logits: Tensor, clips: int) -> Tensor:
    """One row of logits for each clip, whatever shape a model gives them.

    Args:
        logits: (clips, labels), as most models give them; (clips, 1, labels) of VideoPrism; (clips x frames, labels) of a
            TimeSformer with `space_only` attention, whose classifier sees each frame by itself.
        clips: how many.

    Returns:
        (clips, labels), the mean over the frames.
    """
    return logits if logits.shape[:-1] == (clips,) else logits.reshape(clips, -1, logits.shape[-1]).mean(dim=1)


def _views(dataset: Any) -> int:
    """Views of each clip of a dataset in test mode."""
    return getattr(dataset, "segments", 1) * getattr(dataset, "crops", 1)


def _write_csv(path: Path, rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
