"""A contender's model on clips of nothing, to be timed: its forward, its training step, and what autograd keeps for that."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn

from apt_peft.comparison.contenders import Contender
from apt_peft.comparison.runs import Runs
from apt_peft.cost.memory import saved_by
from apt_peft.training.base import frames_and_size, open_base, quiet
from apt_peft.training.prompts import method_config


@dataclass(frozen=True)
class Side:
    """One side of what is timed.

    Args:
        model: on its device, in training mode.
        inputs: clips and labels.
        precision: of autocast, or None.
    """

    model: nn.Module
    inputs: dict[str, Tensor]
    precision: torch.dtype | None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.inputs["labels"].device

    def forward(self) -> None:
        """A forward without gradients."""
        self.model.eval()
        with torch.no_grad(), self._cast():
            self.model(**{name: value for name, value in self.inputs.items() if name != "labels"})

    def step(self) -> None:
        """Forward and backward of a training step; the optimizer's part is small, and not in it."""
        self.model.train()
        with self._cast():
            logits = self._logits()
        torch.nn.functional.cross_entropy(logits.float(), self.inputs["labels"]).backward()
        for parameter in self.model.parameters():
            parameter.grad = None

    def kept(self) -> int:
        """Bytes that autograd keeps from the forward for the backward, without the model's own weights."""
        self.model.train()
        with self._cast():
            return saved_by(self.model, self.inputs, without_numbers=True).total

    def wait(self) -> None:
        """Wait for what the device has been told to do."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def _logits(self) -> Any:
        return self.model(**{name: value for name, value in self.inputs.items() if name != "labels"}).logits

    def _cast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, self.precision or torch.bfloat16, enabled=self.precision is not None)


def side_of(plan: Runs, contender: Contender | None, *, batch_size: int | None = None) -> Side:
    """The model of a contender's runs, with weights of the start.

    Args:
        plan: the runs.
        contender: whose; None is the bare backbone, of which nothing is trained.
        batch_size: clips; as in its runs by default.

    Returns:
        The side.

    Raises:
        AptError: the backbone cannot be opened, or cannot take the method.
    """
    settings = plan.shared if contender is None else contender.settings(plan.shared)
    frames, size = frames_and_size(plan.config)
    frames, size = settings.num_frames or frames, settings.size or size
    kind = torch.accelerator.current_accelerator() if settings.device == "auto" else None
    device = kind if kind is not None and torch.accelerator.is_available() else torch.device("cpu")
    with quiet():
        base = open_base(settings.model, labels=plan.clips.labels, mean_pooling=True)
        name = base.main_input_name
        if contender is None:
            model: Any = base.requires_grad_(False)
        else:
            peft_config = method_config(settings, base)
            if getattr(peft_config, "init_weights", None) == "data":
                peft_config.init_weights = True  # where prompts start costs nothing later  # type: ignore[attr-defined]
            model = get_peft_model(base, peft_config)  # type: ignore[arg-type]
    clips = batch_size or settings.batch_size * settings.repeated_augmentation
    inputs = {
        name: torch.zeros(clips, frames, 3, size, size, device=device),
        "labels": torch.zeros(clips, dtype=torch.long, device=device),
    }
    precision = torch.bfloat16 if settings.bf16 else torch.float16 if settings.fp16 else None
    return Side(model.to(device).train(), inputs, precision)
