"""An adapter with fewer prompts: those that are kept, as they were."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from .layer import AttentionPromptLayer
from .passes import layers_of
from .sharded import is_sharded

_TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
# Kind of tensor -> the dimension that counts prompts.
_DIMENSIONS = {"key": -2, "value": -2, "scale": -1, "bias": -1}


@torch.no_grad()
def prune_prompts(model: nn.Module, kept: Mapping[str, Sequence[int]], *, adapter_name: str | None = None) -> None:
    """Take prompts out of an adapter, and let its settings say how many each layer has.

    Keys, values, scales and biases of the kept prompts stay as they are, bit by bit; gates on the keys stay whole. A layer
    that keeps none is no layer of the adapter any more. An optimizer knows the old tensors: make a new one.

    Args:
        model: a model with attention prompts, as `get_peft_model` returns it; changed in place.
        kept: for each layer of the adapter, by its name in the base model, the indices of the prompts to keep.
        adapter_name: which adapter; it must be the only active one, which is the default.

    Raises:
        ConfigError: there is no such adapter, it is sharded, or `kept` does not fit it; nothing has changed then.
    """
    name, layers = layers_of(model, adapter_name, use="pruning")
    if any(is_sharded(layer) for layer in layers.values()):
        raise ConfigError(
            f"model must hold the prompts of adapter {name!r} whole, but they are sharded over processes. Prune it before "
            "fully_shard, or from its folder: apt-peft prune."
        )
    wanted = {key: [int(index) for index in indices] for key, indices in kept.items()}
    if problems := list(_problems(name, layers, wanted)):
        raise ConfigError(" ".join(problems))
    for key, layer in layers.items():
        layer.keep_in_memory()
        if wanted[key]:
            _keep(layer, name, sorted(wanted[key]))
        else:
            _leave(layer, name)
    config = model.peft_config[name]  # type: ignore[index, union-attr]
    for setting, value in _settings(config, {key: len(indices) for key, indices in wanted.items()}).items():
        setattr(config, setting, value)


def _problems(name: str, layers: Mapping[str, AttentionPromptLayer], kept: Mapping[str, list[int]]):
    if set(kept) != set(layers):
        other = sorted(set(kept) ^ set(layers))
        yield f"kept must name each layer of adapter {name!r} and no other, but {other[0]} is in one of them alone."
        return
    for key, indices in kept.items():
        count = layers[key].num_prompt_tokens(name)
        if len(set(indices)) < len(indices) or not all(0 <= index < count for index in indices):
            yield f"kept[{key!r}] must be indices from 0 to {count - 1}, each once, but it is {indices[:10]}."
        if not indices and name in layers[key].attention_prompt_gate:
            yield f"kept[{key!r}] must keep a prompt, for the layer's key_gate has a place beside prompts alone."
    if not any(kept.values()):
        yield "kept must keep a prompt in one layer at least. For the head alone, train with target_modules=[]."


def _keep(layer: AttentionPromptLayer, name: str, indices: list[int]) -> None:
    for kind, dimension in _DIMENSIONS.items():
        container = getattr(layer, f"attention_prompt_{kind}")
        if name in container:
            tensor = container[name]
            tensor.grad = None
            tensor.data = tensor.data.index_select(dimension, torch.tensor(indices, device=tensor.device)).contiguous()


def _leave(layer: AttentionPromptLayer, name: str) -> None:
    for kind in _DIMENSIONS:
        container = getattr(layer, f"attention_prompt_{kind}")
        if name in container:
            del container[name]
    for facts in (layer.prompt_dropout, layer.reparameterization, layer.awaits_data):
        facts.pop(name, None)


def _settings(config: Any, counts: Mapping[str, int]) -> dict[str, Any]:
    """What the settings of a pruned adapter say otherwise."""
    left = {key: count for key, count in counts.items() if count}
    usual = Counter(left.values()).most_common(1)[0][0]
    changes: dict[str, Any] = {
        "num_prompt_tokens": usual,
        "num_prompt_tokens_pattern": {re.escape(key): count for key, count in left.items() if count != usual},
    }
    if len(left) < len(counts):
        changes |= dict.fromkeys(_TARGETS, None) | {"target_modules": sorted(left)}
    checked = dataclasses.replace(config, **changes, format_version=1)  # which finds the version that can hold it
    return changes | {"format_version": checked.format_version}
