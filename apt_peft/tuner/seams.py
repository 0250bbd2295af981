"""Attentions that do not go through transformers' attention interface: the way in that each of them needs.

TimeSformer computes its attention in the module itself, from one fused projection. Its seam takes queries, keys and
values off that projection and hands them to the function that all other architectures reach through the interface.
So whatever that function does with prompts, it does here, too.
"""

import dis
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig

# `attention_prompt_forward` of interface.py, given as an argument: imports run downward
Attend = Callable[..., tuple[Tensor, Tensor | None]]


def timesformer_attention(
    attend: Attend, module: nn.Module, hidden_states: Tensor, output_attentions: bool = False
) -> tuple[Tensor, ...]:
    """The forward of TimeSformer's self-attention, with another attention function.

    Divided attention runs it twice a layer: along the frames with B x places sequences, then within the frames with
    B x frames. In both, the sequences of one sample lie beside each other: transformers reshapes from (B, places,
    frames, channels) and from (B, frames, places, channels), B first.

    Args:
        attend: function in the signature of the attention interface.
        module: a wrapped TimesformerSelfAttention.
        hidden_states: (sequences, N, channels).
        output_attentions: whether to return the weights.

    Returns:
        (sequences, N, channels), and the weights (sequences, heads, N, N + P) where they are asked for.
    """
    sequences, tokens, _ = hidden_states.shape
    qkv = module.qkv(hidden_states).reshape(sequences, tokens, 3, module.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    dropout = module.attn_drop.p if module.attn_drop.training else 0.0
    context, weights = attend(module, query, key, value, None, scaling=module.scale, dropout=dropout, is_causal=False)
    context = context.reshape(hidden_states.shape)
    return (context, weights) if output_attentions else (context,)  # type: ignore[return-value]


def softmax_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention in plain operations, for a module whose file has no `eager_attention_forward`, or one without masks.

    Args:
        module: the attention module.
        query: (B, H, N, D).
        key: (B, H, keys, D).
        value: (B, H, keys, D).
        attention_mask: None, or added to the scores, (B or 1, H or 1, N, keys).
        scaling: factor on the scores.
        dropout: probability on the weights.
        kwargs: what other implementations take.

    Returns:
        (B, N, H, D), and the weights (B, H, N, keys).
    """
    scores = (query @ key.transpose(-2, -1)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    weights = F.dropout(weights, dropout)
    return (weights @ value).transpose(1, 2), weights


def ignores_masks(function: Callable[..., Any]) -> bool:
    """Whether an attention function takes an `attention_mask` and never looks at it: V-JEPA 2's eager one, for example."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or "attention_mask" not in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        return False
    # from Python 3.13 on one instruction may load two names
    return not any("attention_mask" in str(i.argval) for i in dis.get_instructions(code) if "LOAD" in i.opname)


def timesformer_head_dimensions(module: nn.Module) -> tuple[int, int]:
    """Number of heads H, and head dimension D."""
    return module.num_heads, module.qkv.in_features // module.num_heads  # type: ignore[operator, return-value, union-attr]


class Seam(NamedTuple):
    """The way into one kind of attention."""

    forward: Callable[..., Any]  # (attend, module, *args of its own forward)
    head_dimensions: Callable[[nn.Module], tuple[int, int]]


_TIMESFORMER = "transformers.models.timesformer.modeling_timesformer"
SEAMS: dict[str, Seam] = {
    f"{_TIMESFORMER}.TimesformerSelfAttention": Seam(timesformer_attention, timesformer_head_dimensions),
}


def seam_of(module: nn.Module) -> Seam | None:
    """A module's way in, or None for a module that needs none of its own."""
    return next((SEAMS[name] for name in map(_qualified_name, type(module).__mro__) if name in SEAMS), None)


def config_around(model: nn.Module, name: str) -> Any:
    """The config that a module without one of its own is run by.

    Args:
        model: the model.
        name: the module's full name in it.

    Returns:
        That of the innermost module around it that has one; a bare config where none has.
    """
    parts = name.split(".")
    for length in reversed(range(len(parts))):
        config = getattr(model.get_submodule(".".join(parts[:length])), "config", None)
        if hasattr(config, "_attn_implementation"):
            return config
    return PretrainedConfig(attn_implementation="eager")


# --------------------------------------------------------------------------------------------- gradient checkpointing


class PatchEmbeddings(NamedTuple):
    """What TimeSformer's patch embedding returns, and the method that it lacks.

    For gradient checkpointing transformers and PEFT call `requires_grad_` on the output of a model's input embedding.
    TimeSformer's is a tuple.
    """

    embeddings: Tensor
    num_frames: int
    patch_width: int

    def requires_grad_(self, requires_grad: bool = True) -> "PatchEmbeddings":
        """As that of a tensor, for the embeddings."""
        self.embeddings.requires_grad_(requires_grad)
        return self


def _as_patch_embeddings(module: nn.Module, args: Any, output: tuple[Any, ...]) -> PatchEmbeddings:
    return PatchEmbeddings(*output)


def prepare_embeddings(model: nn.Module) -> None:
    """Let gradient checkpointing find what it needs in TimeSformer's input embedding; other models stay as they are."""
    for module in _patch_embeddings(model):
        if _as_patch_embeddings not in module._forward_hooks.values():
            module.register_forward_hook(_as_patch_embeddings, prepend=True)


def restore_embeddings(model: nn.Module) -> None:
    """Undo `prepare_embeddings`."""
    for module in _patch_embeddings(model):
        for key, hook in list(module._forward_hooks.items()):
            if hook is _as_patch_embeddings:
                del module._forward_hooks[key]


def _patch_embeddings(model: nn.Module) -> list[nn.Module]:
    name = f"{_TIMESFORMER}.TimesformerPatchEmbeddings"
    return [module for module in model.modules() if name in map(_qualified_name, type(module).__mro__)]


def _qualified_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
