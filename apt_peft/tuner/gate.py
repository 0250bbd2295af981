"""The key-side gate: learned scores of the tokens' own keys, so that an adapter can say what not to look at.

Appended keys leave the tokens' weights relative to each other as they were. A gate changes them: a few directions of a
layer score each token's key, and the result joins that token's logits for all queries alike.

    g(k) = sum_i w_i GELU(k . d_i / 4)          softmax_n (q . k_n / sqrt(D) + g(k_n))

It is no part of Attention Prompt Tuning as published: an addition of this project, off by default.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Deviation of the directions at the start, and what divides their products with the keys: then GELU sees numbers below 1.
DIRECTION_DEVIATION = 0.1
TEMPERATURE = 4.0
# Flash and flex kernels take head dimensions that are multiples of this.
KERNEL_MULTIPLE = 8


class Gate(NamedTuple):
    """One adapter's gate in one layer."""

    directions: Tensor  # (r, D), for all heads
    weights: Tensor  # (r,)


def gate_scores(keys: Tensor, gates: Sequence[Gate]) -> Tensor:
    """What gates add to the logits of tokens.

    Args:
        keys: (B, H, N, D), as the attention sees them.
        gates: of the active adapters; their scores add up.

    Returns:
        (B, H, N), of the keys' dtype.
    """
    total = keys.new_zeros(keys.shape[:-1])
    for gate in gates:
        hidden = F.gelu(keys @ gate.directions.to(keys.dtype).t() / TEMPERATURE)
        total = total + hidden @ gate.weights.to(keys.dtype)
    return total


def widen(
    query: Tensor, key: Tensor, value: Tensor, scores: Tensor, scaling: float, *, multiple: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry scores of the keys in one more head dimension: 1 in the queries, the score in the keys, 0 in the values.

    No implementation needs a mask for that, and a fused kernel gives its gradient, which it doesn't for a mask.

    Args:
        query: (B, query heads, queries, D).
        key: (B, H, keys, D).
        value: (B, H, keys, D).
        scores: (B, H, keys), added to the logits.
        scaling: factor of the logits.
        multiple: the new head dimension is a multiple of this.

    Returns:
        Queries, keys and values of head dimension D' > D; only the first D of the result mean anything.
    """
    padding = -(query.shape[-1] + 1) % multiple
    one = query.new_ones(()).expand(*query.shape[:-1], 1)
    score = (scores / scaling).to(key.dtype).unsqueeze(-1)
    query, key = torch.cat((query, one), dim=-1), torch.cat((key, score), dim=-1)
    if padding:
        query, key = F.pad(query, (0, padding)), F.pad(key, (0, padding))
    return query, key, F.pad(value, (0, padding + 1))


def gated(implementation: Any, scores: Tensor, name: str) -> Any:
    """An implementation of attention that adds scores to the logits of the keys.

    Args:
        implementation: in the signature of transformers' attention interface.
        scores: (B, H, keys).
        name: of the implementation.

    Returns:
        A function in the same signature; its output is (B, N, query heads, D) as before.
    """

    def forward(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> tuple[Any, Any]:
        dim = query.shape[-1]
        scaling = kwargs.pop("scaling", None)
        scaling = dim**-0.5 if scaling is None else scaling
        multiple = KERNEL_MULTIPLE if "flash" in name or "flex" in name else 1
        query, key, value = widen(query, key, value, scores, scaling, multiple=multiple)
        output, weights = implementation(module, query, key, value, mask, scaling=scaling, **kwargs)
        return output[..., :dim].contiguous(), weights

    return forward
