"""Passes over calibration clips that leave a model as it was: its modes, random states and prompts."""

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ..errors import ConfigError
from .layer import AttentionPromptLayer


def layers_of(model: nn.Module, adapter_name: str | None, *, use: str) -> tuple[str, dict[str, AttentionPromptLayer]]:
    """The layers of one adapter, which must be the active one.

    Args:
        model: a model with attention prompts.
        adapter_name: None for the active one.
        use: what wants it, for messages.

    Returns:
        The adapter's name, and its layers by their names in the base model.

    Raises:
        ConfigError: there is no such adapter, it waits for data, or it is not the only active one.
    """
    tuner: Any = getattr(model, "base_model", model)
    inner = getattr(tuner, "model", tuner) if hasattr(tuner, "peft_config") else tuner
    found = {key: layer for key, layer in inner.named_modules() if isinstance(layer, AttentionPromptLayer)}
    first = next(iter(found.values()), None)
    active = [] if first is None or first.disable_adapters else list(first.active_adapters)
    name = adapter_name or (active[0] if active else "default")
    layers = {key: layer for key, layer in found.items() if layer.has(name)}
    if not layers:
        raise ConfigError(
            f"adapter_name ({name!r}) must be an adapter with attention prompts, but the model has none of that name."
        )
    if active != [name]:
        raise ConfigError(
            f"adapter_name ({name!r}) must be the only active adapter for {use}, but the active ones are {active}. "
            f"Call model.set_adapter({name!r})."
        )
    if any(layer.awaits_data[name] for layer in layers.values()):
        raise ConfigError(
            f"adapter_name ({name!r}) must have its prompts for {use}, but it waits for data. "
            "Call apt_peft.initialize_prompts_from_data(model, dataloader)."
        )
    return name, layers


def inputs_on(batch: Any, device: torch.device) -> tuple[dict[str, Any], Tensor]:
    """A batch as arguments of a model's forward.

    Args:
        batch: a mapping with `pixel_values`, or what the model calls it, and perhaps `labels`; or the clips alone.
        device: where the model computes.

    Returns:
        The arguments without labels, the clips under "clips" where they came alone; and the labels, -1 for each clip where
        there are none.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(batch, Tensor):
        return {"clips": batch.to(device)}, torch.full((len(batch),), -1)
    if not isinstance(batch, Mapping) or not any(isinstance(value, Tensor) for value in batch.values()):
        raise ConfigError(
            f"dataloader must yield mappings with pixel_values, or tensors, but a batch is a {type(batch).__name__}. "
            'Yield {"pixel_values": ...}.'
        )
    inputs = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    labels = inputs.pop("labels", None)
    if labels is None:
        labels = torch.full((len(next(value for value in inputs.values() if isinstance(value, Tensor))),), -1)
    return inputs, labels


def run(model: nn.Module, inputs: dict[str, Any]) -> Any:
    """A forward with what `inputs_on` gave."""
    return model(inputs["clips"]) if "clips" in inputs else model(**inputs)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and each module's own mode back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; at the end each module's own mode, and the random states of torch, numpy and Python, as before.

    A loader's shuffling in between is among what leaves no trace.
    """
    numpy = sys.modules.get("numpy")
    state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    with evaluating(model), torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(state)
            if numpy:
                numpy.random.set_state(numpy_state)
