"""The seam: one attention function for all architectures, and the view of a config that leads a module to it.

Attention modules of transformers look their implementation up by `self.config._attn_implementation`. A wrapped module
gets, alone, a view of its config that names our function there; everything else that reads the shared config (masks,
other modules) sees what it always saw. Our function extends keys, values and mask and hands over to the implementation
that the real config names at that moment. So no forward is copied, and switching it after wrapping works.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import TargetError
from .families import forward_function
from .functional import Prompts, append_prompts, extend_mask, flash_mask, pad_mask
from .gate import gate_scores, gated
from .lean import attend, keeps_little
from .probe import AttentionCall
from .seams import softmax_attention

if TYPE_CHECKING:
    from .layer import AttentionPromptLayer

IMPLEMENTATION = "attention_prompt"


class PromptedConfig:
    """A module's view of its config, in which only the attention implementation differs.

    Args:
        config: the real config; what is changed there later is seen here.
        prompt_layer: the tuner layer around the module.
    """

    _attn_implementation = IMPLEMENTATION

    def __init__(self, config: Any, prompt_layer: "AttentionPromptLayer") -> None:
        self.real_config = config
        self.prompt_layer = prompt_layer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("real_config", "prompt_layer"):  # asked for while unpickling or copying
            raise AttributeError(name)
        return getattr(self.real_config, name)


class _UnpromptedModule:
    """The wrapped module as its own implementation expects it: with the real config, which flash attention reads."""

    def __init__(self, module: nn.Module, config: Any) -> None:
        self._module = module
        self.config = config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def attention_prompt_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention over tokens and prompts, in the signature of transformers' attention interface.

    Args:
        module: a wrapped attention module.
        query: (B, query heads, N, D).
        key: (B, H, N, D).
        value: (B, H, N, D).
        attention_mask: None, or (B or 1, heads or 1, N, N) added or boolean, or (B, N) for flash attention.
        position_bias: added to the scores, (B or 1, heads or 1, N, N).

    Returns:
        (B, N, query heads, D) and, for eager attention, the weights (B, query heads, N, N + P).

    Raises:
        TargetError: the call is causal or packed, or its implementation cannot do what the prompts ask for.
    """
    view: PromptedConfig = module.config
    layer = view.prompt_layer
    name = view.real_config._attn_implementation or "eager"
    implementation = _implementation(module, view.real_config)
    plain_module = _UnpromptedModule(module, view.real_config)
    if position_bias is not None:
        kwargs["position_bias"] = position_bias
    if layer.recorder is not None:
        layer.recorder(key, value)
        return implementation(plain_module, query, key, value, attention_mask, **kwargs)

    prompts = layer.prompts_of_batch()
    if prompts is None:
        return implementation(plain_module, query, key, value, attention_mask, **kwargs)

    if layer.probe is not None:
        prompts = layer.probe.change(prompts)
    _refuse_unsupported(module, name, attention_mask, prompts, kwargs)
    num_tokens = key.shape[2]
    flash = "flash" in name or (isinstance(attention_mask, Tensor) and attention_mask.dim() == 2)
    if flash:
        attention_mask = flash_mask(attention_mask, prompts, key.shape[0], num_tokens)
    else:
        attention_mask = extend_mask(attention_mask, prompts, query, num_tokens)
        if layer.probe is None and keeps_little(implementation, query, key, value, attention_mask, prompts, kwargs):
            return attend(query, key, value, prompts, kwargs.get("scaling")), None
    if position_bias is not None:
        kwargs["position_bias"] = pad_mask(position_bias, prompts.keys.shape[-2])
    if name == "eager" and attention_mask is not None and layer.eager_ignores_masks:
        implementation = softmax_attention  # what is masked here are prompts; the model itself has no masks
    first = flash and attention_mask is not None
    gate = None
    if prompts.gates:
        padding = (prompts.keys.shape[-2], 0) if first else (0, prompts.keys.shape[-2])
        gate = F.pad(gate_scores(key, prompts.gates), padding)
        implementation = gated(implementation, gate, name)
    key, value = append_prompts(key, prompts.keys, first=first), append_prompts(value, prompts.values, first=first)
    if layer.probe is not None:
        count, position_bias = prompts.keys.shape[-2], kwargs.get("position_bias")
        options = {option: kwargs.get(option) for option in ("scaling", "softcap")}
        layer.probe.see(AttentionCall(query, key, value, count, first, attention_mask, position_bias, gate, **options))
    return implementation(plain_module, query, key, value, attention_mask, **kwargs)


def _implementation(module: nn.Module, config: Any):
    """The function that the module would have called without us."""
    interface = forward_function(module).__globals__.get("ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS)
    return interface.get_interface(config._attn_implementation, eager_attention(module))


def eager_attention(module: nn.Module) -> Callable[..., Any]:
    """The function that a module calls for eager attention; they differ by modelling file."""
    return forward_function(module).__globals__.get("eager_attention_forward") or getattr(
        sys.modules[type(module).__module__], "eager_attention_forward", softmax_attention
    )


def _refuse_unsupported(
    module: nn.Module, implementation: str, attention_mask: Any, prompts: Prompts, kwargs: dict[str, Any]
) -> None:
    """Say no to calls in which appended keys would silently be dropped or cross from one sample into the next."""
    causal = kwargs.get("is_causal")
    if causal is None:
        # sdpa takes a module that does not say for a causal one; eager attention knows masks only
        causal = getattr(module, "is_causal", implementation != "eager")
    if causal:
        raise TargetError(
            f"{type(module).__name__} (is_causal=True) must attend in both directions, but causal attention hides the "
            "prompts, which come after the tokens. Target only bidirectional attention, such as that of a video or image encoder."
        )
    packed = sorted(name for name in kwargs if name.startswith("cu_seq") and kwargs[name] is not None)
    if packed:
        raise TargetError(
            f"{type(module).__name__} ({', '.join(packed)}) must get one sequence per sample, but packed sequences have "
            "no end of their own to append prompts to. Pass a padded batch with an attention_mask."
        )
    if attention_mask is not None and not isinstance(attention_mask, Tensor):
        raise TargetError(
            f"attention_mask ({type(attention_mask).__name__}) must be a tensor or None, but a block mask has a fixed "
            'number of keys. Load the model with attn_implementation="sdpa" or "eager".'
        )
    # torch's flex attention on a CPU ends the process where a score is changed by a tensor of the batch
    if "flex" in implementation and prompts.present is not None:
        raise TargetError(
            f"attn_implementation ({implementation!r}) must mask the prompts that a sample of the batch lacks, but flex "
            'attention does so for none. Load the model with attn_implementation="sdpa" or "eager".'
        )
    if ("flex" in implementation or "flash" in implementation) and prompts.bias is not None:
        raise TargetError(
            f"attn_implementation ({implementation!r}) must add score_bias to the scores of the prompts, but flash and flex "
            'attention take none. Load the model with attn_implementation="sdpa" or "eager".'
        )


AttentionInterface.register(IMPLEMENTATION, attention_prompt_forward)
