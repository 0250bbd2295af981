"""One adapter from several, with weights: a sum of their prompts, or all of them side by side.

`linear`: the weighted sum of the effective prompts (after their scales), one P for all.

    K = sum_i w_i reparameterize(P_k,i)

`cat`: all prompts, those of adapter i with log(w_i) added to their scores. Each then counts w_i times in the sums over
keys, above and below the fraction, so that a weight of 2 is the adapter twice:

    out = (sum_n e^s_n v_n + sum_i w_i sum_p e^s_ip v_ip) / (sum_n e^s_n + sum_i w_i sum_p e^s_ip)
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from ..errors import ConfigError
from .config import AttentionPromptConfig
from .families import fold_names, head_dimensions
from .functional import Prompts, join_prompts
from .layer import AttentionPromptLayer
from .order import check_adapter_name
from .storage import take_out_of_offloading

if TYPE_CHECKING:
    from .model import AttentionPromptModel

COMBINATIONS = ("linear", "cat")
_TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


def combined_prompts(
    layers: dict[str, AttentionPromptLayer], adapters: Sequence[str], weights: Sequence[float], how: str
) -> dict[str, Prompts]:
    """The prompts of the combined adapter, layer by layer.

    Args:
        layers: the model's layers by name.
        adapters: names of the adapters to combine.
        weights: one number an adapter; above 0 for `cat`.
        how: `linear` or `cat`.

    Returns:
        Folded prompts, (P, D) or (H, P, D), by the names of the layers that have any.

    Raises:
        ConfigError: the weights are too large.
    """
    combined: dict[str, Prompts] = {}
    with torch.no_grad():
        for key, layer in layers.items():
            pairs = [(name, weight) for name, weight in zip(adapters, weights, strict=True) if layer.has(name)]
            there = [(weight, layer.effective_prompts(name, dropout=False)) for name, weight in pairs]
            if not there:
                continue
            if how == "linear":
                keys = _sum([(weight, part.keys) for weight, part in there])
                values = _sum([(weight, part.values) for weight, part in there])
                if not (keys.isfinite().all() and values.isfinite().all()):
                    raise ConfigError(
                        f"weights {list(weights)} must keep the sum of the prompts within {keys.dtype}, but it overflows. "
                        "Take smaller ones."
                    )
                combined[key] = Prompts(keys, values)
            else:
                parts = [part._replace(bias=_shifted(part, weight)) for weight, part in there]
                combined[key] = join_prompts(parts, head_dimensions(layer.base_layer)[0])
    return combined


def _sum(terms: list[tuple[float, Tensor]]) -> Tensor:
    total = terms[0][0] * terms[0][1]
    for weight, states in terms[1:]:
        total = total + weight * states  # prompts of all heads join those of each by broadcasting
    return total


def _shifted(prompts: Prompts, weight: float) -> Tensor:
    bias = prompts.keys.new_zeros(prompts.keys.shape[-2]) if prompts.bias is None else prompts.bias
    return bias + math.log(weight)


def as_numbers(weights: Any) -> list[float]:
    """Weights as plain numbers, from those of numpy and torch, too.

    Raises:
        ConfigError: they are no list of numbers.
    """
    try:
        if any(isinstance(weight, bool | str) for weight in weights):
            raise TypeError
        return [float(weight) for weight in weights]
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"weights ({weights!r}) must be a list with a number for each adapter.") from None


def combined_config(
    tuner: "AttentionPromptModel", adapters: Sequence[str], prompts: dict[str, Prompts], head_from: str | None
) -> AttentionPromptConfig:
    """The settings of the combined adapter.

    Args:
        tuner: the tuner.
        adapters: names of the adapters to combine.
        prompts: what `combined_prompts` gave.
        head_from: whose head and labels it takes.

    Returns:
        A config that makes layers of the prompts' shapes.
    """
    configs = [tuner.peft_config[name] for name in adapters]
    counts = {key: part.keys.shape[-2] for key, part in prompts.items()}
    most = max(counts.values(), default=configs[0].num_prompt_tokens)
    changes: dict[str, Any] = {}
    if any(getattr(config, name) != getattr(configs[0], name) for config in configs for name in _TARGETS):
        changes = dict.fromkeys(_TARGETS, None) | {"target_modules": sorted(prompts)}
    head = tuner.peft_config[head_from] if head_from else None
    return dataclasses.replace(
        configs[0],
        **changes,
        num_prompt_tokens=most,
        num_prompt_tokens_pattern={re.escape(key): count for key, count in counts.items() if count != most},
        score_bias=any(part.bias is not None and bool(part.bias.any()) for part in prompts.values()),
        reparameterization="none",
        share_prompts_across_heads=all(part.keys.dim() == 2 for part in prompts.values()),
        init_weights=True,
        data_initialized=False,
        modules_to_save=list(head.modules_to_save or []) if head else [],
        id2label=head.id2label if head else None,
        format_version=1,
    )


def check_combination(
    tuner: "AttentionPromptModel",
    layers: dict[str, AttentionPromptLayer],
    adapters: Sequence[str],
    weights: Sequence[float],
    adapter_name: str,
    how: str,
    head_from: str | None,
) -> None:
    """Refuse, before anything is added, what has no defined result.

    Raises:
        ConfigError: with all that is wrong.
    """
    check_adapter_name(adapter_name, tuner.model)
    problems = list(_problems_of_names(tuner, adapters, weights, adapter_name, how))
    if not problems:
        problems += _problems_of_heads(tuner, adapters, head_from)
        problems += _problems_of_prompts(tuner, layers, adapters, weights, how)
    if problems:
        raise ConfigError(" ".join(problems))


def _problems_of_names(tuner: Any, adapters: Sequence[str], weights: Sequence[float], adapter_name: str, how: str):
    there = sorted(tuner.prompt_adapters)
    if how not in COMBINATIONS:
        yield f'combination_type ({how!r}) must be "linear" or "cat".'
    if adapter_name in tuner.peft_config:
        yield f"adapter_name ({adapter_name!r}) must be new, but the model has {there}."
    if unknown := [name for name in adapters if name not in there]:
        yield f"adapters {unknown} must be adapters of the model, but it has {there}."
    if not adapters or len(set(adapters)) < len(adapters):
        yield f"adapters {list(adapters)} must name at least one adapter, each once."
    if len(weights) != len(adapters) or not all(map(math.isfinite, weights)):
        yield f"weights {list(weights)} must be a finite number for each of the {len(adapters)} adapters."
    elif how == "cat" and min(weights, default=1) <= 0:
        yield (
            f'weights {list(weights)} must be above 0 for "cat", where log(weight) joins the scores. Leave an adapter of '
            'weight 0 out; for negative weights take combination_type="linear".'
        )


def _problems_of_heads(tuner: Any, adapters: Sequence[str], head_from: str | None):
    with_head = [name for name in adapters if tuner.peft_config[name].modules_to_save]
    if head_from is None and with_head:
        yield (
            f"head_from must name the adapter whose head the new one takes, but {with_head} bring heads of their own, "
            f"which are not combined. Pass head_from={with_head[0]!r}."
        )
    elif head_from is not None and head_from not in with_head:
        yield f"head_from ({head_from!r}) must be one of the adapters that bring a head, but these are {with_head}."


def _problems_of_prompts(
    tuner: Any,
    layers: dict[str, AttentionPromptLayer],
    adapters: Sequence[str],
    weights: Sequence[float],
    how: str,
):
    waiting = [name for name in adapters if any(layer.awaits_data.get(name) for layer in layers.values())]
    if waiting:
        yield (
            f"adapters {waiting} must have their prompts, but they wait for data. "
            "Call apt_peft.initialize_prompts_from_data(model, dataloader)."
        )
    gated = [name for name in adapters if any(name in layer.attention_prompt_gate for layer in layers.values())]
    if gated:
        yield (
            f"adapters {gated} must have no key_gate, which has no weighted sum. Activate them together: "
            f"model.base_model.set_adapter({list(adapters)})."
        )
    if normed := [name for name in adapters if tuner.peft_config[name].train_norms]:
        yield f"adapters {normed} must have no train_norms, since norms are not combined. Run each by itself."
    if how != "linear":
        return
    shapes = {a: {key: layer.num_prompt_tokens(a) for key, layer in layers.items() if layer.has(a)} for a in adapters}
    first = shapes[adapters[0]]
    for name in adapters[1:]:
        different = [key for key in {**first, **shapes[name]} if first.get(key, 0) != shapes[name].get(key, 0)]
        if different:
            key = different[0]
            yield (
                f'adapters {[adapters[0], name]} must have equally many prompts in each layer for "linear", but they have '
                f"{first.get(key, 0)} and {shapes[name].get(key, 0)} in {', '.join(fold_names(different))}. "
                'Take combination_type="cat".'
            )
    biased = [name for name in adapters if any(name in layer.attention_prompt_bias for layer in layers.values())]
    if biased:
        yield (
            f'adapters {biased} must have no score_bias for "linear", which has no sum for it. '
            'Take combination_type="cat".'
        )


def copy_head(model: nn.Module, source: str, target: str) -> None:
    """Give an adapter another one's weights in each module that both save.

    Args:
        model: the model.
        source: whose weights.
        target: whose copy is overwritten.
    """
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper) and {source, target} <= set(module.modules_to_save):
            take_out_of_offloading(module.modules_to_save[source])
            module.modules_to_save[target].load_state_dict(module.modules_to_save[source].state_dict())
