"""Attention with prompts as the method defines it, in plain operations and none of apt_peft's.

`write_out(model, prompts)` puts it in the place of a real model's own attention; the rest of the model stays as it is.
"""

from functools import partial

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.masking_utils import sdpa_mask

# name of an attention module -> keys and values, (P, D) or (H, P, D) each, and perhaps a bias on their scores, (P,)
Prompts = dict[str, tuple[Tensor, ...]]


def softmax_over_tokens_and_prompts(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """softmax([Q K^T ; Q P_k^T]) [V ; P_v]: masks and position biases act on the tokens, a soft cap on all scores."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * scaling
    if (gate := getattr(module, "gate", None)) is not None:
        directions, weights = gate  # (r, D), (r,)
        hidden = torch.einsum("bhkd,rd->bhkr", key, directions) / 4
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        scores = scores + torch.einsum("bhkr,r->bhk", hidden, weights)[:, :, None]
    keys, values, *bias_of_prompts = getattr(module, "prompts", (key.new_zeros(0, key.shape[-1]),) * 2)
    of_prompts = query @ keys.transpose(-1, -2) * scaling
    if softcap is not None:
        scores, of_prompts = (softcap * torch.tanh(s / softcap) for s in (scores, of_prompts))
    for bias in (mask, position_bias):
        if bias is not None and bias.dtype == torch.bool:
            scores = scores.masked_fill(~bias, float("-inf"))
        elif bias is not None:
            scores = scores + bias
    of_prompts = sum(bias_of_prompts, start=of_prompts)
    weights = F.dropout(torch.cat([scores, of_prompts], -1).softmax(-1), dropout)
    tokens = key.shape[2]
    result = weights[..., :tokens] @ value + weights[..., tokens:] @ values
    return result.transpose(1, 2), weights


def timesformer_forward(module: nn.Module, hidden_states: Tensor, output_attentions: bool = False):
    """TimeSformer's attention, whose queries, keys and values are three thirds of one projection."""
    weights, biases = module.qkv.weight.chunk(3), module.qkv.bias.chunk(3)
    query, key, value = (
        F.linear(hidden_states, w, b).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for w, b in zip(weights, biases, strict=True)
    )
    dropout = module.attn_drop.p if module.training else 0.0
    result, attention = softmax_over_tokens_and_prompts(module, query, key, value, None, dropout=dropout)
    return (result.flatten(2), attention) if output_attentions else (result.flatten(2),)


def write_out(model: nn.Module, prompts: Prompts, gates: Prompts | None = None) -> nn.Module:
    """Replace the attention of a real model by the one above, with prompts in the named modules.

    Args:
        model: as transformers has it; changed in place and returned.
        prompts: the prompts that act, scales multiplied in.
        gates: directions and weights of the modules that have a gate on their keys.
    """
    transformers.AttentionInterface.register("written_out", softmax_over_tokens_and_prompts)
    transformers.AttentionMaskInterface.register("written_out", sdpa_mask)
    for module in model.modules():
        if hasattr(getattr(module, "config", None), "_attn_implementation"):
            module.config._attn_implementation_internal = "written_out"
        if type(module).__name__ == "TimesformerSelfAttention":
            module.forward = partial(timesformer_forward, module)
    for name, pair in prompts.items():
        model.get_submodule(name).prompts = pair
    for name, pair in (gates or {}).items():
        model.get_submodule(name).gate = pair
    return model


class SavedPrompts:
    """The prompts of a saved adapter, read from its file, as leaves that take gradients."""

    def __init__(self, folder, prefix: str = "base_model.model.") -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        self.leaves = {k: v.requires_grad_() for k, v in tensors.items() if "attention_prompt_" in k}
        suffix = ".attention_prompt_key"
        self.modules = [k.removeprefix(prefix).removesuffix(suffix) for k in self.leaves if k.endswith(suffix)]
        self.prefix = prefix

    def prompts(self) -> Prompts:
        """p * max(scale, 1), where a scale was saved; and the biases, where there are some."""
        biases = {name: self.leaves.get(f"{self.prefix}{name}.attention_prompt_bias") for name in self.modules}
        return {
            name: (self._scaled(name, "key", 0), self._scaled(name, "value", 1), *([] if bias is None else [bias]))
            for name, bias in biases.items()
        }

    def gates(self) -> Prompts:
        """Directions and weights, of adapters with a gate."""
        stems = {name: f"{self.prefix}{name}.attention_prompt_gate" for name in self.modules}
        return {
            name: (self.leaves[stem], self.leaves[f"{stem}_weight"])
            for name, stem in stems.items()
            if stem in self.leaves
        }

    def _scaled(self, module: str, kind: str, row: int) -> Tensor:
        stem = f"{self.prefix}{module}.attention_prompt_"
        prompt, scale = self.leaves[stem + kind], self.leaves.get(stem + "scale")
        return prompt if scale is None else prompt * torch.maximum(scale[row], torch.ones_like(scale[row]))[..., None]

    def gradients(self) -> dict[str, Tensor]:
        """By the name in the file."""
        return {name: leaf.grad for name, leaf in self.leaves.items()}
