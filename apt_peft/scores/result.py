"""The scores of a set of clips, what follows from them, and the tables that tell of it."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from apt_peft.errors import require
from apt_peft.scores.metric import Metric, confusion, metrics
from apt_peft.scores.whole import whole_file

# Letters of a class's name in the picture; the tables have all of it.
LONGEST_NAME = 40


@dataclass(frozen=True)
class EvaluationResult:
    """The scores of a set of clips, and what follows from them.

    Args:
        labels: class names in label order.
        names: one name a clip, for example its path.
        targets: (clips,) the true label of each clip.
        scores: (clips, labels) softmaxed and averaged over the views; rows sum to 1.
        skipped: names of clips that could not be read and were left out.
        logits: (clips, views, labels) of each view, where they were kept.
        groups: what each clip was cut from, where that is known.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    targets: Tensor
    scores: Tensor
    skipped: tuple[str, ...] = ()
    logits: Tensor | None = None
    groups: tuple[str, ...] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {
            field.name: getattr(self, field.name) for field in fields(self)
        }  # what follows from them can be had again

    @cached_property
    def predictions(self) -> Tensor:
        """(clips,) the label with the highest score; of equals the first."""
        return self.scores.argmax(dim=1)

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """All numbers by name, as what intervals and differences are made of: see `apt_peft.scores.metric`."""
        return metrics(self.scores, self.targets)

    @cached_property
    def values(self) -> dict[str, float]:
        """All numbers by name; `top5` only where there are more than five labels."""
        return {name: metric.value for name, metric in self.metrics.items()}

    @property
    def top1(self) -> float:
        """Per cent of clips whose highest score is the true label's."""
        return self.values["top1"]

    @property
    def top5(self) -> float | None:
        """Per cent of clips whose true label is among the five highest; None where there are no more than five."""
        return self.values.get("top5")

    @property
    def loss(self) -> float:
        """Mean of -log of the true label's score."""
        return self.values["loss"]

    @cached_property
    def confusion(self) -> Tensor:
        """(labels, labels) clips by true label (row) and predicted label (column)."""
        return confusion(self.targets, self.predictions, len(self.labels))

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
            "mean_class_accuracy": round(self.values["mean_class_accuracy"], 4),
            "calibration_error": round(self.values["calibration_error"], 4),
            "loss": round(self.loss, 6),
            "clips": len(self.names),
            "correct": int((self.predictions == self.targets).sum()),
            "skipped": len(self.skipped),
        }

    def save(self, folder: str | Path) -> None:
        """Write result.json, per_class.csv, confusion.csv, confusion.png and mistakes.csv into a folder.

        Args:
            folder: made where it is missing; files of these names in it are replaced, each by a whole one.

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
        with whole_file(folder / "result.json") as path:
            path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _write_csv(folder / "per_class.csv", self.per_class(), ("label", "clips", "correct", "recall", "precision"))
        _write_csv(
            folder / "mistakes.csv",
            self.mistakes(),
            ("clip", "label", "predicted", "score_of_label", "score_of_predicted"),
        )
        confusion = [{"": label, **dict(zip(self.labels, row, strict=True))} for label, row in self._confusion_rows()]
        _write_csv(folder / "confusion.csv", confusion, ("", *self.labels))
        with whole_file(folder / "confusion.png") as path:
            self._draw(path)

    def _confusion_rows(self) -> list[tuple[str, list[int]]]:
        return list(zip(self.labels, self.confusion.tolist(), strict=True))

    def _draw(self, path: Path) -> None:
        """Draw the confusion table, its numbers written in where they are legible."""
        # The object-oriented interface: no window system, no global state of pyplot.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        count = len(self.labels)
        names = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name in self.labels]
        # Names stand beside and below the table, a letter of 10 points being about 0.08 inches wide.
        side = min(24.0, 2.0 + 0.4 * count + 0.08 * max(map(len, names)))
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        share = self.confusion / self.confusion.sum(dim=1, keepdim=True).clamp_min(1)
        image = axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=axes, label="share of the true class")
        axes.set(xlabel="predicted", ylabel="true", title=f"top-1 {self.top1:.1f} % of {len(self.names)} clips")
        # "$" would start a formula in a class's name.
        names = [name.replace("$", r"\$") for name in names]
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
        figure.savefig(path, dpi=100, format="png")


def _write_csv(path: Path, rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    with whole_file(path) as begun, begun.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
