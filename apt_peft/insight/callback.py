"""What prompts do while they train: a callback for Trainer."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from apt_peft.insight.measures import DEAD_BELOW, gradient_norms
from apt_peft.insight.report import prompt_report


class PromptCallback(TrainerCallback):
    """Looks at the prompts at the start and the end of a training, and at their gradients in between.

    Args:
        dataloader: calibration clips, read anew for each look: a list of batches, or a loader.
        path: a JSON lines file that each record is added to; None keeps them in `records` alone.
        epochs: look after each epoch, too.
        dead_below: see `prompt_report`.

    `records` holds one dict a look: `when` ("start", "epoch" or "end"), `step`, `epoch`, `layers` (the rows of
    `prompt_report`), and `gradient_norms`: by layer and kind, the mean over the optimizer steps since the look before.
    """

    def __init__(
        self,
        dataloader: Iterable[Any],
        *,
        path: str | Path | None = None,
        epochs: bool = False,
        dead_below: float = DEAD_BELOW,
    ) -> None:
        self.dataloader, self.path, self.epochs, self.dead_below = dataloader, path, epochs, dead_below
        self.records: list[dict[str, Any]] = []
        self._sums: dict[str, dict[str, float]] = {}
        self._steps = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Look at the prompts as they start."""
        self._look("start", state, model)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Take the norms of the gradients that the optimizer is about to use."""
        self._steps += 1
        for layer, norms in gradient_norms(_inside(model)).items():
            sums = self._sums.setdefault(layer, {})
            for kind, norm in norms.items():
                sums[kind] = sums.get(kind, 0.0) + norm

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Look after an epoch, where that was asked for."""
        if self.epochs:
            self._look("epoch", state, model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Look at the prompts that training gave, of the best epoch where Trainer has loaded that."""
        self._look("end", state, model)

    def _look(self, when: str, state: Any, model: Any) -> None:
        report = prompt_report(_inside(model), self.dataloader, dead_below=self.dead_below)
        means = {
            layer: {kind: total / self._steps for kind, total in sums.items()} for layer, sums in self._sums.items()
        }
        record = {
            "when": when,
            "step": int(state.global_step),
            "epoch": float(state.epoch or 0),
            "layers": list(report.rows),
            "gradient_norms": means,
        }
        self._sums, self._steps = {}, 0
        self.records.append(record)
        if self.path is not None and state.is_world_process_zero:
            with Path(self.path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def _inside(model: Any) -> Any:
    """The model itself, where DistributedDataParallel is around it."""
    return getattr(model, "module", model)
