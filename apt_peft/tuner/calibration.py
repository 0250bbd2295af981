"""Starting prompts from the backbone's own keys and values, instead of from small random numbers.

Prompts drawn as published start 10 to 25 times smaller than a backbone's keys and values: P nearly identical, nearly
empty places to look at. Starting from places that the backbone knows is an addition of this project.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ..errors import ConfigError
from .functional import neutral_scale
from .layer import AttentionPromptLayer
from .passes import undisturbed
from .sharded import is_sharded


@torch.no_grad()
def initialize_prompts_from_data(
    model: nn.Module, dataloader: Iterable[Any], *, adapter_name: str | None = None, seed: int = 0
) -> None:
    """Set an adapter's prompts to keys and values that the frozen backbone computes for one batch.

    Each layer samples P positions (token and head, over the batch) of its own keys, and takes the keys and the values
    found there; prompts of their own for each head sample that head's tokens. Positions repeat only where there are
    fewer than P. Scales go back to neutral. Training mode, the base, its buffers and the random states of torch,
    numpy and Python are left as they were. With several processes, call it before the model is wrapped for them:
    wrapping broadcasts the first process's prompts (FSDP2's does not: give all processes the same batch there).

    Args:
        model: a model with attention prompts, as `get_peft_model` returns it.
        dataloader: its first batch is used: a mapping with `pixel_values`, or a tensor.
        adapter_name: which adapter; the active one by default.
        seed: decides the positions.

    Raises:
        ConfigError: there is no such adapter, no batch, prompts that are sharded, or keys and values that are not finite;
            nothing has changed then.

    Source: this project; the interface follows PEFT's `initialize_lora_eva_weights`.
    """
    layers = [module for module in model.modules() if isinstance(module, AttentionPromptLayer)]
    name = adapter_name or next((name for layer in layers for name in layer.active_adapters), "default")
    layers = [layer for layer in layers if name in layer.attention_prompt_key]
    if not layers:
        raise ConfigError(
            f"adapter_name ({name!r}) must be an adapter with attention prompts, but the model has none of that "
            "name. Call get_peft_model(model, AttentionPromptConfig(...)) first."
        )
    if any(is_sharded(layer) for layer in layers):
        raise ConfigError(
            f"model must hold the prompts of adapter {name!r} whole, but they are sharded over processes. "
            "Call initialize_prompts_from_data before fully_shard."
        )
    for layer in layers:
        layer.keep_in_memory()
    generator = torch.Generator().manual_seed(seed)
    with undisturbed(model), ExitStack() as stack:
        batch = next(iter(dataloader), None)
        if batch is None:
            raise ConfigError("dataloader must yield a batch, but it is empty. Pass one with at least one clip.")
        drawn: dict[AttentionPromptLayer, tuple[Tensor, Tensor]] = {}
        for layer in layers:
            layer.recorder = partial(_draw, drawn, layer, name, generator)
            stack.callback(setattr, layer, "recorder", None)
        _run(model, batch, layers[0].attention_prompt_key[name].device)
    if not all(tensor.isfinite().all() for pair in drawn.values() for tensor in pair):
        raise ConfigError(
            "dataloader must yield clips with finite keys and values, but those of its first batch are not. Check its "
            "pixel_values, and the backbone's weights and dtype."
        )
    for layer, pair in drawn.items():
        _start_from(layer, name, *pair)
    config = getattr(model, "peft_config", {}).get(name)
    if config is not None:
        config.data_initialized = True


def _draw(
    drawn: dict[AttentionPromptLayer, tuple[Tensor, Tensor]],
    layer: AttentionPromptLayer,
    adapter_name: str,
    generator: torch.Generator,
    key: Tensor,
    value: Tensor,
) -> None:
    """Sample the prompts of one layer from its keys and values, (B, H, N, D) each."""
    prompt = layer.attention_prompt_key[adapter_name]
    dim, count = key.shape[-1], prompt.shape[-2]
    per_head = prompt.dim() == 3
    # (groups, positions, D): a group is a head where each has its own prompts, else there is one
    pools = [x.transpose(0, 1).reshape(x.shape[1] if per_head else 1, -1, dim) for x in (key, value)]
    groups, positions, _ = pools[0].shape
    at = torch.stack([_positions(positions, count, generator) for _ in range(groups)]).to(key.device)
    keys, values = (pool.gather(1, at[..., None].expand(-1, -1, dim)).reshape(prompt.shape) for pool in pools)
    drawn[layer] = keys, values


def _start_from(layer: AttentionPromptLayer, adapter_name: str, keys: Tensor, values: Tensor) -> None:
    """Set the prompts of one layer, and its scales to neutral."""
    layer.attention_prompt_key[adapter_name].copy_(keys)
    layer.attention_prompt_value[adapter_name].copy_(values)
    if adapter_name in layer.attention_prompt_scale:
        layer.attention_prompt_scale[adapter_name].fill_(neutral_scale(layer.reparameterization[adapter_name]))
    layer.awaits_data[adapter_name] = False


def _positions(available: int, wanted: int, generator: torch.Generator) -> Tensor:
    if wanted <= available:
        return torch.randperm(available, generator=generator)[:wanted]
    return torch.randint(available, (wanted,), generator=generator)


def _run(model: nn.Module, batch: Any, device: torch.device) -> None:
    if isinstance(batch, Tensor):
        model(batch.to(device))
        return
    if not isinstance(batch, Mapping):
        raise ConfigError(
            f"dataloader must yield mappings with pixel_values, or tensors, but its first batch is a {type(batch).__name__}. "
            'Yield {"pixel_values": ...}.'
        )
    inputs = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    inputs.pop("labels", None)
    model(**inputs)
