"""Attention over tokens and prompts that keeps little for its backward, where torch's fused kernel of the CPU would do it.

Plain autograd keeps the joined keys and values: a copy of the prompts for each head and clip. Here keys, values and
prompts are kept apart, and joined anew for the backward, by the same kernels, so that the numbers are the same.

In the first prompted layer of a frozen model neither queries, keys nor values of tokens need a gradient. There the
backward computes the columns of the prompts alone (N x P products instead of N x (N + P)) and keeps neither keys nor
values: with logsumexp L of all scores of a query, the weight of a prompt is exp(q . p_k / sqrt(D) - L).

All else takes the ordinary way: other devices and implementations, masks, score biases, gates, prompts of each sample,
compiled, exported and transformed (torch.func) models.

Source: the backward of Dao et al., FlashAttention (NeurIPS 2022), algorithm 4, of which this is the part of the prompts.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .functional import Prompts, append_prompts

ROWS = 2048  # queries of which the backward of prompts alone holds the weights at a time


def keeps_little(
    implementation: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    prompts: Prompts,
    kwargs: dict[str, Any],
) -> bool:
    """Whether `attend` may stand for the implementation over joined keys and values.

    Args:
        implementation: what the model would have called.
        query: (B, heads, queries, D).
        key: (B, H, N, D).
        value: (B, H, N, D).
        mask: of tokens and prompts.
        prompts: the layer's.
        kwargs: of the call.

    Returns:
        True where prompts are trained and torch would take its fused kernel of the CPU.
    """
    tensors = (query, key, value, prompts.keys, prompts.values)
    return (
        not torch.compiler.is_compiling()  # first: nothing else is for a compiler to follow
        and torch.is_grad_enabled()
        and (prompts.keys.requires_grad or prompts.values.requires_grad)
        and implementation is sdpa_attention_forward
        and mask is None
        and prompts.present is None
        and not prompts.gates
        and prompts.keys.dim() < 4
        and not kwargs.get("dropout")
        and kwargs.get("position_bias") is None
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and torch.backends.cuda.flash_sdp_enabled()  # of the CPU's kernel, too: torch.nn.attention.sdpa_kernel sets it
        and all(tensor.device.type == "cpu" and not is_traceable_wrapper_subclass(tensor) for tensor in tensors)
        and query.dtype == key.dtype == value.dtype
        and query.shape[:2] == key.shape[:2]
        and key.shape == value.shape
        and query.shape[-1] == key.shape[-1]
        and query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
        and query.numel() > 0
        and key.numel() > 0
    )


def attend(query: Tensor, key: Tensor, value: Tensor, prompts: Prompts, scaling: float | None) -> Tensor:
    """Attention over tokens and prompts.

    Args:
        query: (B, H, queries, D).
        key: (B, H, N, D).
        value: (B, H, N, D).
        prompts: (P, D) or (H, P, D).
        scaling: of the scores; 1 / sqrt(D) by default.

    Returns:
        (B, queries, H, D).
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    output: Tensor = PromptedAttention.apply(query, key, value, prompts.keys, prompts.values, scaling)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2).contiguous()


class PromptedAttention(torch.autograd.Function):
    """See the module's text."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, prompt_keys: Tensor, prompt_values: Tensor, scaling: float
    ) -> Tensor:
        """(B, H, queries, D)."""
        joined = append_prompts(key, prompt_keys), append_prompts(value, prompt_values)
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, *joined, 0.0, False, scale=scaling
        )
        ctx.scaling = scaling
        ctx.prompts_alone = not any(ctx.needs_input_grad[:3])
        tokens = () if ctx.prompts_alone else (key, value)
        ctx.save_for_backward(query, prompt_keys, prompt_values, output, logsumexp, *tokens)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys, values, prompt keys and prompt values."""
        query, prompt_keys, prompt_values, output, logsumexp, *tokens = ctx.saved_tensors
        if ctx.prompts_alone:
            with torch.autocast(
                "cpu", enabled=False
            ):  # a backward called inside it would lower the products' precision
                of_prompts = _of_prompts_alone(
                    gradient, query, prompt_keys, prompt_values, output, logsumexp, ctx.scaling
                )  # fmt: skip
            return None, None, None, *of_prompts, None
        key, value = tokens
        joined = append_prompts(key, prompt_keys), append_prompts(value, prompt_values)
        d_query, d_key, d_value = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, query, *joined, output, logsumexp, 0.0, False, scale=ctx.scaling
        )
        count = key.shape[2]
        d_prompts = (
            states[:, :, count:].sum((0, 1) if prompt.dim() == 2 else 0).to(prompt.dtype)
            for states, prompt in ((d_key, prompt_keys), (d_value, prompt_values))
        )
        return d_query, d_key[:, :, :count], d_value[:, :, :count], *d_prompts, None


def _of_prompts_alone(
    gradient: Tensor,
    query: Tensor,
    prompt_keys: Tensor,
    prompt_values: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of prompt keys and values, in float32 or better; the sums over queries, heads and clips are products."""
    exact = torch.promote_types(query.dtype, torch.float32)
    heads, dim = query.shape[1], query.shape[-1]
    d_keys, d_values = (torch.zeros_like(prompt, dtype=exact) for prompt in (prompt_keys, prompt_values))
    each_head = prompt_keys.dim() == 3
    for head in range(heads):
        # as the attention saw them: rounded to its dtype
        p_key, p_value, d_key, d_value = (
            states[head] if each_head else states
            for states in (prompt_keys.to(query.dtype).to(exact), prompt_values.to(query.dtype).to(exact), d_keys, d_values)
        )  # fmt: skip
        rows = (states[:, head].reshape(-1, dim) for states in (query, gradient, output))
        parts = (states.split(ROWS) for states in (*rows, logsumexp[:, head].reshape(-1, 1)))
        for some in zip(*parts, strict=True):
            q, g, out, total = (states.to(exact) for states in some)
            weights = torch.addmm(total, q, p_key.t(), beta=-1, alpha=scaling).exp_()  # (rows, P)
            d_value.addmm_(weights.t(), g)
            mean = (g * out).sum(-1, keepdim=True)
            d_scores = torch.addmm(mean, g, p_value.t(), beta=-1).mul_(weights)
            d_key.addmm_(d_scores.t(), q, alpha=scaling)
    return d_keys.to(prompt_keys.dtype), d_values.to(prompt_values.dtype)
