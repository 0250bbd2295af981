"""What is trained beside the head in one run: methods of the package, and prototypes that the package does not have.

A run's `method` is one of `apt_peft.baselines.methods` or `apt`; for `apt` the rest of its settings says which prompts, and
which of the prototypes below join them. All of them act after the projections, as prompts do, and begin at the identity.
"""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from peft import get_peft_model
from tasks import CLASSES
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from transformers import VideoMAEForVideoClassification

from apt_peft import AttentionPromptConfig, initialize_prompts_from_data
from apt_peft.baselines.methods import method_config
from apt_peft.training.head import initialize_head
from apt_peft.tuner.families import heads_of
from apt_peft.tuner.layer import AttentionPromptLayer

PROTOTYPE = "science"  # in the names of the prototypes' parameters


class Mix(nn.Module):
    """A low-rank change of queries or values, the same for all heads: x + f(s A^T) B, where s is x itself or the keys.

    Args:
        dim: D.
        rank: rows of A and B, B zero at the start.
        heads: 1 for all heads alike, H for each its own.
        nonlinear: f is GELU, else nothing.
    """

    def __init__(self, dim: int, rank: int, heads: int = 1, *, nonlinear: bool = False) -> None:
        super().__init__()
        self.science_down = nn.Parameter(torch.randn(heads, rank, dim) * dim**-0.5)
        self.science_up = nn.Parameter(torch.zeros(heads, rank, dim))
        self.nonlinear = nonlinear

    def forward(self, states: Tensor, source: Tensor) -> Tensor:
        """(B, N, H, D) of both as (B, N, H, D)."""
        hidden = torch.einsum("bnhd,hrd->bnhr", source, self.science_down.expand(source.shape[2], -1, -1))
        hidden = F.gelu(hidden) if self.nonlinear else hidden
        return states + torch.einsum("bnhr,hrd->bnhd", hidden, self.science_up.expand(source.shape[2], -1, -1))


class Affine(nn.Module):
    """A factor and a summand of each channel of queries or values."""

    def __init__(self, width: int, kinds: str) -> None:
        super().__init__()
        self.science_factor = nn.Parameter(torch.zeros(width)) if "s" in kinds else None
        self.science_bias = nn.Parameter(torch.zeros(width)) if "b" in kinds else None

    def forward(self, states: Tensor) -> Tensor:
        """(B, N, width) as (B, N, width)."""
        if self.science_factor is not None:
            states = states * (1 + self.science_factor)
        return states if self.science_bias is None else states + self.science_bias


class ValueGate(nn.Module):
    """A factor of each token's value, from its own key: 1 + sum_i w_i GELU(k . d_i / 4)."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.science_down = nn.Parameter(torch.randn(rank, dim) * 0.1)
        self.science_weight = nn.Parameter(torch.zeros(rank))

    def forward(self, states: Tensor, keys: Tensor) -> Tensor:
        """(B, N, H, D) of both as (B, N, H, D)."""
        return states * (1 + F.gelu(keys @ self.science_down.t() / 4) @ self.science_weight).unsqueeze(-1)


def add_prototypes(attention: Any, run: dict[str, Any]) -> None:
    """Hang what a run asks for on one attention module's projections.

    Args:
        attention: VideoMAE's self-attention.
        run: with `query_mix`, `value_mix`, `value_mix_from_keys`, `mix_per_head`, `value_gate`, `query_affine`,
            `value_affine`.
    """
    heads, dim, seen = attention.num_attention_heads, attention.attention_head_size, {}
    own = heads if run.get("mix_per_head") else 1

    def split(states: Tensor) -> Tensor:
        return states.unflatten(-1, (heads, dim))

    def hook(target: str, change: nn.Module, with_keys: bool) -> None:
        attention.add_module(f"science_{target}_{len(seen)}_{type(change).__name__.lower()}", change)

        def act(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            if isinstance(change, Affine):
                return change(output)
            states = split(output)
            return change(states, split(seen["keys"]) if with_keys else states).flatten(-2)

        getattr(attention, target).register_forward_hook(act)

    attention.key.register_forward_hook(lambda _, __, output: seen.update(keys=output))
    for target in ("query", "value"):
        if kinds := run.get(f"{target}_affine"):
            hook(target, Affine(heads * dim, kinds), False)
        if rank := run.get(f"{target}_mix"):
            hook(target, Mix(dim, rank, own, nonlinear=bool(run.get("mix_nonlinear"))), False)
    if rank := run.get("value_mix_from_keys"):
        hook("value", Mix(dim, rank, own, nonlinear=True), True)
    if rank := run.get("value_gate"):
        hook("value", ValueGate(dim, rank), True)


def build(backbone: str, run: dict[str, Any], clips: Tensor) -> nn.Module:
    """A frozen backbone with what a run trains.

    Args:
        backbone: its folder.
        run: its settings; `seed` decides every start.
        clips: training clips, some of which start the prompts where `init` is `data`.

    Returns:
        The model; what requires grad is trained.
    """
    base = VideoMAEForVideoClassification.from_pretrained(backbone, num_labels=CLASSES, use_mean_pooling=True)
    torch.manual_seed(run["seed"])
    initialize_head(base.classifier, seed=run["seed"])
    norms = ["layernorm_before", "layernorm_after"] if run.get("norms") else []
    if run["method"] != "apt":
        config = method_config(run["method"], base, run.get("size"))
        config.modules_to_save = [*norms, *(config.modules_to_save or heads_of(base))]
        return get_peft_model(base, config)
    from_data = run.get("init") == "data"
    prompts = run.get("prompts", 0)
    model = get_peft_model(
        base,
        AttentionPromptConfig(
            num_prompt_tokens=max(prompts, 1),
            prompt_dropout=run.get("prompt_dropout", 0.0),
            key_gate=run.get("key_gate", 0),
            reparameterization=run.get("reparameterization", "max"),
            share_prompts_across_heads=not run.get("per_head", False),
            init_weights="data" if from_data else True,
            target_modules=None if prompts else [],
            modules_to_save=[*norms, *heads_of(base)],
        ),
    )
    if from_data and prompts:
        loader = DataLoader(TensorDataset(clips[:64]), batch_size=32, collate_fn=lambda rows: {
            "pixel_values": torch.stack([row[0] for row in rows])
        })  # fmt: skip
        initialize_prompts_from_data(model, loader, seed=run["seed"])
    for module in model.modules():
        if type(module).__name__ == "VideoMAESelfAttention":
            add_prototypes(module, run)
    for name, parameter in model.named_parameters():
        if run.get("biases") and name.endswith(".bias") and "encoder.layer" in name and "original" not in name:
            parameter.requires_grad_(True)
    for layer in model.modules():
        if isinstance(layer, AttentionPromptLayer) and run.get("zero_values"):
            for values in layer.attention_prompt_value.values():
                nn.init.zeros_(values)
    return model


GROUPS = (  # part of a parameter's name -> which rate it learns at; the first that fits counts
    ("layernorm_", "norms"),
    ("modules_to_save", "head"),
    ("attention_prompt_gate", "gate"),
    ("attention_prompt_value", "values"),
    ("attention_prompt_", "prompts"),
    (PROTOTYPE, "extra"),
    (".bias", "norms"),
)


def optimizer_of(model: nn.Module, run: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW with a rate for each kind of parameter.

    Args:
        model: with what is trained requiring grad.
        run: with `lr`, `head_lr`, and perhaps `gate_lr`, `values_lr`, `extra_lr`, `norms_lr`, which are `lr` otherwise.

    Returns:
        The optimizer; weight decay 1e-5 on tensors of two dimensions and more.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = next((kind for part, kind in GROUPS if part in name), "prompts")
            groups.setdefault((kind, parameter.ndim >= 2), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": run.get(f"{kind}_lr", run["lr"]),
                "weight_decay": 1e-5 if decays else 0.0,
                "name": kind,
            }
            for (kind, decays), parameters in groups.items()
        ]
    )
