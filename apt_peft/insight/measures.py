"""What prompts do in a model, in numbers: the attention they get, how many directions they span, how large they are."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from apt_peft.errors import ConfigError
from apt_peft.tuner.passes import inputs_on, layers_of, run, undisturbed
from apt_peft.tuner.probe import AttentionCall, Probe

DEAD_BELOW = 0.1
GRADIENTS = ("key", "value", "scale", "bias", "gate", "gate_weight")


@dataclass(frozen=True)
class PromptAttention:
    """The attention that the prompts of one layer get, over some clips.

    Args:
        by_head: float64 (heads, P), the softmax weight on each prompt, in the mean over clips and queries.
        uniform: the weight of each key if all N + P had the same, in the mean over calls.
        key_rms: root of the mean square of the backbone's own keys.
        value_rms: the same of its values.
    """

    by_head: Tensor
    uniform: float
    key_rms: float
    value_rms: float

    @property
    def by_prompt(self) -> Tensor:
        """(P,), the mean over heads."""
        return self.by_head.mean(dim=0)

    @property
    def mass(self) -> float:
        """The weight on all prompts together, between 0 and 1."""
        return float(self.by_prompt.sum())

    @property
    def uniform_mass(self) -> float:
        """P / (N + P): the mass if all keys had the same weight."""
        return self.uniform * self.by_head.shape[1]

    def dead(self, below: float = DEAD_BELOW) -> Tensor:
        """Which prompts no head looks at.

        Args:
            below: a prompt is dead if its mean weight is below this part of 1 / (N + P) in every head.

        Returns:
            Boolean (P,).
        """
        return self.by_head.amax(dim=0) < below * self.uniform


@dataclass
class _Sums(Probe):
    """Sums over the calls of one layer."""

    weights: Tensor | None = None
    rows: int = 0
    calls: int = 0
    uniform: float = 0.0
    squares: dict[str, float] = field(default_factory=lambda: {"key": 0.0, "value": 0.0})
    numbers: int = 0

    def see(self, call: AttentionCall) -> None:
        total = sum(part[..., call.prompts].double().sum(dim=(0, 2)) for part in call.weights())
        assert isinstance(total, Tensor)
        self.weights = total if self.weights is None else self.weights + total
        rows = call.query.shape[0] * call.query.shape[2]
        self.rows += rows
        self.uniform += rows / call.key.shape[2]
        for name in self.squares:
            tokens = getattr(call, name)[:, :, call.tokens]
            self.squares[name] += float(tokens.double().square().sum())
        self.numbers += tokens.numel()

    def result(self) -> PromptAttention:
        assert self.weights is not None
        rms = {name: (total / max(1, self.numbers)) ** 0.5 for name, total in self.squares.items()}
        return PromptAttention((self.weights / self.rows).cpu(), self.uniform / self.rows, rms["key"], rms["value"])


@torch.no_grad()
def prompt_attention(
    model: nn.Module, dataloader: Iterable[Any], *, adapter_name: str | None = None
) -> dict[str, PromptAttention]:
    """The attention that an adapter's prompts get in each layer, over calibration clips.

    Exact under every implementation of attention (the weights are computed apart, in float32), in evaluation mode. The
    model, its modes and the random states are left as they were, so that a training callback may call it.

    Args:
        model: a model with attention prompts, as `get_peft_model` returns it.
        dataloader: its batches are mappings with `pixel_values`, or tensors; labels are not used.
        adapter_name: which adapter; it must be the only active one, which is the default.

    Returns:
        By the names of the attention modules in the base model, from the first layer to the last.

    Raises:
        ConfigError: there is no such adapter, it is not the only active one, there is no batch, or weights are not finite.
    """
    name, layers = layers_of(model, adapter_name, use="looking at its prompts")
    sums = {key: _Sums() for key in layers}
    clips = 0
    with undisturbed(model), ExitStack() as stack:
        for key, layer in layers.items():
            stack.callback(setattr, layer, "probe", layer.probe)
            layer.probe = sums[key]
        device = next(iter(layers.values())).attention_prompt_key[name].device
        for batch in dataloader:
            inputs, labels = inputs_on(batch, device)
            run(model, inputs)
            clips += len(labels)
    if not clips:
        raise ConfigError("dataloader must yield a batch, but it is empty. Pass one with at least one clip.")
    found = {key: each.result() for key, each in sums.items()}
    bad = [key for key, each in found.items() if not each.by_head.isfinite().all()]
    if bad:
        raise ConfigError(
            f"dataloader must yield clips on which attention is finite, but in {bad[0]} it is not. Check its pixel_values, "
            "and the weights of backbone and adapter."
        )
    return found


def effective_rank(states: Tensor) -> float:
    """How many directions vectors span: the exponential of the entropy of their singular values.

    Args:
        states: (P, D), or (H, P, D) for the mean over heads; not centred.

    Returns:
        Between 1, all along one line, and min(P, D), all directions alike; 0 where all are zero.

    Source: Roy & Vetterli, The effective rank (EUSIPCO 2007).
    """
    if states.dim() > 2:
        return sum(effective_rank(part) for part in states) / len(states)
    values = torch.linalg.svdvals(states.detach().double())
    if not values.sum() > 0:
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def prompt_states(model: nn.Module, *, adapter_name: str | None = None) -> dict[str, dict[str, float]]:
    """Size and spread of an adapter's prompts as the attention sees them, after their scales.

    Args:
        model: as for `prompt_attention`.
        adapter_name: which adapter; the only active one by default.

    Returns:
        For each layer `prompts` (P), `key_rms`, `value_rms`, `key_rank` and `value_rank` (effective ranks).

    Raises:
        ConfigError: there is no such adapter, or it is not the only active one.
    """
    name, layers = layers_of(model, adapter_name, use="looking at its prompts")
    found = {}
    for key, layer in layers.items():
        with torch.no_grad():
            prompts = layer.effective_prompts(name, dropout=False)
        found[key] = {
            "prompts": layer.num_prompt_tokens(name),
            "key_rms": _rms(prompts.keys),
            "value_rms": _rms(prompts.values),
            "key_rank": effective_rank(prompts.keys),
            "value_rank": effective_rank(prompts.values),
        }
    return found


def gradient_norms(model: nn.Module, *, adapter_name: str | None = None) -> dict[str, dict[str, float]]:
    """Norms of the gradients that an adapter's prompts have now, for a training loop after `backward`.

    Args:
        model: as for `prompt_attention`.
        adapter_name: which adapter; the only active one by default.

    Returns:
        For each layer the norm by kind of tensor (`key`, `value`, `scale`, ...), of those that have a gradient.

    Raises:
        ConfigError: there is no such adapter, or it is not the only active one.
    """
    name, layers = layers_of(model, adapter_name, use="looking at its prompts")
    found = {}
    for key, layer in layers.items():
        tensors = {kind: getattr(layer, f"attention_prompt_{kind}").get(name) for kind in GRADIENTS}
        found[key] = {
            kind: float(tensor.grad.detach().float().norm())
            for kind, tensor in tensors.items()
            if tensor is not None and tensor.grad is not None
        }
    return found


def _rms(states: Tensor) -> float:
    return float(states.detach().double().square().mean().sqrt())
