"""The method on tensors: no module, no configuration.

    K' = [K ; reparameterize(P_k)]     V' = [V ; reparameterize(P_v)]     out = softmax(Q K'^T / sqrt(D)) V'

Shapes: B batch, H heads of keys and values, N tokens, P prompt tokens, D head dimension.
Source: Bandara & Patel, Attention Prompt Tuning (FG 2024), section 3.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .gate import Gate

# softplus(0 + SOFTPLUS_SHIFT) = 1: a scale of zero leaves the prompts as they are
SOFTPLUS_SHIFT = math.log(math.e - 1)


def published_bound(patch_elements: int, head_dim: int) -> float:
    """Bound of the published uniform initialisation.

    Args:
        patch_elements: colour channels x patch height x patch width.
        head_dim: D.

    Returns:
        sqrt(6 / (patch_elements + D)); 0.0849 for patches of 3 x 16 x 16 and D = 64.

    Source: reference model, initialisation of its prompt tensors.
    """
    return math.sqrt(6.0 / (patch_elements + head_dim))


def neutral_scale(kind: str) -> float:
    """The scale whose factor is 1, at which training starts.

    Args:
        kind: "max" or "softplus", see `scale_factor`.

    Returns:
        1 or 0.
    """
    return 0.0 if kind == "softplus" else 1.0


def scale_factor(scale: Tensor | None, kind: str) -> Tensor | float:
    """The factor that a learned scale stands for.

    Args:
        scale: any shape; None for kind "none".
        kind: "max": max(scale, 1), a tie giving half of the gradient to each side, as torch.maximum does;
            "softplus": softplus(scale + ln(e - 1)), which is 1 where the scale is 0; "none": 1.

    Returns:
        The factor, of the scale's shape.

    Source: "max" is the published one, section 3.3; "softplus" is this project's smooth alternative.
    """
    if scale is None or kind == "none":
        return 1.0
    if kind == "softplus":
        return F.softplus(scale + SOFTPLUS_SHIFT)
    return torch.maximum(scale, torch.ones_like(scale))


def effective_prompts(prompt: Tensor, scale: Tensor | None, kind: str, dropout: float, training: bool) -> Tensor:
    """Prompts as the attention sees them: dropout on the raw elements first, the scale after it.

    One mask serves the whole batch and, for shared prompts, all heads.

    Args:
        prompt: (P, D), or (H, P, D) where each head has its own.
        scale: (P,) or (H, P); None for kind "none".
        kind: see `scale_factor`.
        dropout: probability.
        training: whether dropout acts.

    Returns:
        Of the prompt's shape.
    """
    prompt = F.dropout(prompt, dropout, training)
    factor = scale_factor(scale, kind)
    return prompt * factor.unsqueeze(-1) if isinstance(factor, Tensor) else prompt


class Prompts(NamedTuple):
    """What one attention layer adds to its keys and values.

    The first dimensions are none for prompts of all samples and heads, H for prompts of each head, or (B, 1 or H)
    where each sample has its own.
    """

    keys: Tensor  # (..., P, D)
    values: Tensor  # (..., P, D)
    bias: Tensor | None = None  # (P,) or (B, P): added to the scores of the prompts; None adds nothing
    present: Tensor | None = None  # (B, P), boolean: False where a sample has no prompt; None where each has all P
    gates: tuple[Gate, ...] = ()  # what scores the tokens' own keys


def join_prompts(parts: Sequence[Prompts], num_heads: int) -> Prompts:
    """Several adapters' prompts as one set, in their order.

    Args:
        parts: at least one; without `present`.
        num_heads: H, for prompts of all heads that meet prompts of each head.

    Returns:
        P summed over the parts.
    """
    if len(parts) == 1:
        return parts[0]
    if len({part.keys.dim() for part in parts}) > 1:
        parts = [
            part._replace(keys=_of_heads(part.keys, num_heads), values=_of_heads(part.values, num_heads))
            for part in parts
        ]
    bias = None
    if any(part.bias is not None for part in parts):
        bias = torch.cat([_bias(part) for part in parts], dim=-1)
    return Prompts(
        torch.cat([part.keys for part in parts], dim=-2),
        torch.cat([part.values for part in parts], dim=-2),
        bias,
        gates=tuple(gate for part in parts for gate in part.gates),
    )


def stack_prompts(parts: Sequence[Prompts | None], index: Tensor, num_heads: int) -> Prompts | None:
    """A set of prompts for each sample, padded to the largest P.

    Args:
        parts: the sets to choose from; None for no prompts.
        index: (B,), which of them each sample has.
        num_heads: H, for prompts of all heads that meet prompts of each head.

    Returns:
        Prompts of (B, 1 or H, P, D), with `present` where P differs; None where no sample has any.
    """
    there = [part for part in parts if part is not None]
    if not there:
        return None
    first = max(there, key=lambda part: part.keys.shape[-2])
    most, heads = first.keys.shape[-2], num_heads if any(part.keys.dim() == 3 for part in there) else 1

    def padded(part: Prompts | None, name: str) -> Tensor:
        if part is None:
            return getattr(first, name).new_zeros(heads, most, first.keys.shape[-1])
        states = _of_heads(getattr(part, name), heads)
        return F.pad(states, (0, 0, 0, most - states.shape[-2]))

    keys, values = (torch.stack([padded(part, name) for part in parts])[index] for name in ("keys", "values"))
    bias = present = None
    counts = [0 if part is None else part.keys.shape[-2] for part in parts]
    if any(part.bias is not None for part in there):
        rows = [keys.new_zeros(0) if part is None else _bias(part) for part in parts]
        bias = torch.stack([F.pad(row, (0, most - row.shape[-1])) for row in rows])[index]
    if any(count < most for count in counts):
        positions = torch.arange(most, device=keys.device)
        present = (positions < torch.tensor(counts, device=keys.device)[:, None])[index]
    return Prompts(keys, values, bias, present)


def _of_heads(states: Tensor, num_heads: int) -> Tensor:
    """(P, D) or (H, P, D) as (H, P, D)."""
    return states.expand(num_heads, *states.shape[-2:])


def _bias(prompts: Prompts) -> Tensor:
    return prompts.keys.new_zeros(prompts.keys.shape[-2]) if prompts.bias is None else prompts.bias


def repeat_samples(states: Tensor, batch: int) -> Tensor:
    """Follow attention that splits each sample into several, sample by sample: (B, ...) as (batch, ...).

    Divided attention of videos attends within frames, then along them: its batch is B x frames or B x places, and the
    parts of a sample lie beside each other.
    """
    return states if states.shape[0] == batch else states.repeat_interleave(batch // states.shape[0], dim=0)


def append_prompts(states: Tensor, prompts: Tensor, *, first: bool = False) -> Tensor:
    """Append prompts after the tokens of keys or values.

    Args:
        states: (B, H, N, D).
        prompts: (P, D), (H, P, D) or (samples, 1 or H, P, D); cast to the states' dtype.
        first: put them before the tokens; the result of the attention is the same.

    Returns:
        (B, H, N + P, D).
    """
    batch, heads, _, dim = states.shape
    if prompts.dim() == 4:
        prompts = repeat_samples(prompts, batch)
    prompts = prompts.to(states.dtype).expand(batch, heads, prompts.shape[-2], dim)
    return torch.cat((prompts, states) if first else (states, prompts), dim=2)


def pad_mask(mask: Tensor, num_prompt_tokens: int) -> Tensor:
    """Let every query see the prompts: extend a mask, or a bias on the scores, along its keys.

    Args:
        mask: (..., N), boolean (True: attend) or added to the scores.
        num_prompt_tokens: P.

    Returns:
        (..., N + P).
    """
    return F.pad(mask, (0, num_prompt_tokens), value=1.0 if mask.dtype == torch.bool else 0.0)


def extend_mask(mask: Tensor | None, prompts: Prompts, query: Tensor, num_tokens: int) -> Tensor | None:
    """The mask of tokens and prompts: every query sees the prompts of its sample, with their bias.

    Args:
        mask: None, or (B or 1, heads or 1, queries, N), boolean (True: attend) or added to the scores.
        prompts: the layer's.
        query: (B, heads, queries, D).
        num_tokens: N.

    Returns:
        None where there is nothing to mask, else (B or 1, heads or 1, queries, N + P), of the mask's dtype; where prompts
        bring a bias or are missing from a sample, of the query's.
    """
    count = prompts.keys.shape[-2]
    if prompts.bias is None and prompts.present is None:
        return None if mask is None else pad_mask(mask, count)
    # not minus infinity, as in transformers: a query none of whose keys is there must not become NaN
    nothing = torch.finfo(query.dtype).min
    scores = query.new_zeros(count) if prompts.bias is None else prompts.bias.to(query.dtype)
    if prompts.present is not None:
        scores = scores.masked_fill(~prompts.present, nothing)
    if scores.dim() == 2:
        scores = repeat_samples(scores, query.shape[0])[:, None, None]
    if mask is None:
        mask = query.new_zeros(1, 1, 1, num_tokens)
    elif mask.dtype == torch.bool:
        mask = query.new_zeros(()).masked_fill(~mask, nothing)
    leading = (max(mask.shape[0], *scores.shape[:-3], 1), *mask.shape[1:3])
    joined = torch.cat((mask.expand(*leading, num_tokens), scores.expand(*leading, count)), dim=-1)
    return joined.expand(-1, -1, query.shape[2], -1)  # a view: what all queries see alike is stored once


def flash_mask(mask: Tensor | None, prompts: Prompts, batch: int, num_tokens: int) -> Tensor | None:
    """The mask of flash attention, whose prompts stand before the tokens.

    With more keys than queries, transformers takes the last entries of the mask for those of the queries. So the tokens
    must come last.

    Args:
        mask: None, or (B, N), 1 where there is a token.
        prompts: the layer's.
        batch: B.
        num_tokens: N.

    Returns:
        (B, P + N), or None where nothing is missing.
    """
    if mask is None and prompts.present is None:
        return None
    count, device = prompts.keys.shape[-2], prompts.keys.device
    dtype = torch.int32 if mask is None else mask.dtype
    if mask is None:
        mask = torch.ones(batch, num_tokens, dtype=dtype, device=device)
    if prompts.present is None:
        there = torch.ones(batch, count, dtype=dtype, device=device)
    else:
        there = repeat_samples(prompts.present, batch).to(dtype)
    return torch.cat((there, mask), dim=1)
