"""The method on tensors: no module, no configuration.

    K' = [K ; reparameterize(P_k)]     V' = [V ; reparameterize(P_v)]     out = softmax(Q K'^T / sqrt(D)) V'

Shapes: B batch, H heads of keys and values, N tokens, P prompt tokens, D head dimension.
Source: Bandara & Patel, Attention Prompt Tuning (FG 2024), section 3.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

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
    return prompt * (factor.unsqueeze(-1) if isinstance(factor, Tensor) else factor)


def append_prompts(states: Tensor, prompts: Tensor) -> Tensor:
    """Append prompts after the tokens of keys or values.

    Args:
        states: (B, H, N, D).
        prompts: (P, D) or (H, P, D); cast to the states' dtype.

    Returns:
        (B, H, N + P, D).
    """
    batch, heads, _, dim = states.shape
    prompts = prompts.to(states.dtype).expand(batch, heads, prompts.shape[-2], dim)
    return torch.cat((states, prompts), dim=2)


def pad_mask(mask: Tensor, num_prompt_tokens: int) -> Tensor:
    """Let every query see the prompts: extend a mask, or a bias on the scores, along its keys.

    Args:
        mask: (..., N), boolean (True: attend) or added to the scores; or the (B, N) mask of flash attention (1: attend).
        num_prompt_tokens: P.

    Returns:
        (..., N + P).
    """
    attend: float = 1 if mask.dtype == torch.bool or mask.dim() == 2 else 0
    return F.pad(mask, (0, num_prompt_tokens), value=attend)
