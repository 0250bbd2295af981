"""A look at what the attention of one layer does with prompts, in any forward and under any implementation.

A probe sees each call as the implementation gets it, and may change the prompts before that: to give each clip its own, of
which a gradient can be taken. Weights are computed here, since fused implementations never have them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .functional import Prompts, repeat_samples

# Weights that are held at a time: 64 MB in float32.
CHUNK = 2**24


class AttentionCall(NamedTuple):
    """One call of an attention with prompts, as its implementation gets it."""

    query: Tensor  # (B, query heads, queries, D)
    key: Tensor  # (B, H, N + P, D), prompts appended
    value: Tensor  # likewise
    num_prompt_tokens: int  # P
    prompts_first: bool  # whether prompts stand before the tokens
    mask: Tensor | None = None  # (B or 1, heads or 1, queries, N + P), or (B, N + P), 1 where there is a key
    position_bias: Tensor | None = None  # (B or 1, heads or 1, queries, N + P)
    gate: Tensor | None = None  # (B, H, N + P), added to the scores of the keys
    scaling: float | None = None  # 1 / sqrt(D) where None
    softcap: float | None = None

    @property
    def prompts(self) -> slice:
        """Where prompts stand among the keys."""
        return slice(self.num_prompt_tokens) if self.prompts_first else slice(-self.num_prompt_tokens, None)

    @property
    def tokens(self) -> slice:
        """Where tokens stand among the keys."""
        return slice(self.num_prompt_tokens, None) if self.prompts_first else slice(-self.num_prompt_tokens)

    def weights(self) -> Iterator[Tensor]:
        """The softmax weights, some queries at a time.

        Yields:
            (B, query heads, some queries, N + P), float32 at least.
        """
        dtype = torch.promote_types(self.query.dtype, torch.float32)
        batch, heads, queries, dim = self.query.shape
        groups = heads // self.key.shape[1]
        key = self.key.to(dtype).repeat_interleave(groups, dim=1).transpose(-1, -2)
        scaling = dim**-0.5 if self.scaling is None else self.scaling
        gate = None if self.gate is None else self.gate.to(dtype).repeat_interleave(groups, dim=1)[:, :, None]
        mask = self.mask
        if mask is not None and mask.dim() == 2:
            mask = repeat_samples(mask, batch).bool()[:, None, None]
        step = max(1, CHUNK // max(1, batch * heads * key.shape[-1]))
        for start in range(0, queries, step):
            scores = self.query[:, :, start : start + step].to(dtype) @ key * scaling
            if gate is not None:
                scores = scores + gate
            if self.softcap is not None:
                scores = self.softcap * torch.tanh(scores / self.softcap)
            for added in (self.position_bias, mask):
                if added is None:
                    continue
                part = added if added.shape[-2] == 1 else added[..., start : start + step, :]
                hidden = part.dtype == torch.bool
                scores = scores.masked_fill(~part, torch.finfo(dtype).min) if hidden else scores + part
            yield scores.softmax(dim=-1)


class Probe:
    """What a layer's `probe` is asked in each of its forwards; this one changes nothing and looks at nothing."""

    def change(self, prompts: Prompts) -> Prompts:
        """The prompts that this forward adds.

        Args:
            prompts: of the active adapters.

        Returns:
            Those in their place.
        """
        return prompts

    def see(self, call: AttentionCall) -> None:
        """Look at a call of the attention.

        Args:
            call: as the implementation gets it.
        """
