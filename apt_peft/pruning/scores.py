"""How much each prompt counts, by four measures, and which of them are kept.

For a prompt with key k and value v, softmax weight a and loss L of a clip:

- `attention`: a, in the mean over clips, heads and queries
- `taylor`: sum over the elements of |dL/dk k| + |dL/dv v|, in the mean over clips
- `removal`: |dL/db|, b a bias on the prompt's attention score, in the mean over clips. With weights proportional to m e^s, m
  from 1 to 0 takes the prompt out, and dL/dm at 1 is dL/db at 0: the change of the loss by first order
- `random`: a draw, what the others are compared with
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from apt_peft.errors import ConfigError
from apt_peft.insight import prompt_attention
from apt_peft.scores.stream import clip_logits
from apt_peft.tuner.functional import Prompts
from apt_peft.tuner.passes import inputs_on, layers_of, run, undisturbed
from apt_peft.tuner.probe import Probe

MEASURES = ("attention", "taylor", "removal", "random")
SCOPES = ("layer", "model")


def prompt_scores(
    model: nn.Module,
    dataloader: Iterable[Any],
    *,
    by: str = "attention",
    adapter_name: str | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Score each prompt of an adapter on calibration clips; more is more important.

    Prompts of each head are scored together: p is the p-th of all heads. The model is left as it was.

    Args:
        model: a model with attention prompts, as `get_peft_model` returns it.
        dataloader: its batches are mappings with `pixel_values`, and `labels` for `taylor` and `removal`.
        by: `attention`, `taylor`, `removal` or `random`.
        adapter_name: which adapter; it must be the only active one, which is the default.
        seed: of `random`.

    Returns:
        float64 (P,) by the names of the layers in the base model.

    Raises:
        ConfigError: there is no such measure or adapter, no batch or label, or scores are not finite.

    Source: `taylor` follows Molchanov et al. (ICLR 2017); `removal` is this project's.
    """
    if by not in MEASURES:
        raise ConfigError(f"by ({by!r}) must be one of {', '.join(MEASURES)}.")
    name, layers = layers_of(model, adapter_name, use="scoring its prompts")
    if by == "random":
        generator = torch.Generator().manual_seed(seed)
        return {
            key: torch.rand(layer.num_prompt_tokens(name), generator=generator, dtype=torch.float64)
            for key, layer in layers.items()
        }
    if by == "attention":
        found = prompt_attention(model, dataloader, adapter_name=name)
        return {key: each.by_prompt for key, each in found.items()}
    return _by_gradient(model, dataloader, name, layers, removal=by == "removal")


class _OfEachClip(Probe):
    """Gives each clip of a batch prompts of its own, so that one backward pass gives the gradient of each."""

    def __init__(self, *, removal: bool) -> None:
        self.removal, self.clips = removal, 0
        self.leaves: list[Tensor] = []
        self.total: Tensor | None = None

    def change(self, prompts: Prompts) -> Prompts:
        if self.removal:
            bias = prompts.keys.new_zeros(prompts.keys.shape[-2]) if prompts.bias is None else prompts.bias
            self.leaves = [bias.detach().expand(self.clips, -1).clone().requires_grad_()]
            return prompts._replace(bias=self.leaves[0])
        states = [part if part.dim() == 3 else part[None] for part in (prompts.keys, prompts.values)]
        self.leaves = [part.detach().expand(self.clips, *part.shape).clone().requires_grad_() for part in states]
        return prompts._replace(keys=self.leaves[0], values=self.leaves[1])

    def add(self, gradients: list[Tensor]) -> None:
        """Add what one batch says."""
        if self.removal:
            scores = gradients[0].double().abs()
        else:
            products = [
                (gradient.double() * leaf.detach().double()).abs().sum(dim=(1, 3))
                for gradient, leaf in zip(gradients, self.leaves, strict=True)
            ]
            scores = products[0] + products[1]
        total = scores.sum(dim=0).cpu()
        self.total = total if self.total is None else self.total + total


def _by_gradient(
    model: nn.Module, dataloader: Iterable[Any], name: str, layers: Mapping[str, Any], *, removal: bool
) -> dict[str, Tensor]:
    probes = {key: _OfEachClip(removal=removal) for key in layers}
    clips = 0
    with undisturbed(model), torch.enable_grad(), ExitStack() as stack:
        for key, layer in layers.items():
            stack.callback(setattr, layer, "probe", layer.probe)
            layer.probe = probes[key]
        device = next(iter(layers.values())).attention_prompt_key[name].device
        for batch in dataloader:
            inputs, labels = inputs_on(batch, device)
            for probe in probes.values():
                probe.clips = len(labels)
            logits = clip_logits(run(model, inputs).logits, len(labels)).float()
            _check_labels(labels, logits.shape[-1])
            loss = torch.nn.functional.cross_entropy(logits, labels.to(logits.device), reduction="sum")
            leaves = [leaf for probe in probes.values() for leaf in probe.leaves]
            # a layer of which the loss knows nothing counts for nothing
            gradients = list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
            for probe in probes.values():
                if probe.leaves:
                    probe.add([gradients.pop(0) for _ in probe.leaves])
            clips += len(labels)
    if not clips:
        raise ConfigError("dataloader must yield a batch, but it is empty. Pass one with at least one clip.")
    nothing = {key: torch.zeros(layer.num_prompt_tokens(name), dtype=torch.float64) for key, layer in layers.items()}
    scores = {key: nothing[key] if probe.total is None else probe.total / clips for key, probe in probes.items()}
    if bad := [key for key, each in scores.items() if not each.isfinite().all()]:
        raise ConfigError(
            f"dataloader must yield clips with finite gradients, but those of {bad[0]} are not. Check its pixel_values, and "
            "the weights of backbone and adapter."
        )
    return scores


def _check_labels(labels: Tensor, classes: int) -> None:
    if bool(((labels < 0) | (labels >= classes)).any()):
        raise ConfigError(
            f"labels ({labels.tolist()[:10]}) must be numbers of the model's {classes} classes, for a loss is taken of each "
            'clip. Yield them beside the clips, or score by="attention".'
        )


def choose_prompts(
    scores: Mapping[str, Tensor], keep: float, *, scope: str = "layer", least: int = 0
) -> dict[str, list[int]]:
    """The best prompts.

    Args:
        scores: of `prompt_scores`.
        keep: part of the prompts to keep, above 0 and at most 1; of each layer, or of all layers together. A half is
            rounded up, and one prompt is kept at least.
        scope: `layer`: the same part of each layer; `model`: the best of all layers, so that some keep more than others.
        least: with `model`, how many prompts each layer keeps whatever their scores.

    Returns:
        For each layer the indices that are kept, rising; of equal scores the first.

    Raises:
        ConfigError: a value breaks its rule.
    """
    problems = []
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
        problems.append(f"keep ({keep!r}) must be a number above 0 and at most 1.")
    if scope not in SCOPES:
        problems.append(f'scope ({scope!r}) must be "layer" or "model".')
    if bad := [key for key, each in scores.items() if not each.isfinite().all()]:
        problems.append(f"scores[{bad[0]!r}] must be finite.")
    if problems:
        raise ConfigError(" ".join(problems))
    orders = {key: each.argsort(descending=True, stable=True).tolist() for key, each in scores.items()}
    if scope == "layer":
        return {key: sorted(order[: _part(keep, len(order))]) for key, order in orders.items()}
    kept = {key: order[:least] for key, order in orders.items()}
    rest = [(-float(scores[key][index]), key, index) for key, order in orders.items() for index in order[least:]]
    rest.sort(key=lambda row: row[0])  # stable: layers and prompts in their order
    wanted = _part(keep, sum(map(len, orders.values()))) - sum(map(len, kept.values()))
    for _, key, index in rest[: max(0, wanted)]:
        kept[key].append(index)
    return {key: sorted(indices) for key, indices in kept.items()}


def _part(keep: float, count: int) -> int:
    return max(1, math.floor(keep * count + 0.5))


class _Kept(Probe):
    def __init__(self, indices: list[int]) -> None:
        self.indices = indices

    def change(self, prompts: Prompts) -> Prompts:
        keys, values = (part[..., self.indices, :] for part in (prompts.keys, prompts.values))
        bias = None if prompts.bias is None else prompts.bias[..., self.indices]
        return prompts._replace(keys=keys, values=values, bias=bias)


@contextmanager
def only_prompts(model: nn.Module, kept: Mapping[str, list[int]], *, adapter_name: str | None = None) -> Iterator[None]:
    """Let a model compute as if an adapter had been pruned, for a while.

    Args:
        model: as for `prompt_scores`.
        kept: as `choose_prompts` gives it; layers that it does not name keep all.
        adapter_name: which adapter; it must be the only active one, which is the default.

    Raises:
        ConfigError: there is no such adapter, or it is not the only active one.
    """
    _, layers = layers_of(model, adapter_name, use="leaving prompts out")
    with ExitStack() as stack:
        for key, layer in layers.items():
            if key in kept:
                stack.callback(setattr, layer, "probe", layer.probe)
                layer.probe = _Kept(list(kept[key]))
        yield
