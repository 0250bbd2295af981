"""Bases whose weights are quantized, by bitsandbytes, torchao or in eight bits otherwise: what still can be trained there."""

from collections.abc import Iterable

import torch
import torch.nn as nn

from .storage import COMPUTE_DTYPES


def is_quantized(weight: torch.Tensor) -> bool:
    """Whether a weight cannot be trained as it is. torchao's tensors state the dtype that they stand for."""
    return weight.dtype not in COMPUTE_DTYPES or _of_torchao(weight)


def quantized_modules(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Which of some modules have quantized weights.

    Args:
        model: the base model.
        names: ends of modules' names.

    Returns:
        Those of the names, in their order.
    """
    return [
        name
        for name in names
        if any(is_quantized(w) for key, part in model.named_modules() if key.endswith(name) for w in part.parameters())
    ]


def blocks_gradients(model: nn.Module) -> bool:
    """Whether no gradient would reach what comes before a quantized layer: torchao rounds activations without one."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and _of_torchao(module.weight) and not module.weight.is_meta:
            with torch.enable_grad():
                like = {"dtype": module.weight.dtype, "device": module.weight.device}
                states = torch.ones(1, module.in_features, **like, requires_grad=True)
                out = module(states)
                return not out.requires_grad or torch.autograd.grad(out.sum(), states, allow_unused=True)[0] is None
    return False


def _of_torchao(weight: torch.Tensor) -> bool:
    return type(weight).__module__.partition(".")[0] == "torchao"
