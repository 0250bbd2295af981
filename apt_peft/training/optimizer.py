"""Which parameters learn how fast: optimizer groups, the two learning-rate rules, warm-up and cosine."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from apt_peft.errors import ConfigError
from apt_peft.training.conflicts import OWN
from apt_peft.tuner.families import FAMILIES

# In the names of the parameters that a method adds.
MARKS = ("attention_prompt_", "visual_prompt_", "adaptformer_", "bitfit_", "lora_", "ia3_", "oft_", "ln_tuning_")
PUBLISHED_CLIPS_PER_STEP = 256


def prompt_parameter_groups(
    model: nn.Module, *, lr: float, head_lr: float | None = None, weight_decay: float = 1e-5
) -> list[dict]:
    """Optimizer groups of a model with prompts: these at one learning rate, the head at another.

    What else is trained inside the encoder, as norms are by `train_norms`, and what a baseline adds have the prompts' rate.
    Weight decay acts on tensors of two dimensions and more, which includes the prompts and their scales.

    Args:
        model: the model; only parameters that require grad are taken.
        lr: learning rate of the prompts, or of a baseline's parameters.
        head_lr: learning rate of the rest, which is the head; `lr` by default.
        weight_decay: for the tensors it acts on.

    Returns:
        At most four groups for any torch optimizer, each with `params`, `lr`, `weight_decay` and a `name`.

    Raises:
        ConfigError: a number is negative or not finite, or nothing in the model trains.

    Source: reference code, `optim_factory.get_parameter_groups`: no decay on 1-D tensors and biases.
    """
    head_lr = lr if head_lr is None else head_lr
    given = {"lr": lr, "head_lr": head_lr, "weight_decay": weight_decay}
    wrong = [name for name, value in given.items() if not (math.isfinite(value) and value >= 0)]
    if wrong:
        raise ConfigError(" ".join(f"{name} ({given[name]}) must be a finite number of at least 0." for name in wrong))

    groups: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, rate = ("prompts", lr) if _of_method(name) else ("head", head_lr)
        decays = parameter.ndim >= 2
        key = part if decays else f"{part}_no_decay"
        decay = weight_decay if decays else 0.0
        groups.setdefault(key, {"params": [], "lr": rate, "weight_decay": decay, "name": key})
        groups[key]["params"].append(parameter)
    if not groups:
        raise ConfigError(
            "model must have a parameter that requires grad, but all are frozen. Wrap it with get_peft_model first."
        )
    return list(groups.values())


def _of_method(name: str) -> bool:
    """Whether a trained parameter is what the method adds, or of a part of the encoder that is trained in full."""
    saved = name.partition(".modules_to_save.")[0]
    parts = saved.split(".")
    return any(mark in name for mark in MARKS) or (
        saved != name and (parts[-1] in FAMILIES or any(part.isdigit() for part in parts))
    )


@dataclass(frozen=True)
class LearningRates:
    """Peak rates of prompts and head, and the rates at which a run starts and ends."""

    prompts: float
    head: float
    start: float
    minimum: float


def learning_rates(
    *,
    rule: str,
    method: str,
    clips_per_step: int,
    lr: float | None = None,
    head_lr: float | None = None,
    start: float | None = None,
    minimum: float | None = None,
) -> LearningRates:
    """The rates of a run after defaults and rule.

    Args:
        rule: `absolute` takes rates as they are; `published` scales every rate by clips per step / 256.
        method: `apt`, `linear`, or a baseline.
        clips_per_step: clips of one optimizer step over all processes.
        lr: rate of the prompts.
        head_lr: rate of the head.
        start: rate at the first step of the warm-up.
        minimum: rate at the end.

    Returns:
        The rates as the optimizer gets them.

    Source: the published recipes scale lr, its minimum and its start by clips per step / 256.
    """
    if rule == "published":
        factor = clips_per_step / PUBLISHED_CLIPS_PER_STEP
        lr = 0.05 if lr is None else lr
        head_lr = (0.01 if method == "linear" else lr) if head_lr is None else head_lr
        start, minimum = (1e-6 if value is None else value for value in (start, minimum))
    else:
        factor = 1.0
        lr, head_lr = default_rate(method) if lr is None else lr, 0.01 if head_lr is None else head_lr
        start, minimum = (0.0 if value is None else value for value in (start, minimum))
    return LearningRates(lr * factor, head_lr * factor, start * factor, minimum * factor)


def default_rate(method: str) -> float:
    """Rate of a method's own parameters where none is given; that of a baseline is where a search may begin."""
    if method in OWN:
        return 0.1
    from apt_peft.baselines.methods import METHODS

    return METHODS[method].lr


class WarmupCosine:
    """Factor of one group's peak rate at each step: a straight line from `start` up to 1, then a cosine to `minimum`.

    Args:
        peak: the group's rate, reached after the warm-up.
        start: rate of step 0 where there is a warm-up.
        minimum: rate that the cosine ends at, one step after the last.
        warmup_steps: steps of the rise.
        steps: all steps.
    """

    def __init__(self, *, peak: float, start: float, minimum: float, warmup_steps: int, steps: int) -> None:
        self.start, self.minimum = (min(value / peak, 1.0) if peak else 1.0 for value in (start, minimum))
        self.warmup_steps, self.steps = warmup_steps, steps

    def __call__(self, step: int) -> float:
        """The factor at a step, 0 for the first."""
        if step < self.warmup_steps:
            return self.start + (1 - self.start) * step / max(1, self.warmup_steps - 1)
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.minimum + (1 - self.minimum) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def warmup_cosine(
    optimizer: torch.optim.Optimizer, *, rates: LearningRates, warmup_steps: int, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The scheduler of a run: every group rises and falls alike, stepped once an optimizer step.

    Args:
        optimizer: its groups hold their peak rates.
        rates: where the rates start and end.
        warmup_steps: steps of the rise.
        steps: all steps.

    Returns:
        The scheduler.
    """
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        [
            WarmupCosine(
                peak=group["lr"], start=rates.start, minimum=rates.minimum, warmup_steps=warmup_steps, steps=steps
            )
            for group in optimizer.param_groups
        ],
    )
