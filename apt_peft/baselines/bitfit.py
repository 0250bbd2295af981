"""BitFit: every bias that the frozen model has is trained, and nothing else but the head."""

import re
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from peft.utils import PeftType
from torch import Tensor

from apt_peft.errors import TargetError
from apt_peft.tuner.families import heads_of

from .common import BaselineConfig, BaselineLayer, BaselineModel

KINDS = (nn.Linear, nn.LayerNorm, nn.Conv2d, nn.Conv3d)


@dataclass
class BitFitConfig(BaselineConfig):
    """Configuration of BitFit.

    Args:
        target_modules: None: every Linear, LayerNorm and convolution with a bias outside the head.

    An adapter holds what is added to each bias, zero at the start; that is the same as training the bias itself.

    Source: Ben Zaken et al., BitFit (ACL 2022).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.BITFIT  # type: ignore[attr-defined]


class BiasLayer(BaselineLayer):
    """Wraps a Linear, a LayerNorm or a convolution, whose bias gets an adapter's change added."""

    adapter_layer_names = ("bitfit_bias",)

    def make_containers(self) -> None:
        """Make the dictionary."""
        self.bitfit_bias = nn.ParameterDict()

    def update_layer(self, adapter_name: str, config: BitFitConfig) -> None:
        """Add an adapter's change of the bias, zero."""
        if not isinstance(self.base_layer, KINDS) or self.base_layer.bias is None:
            raise TargetError(
                f"target_modules must match modules with a bias (Linear, LayerNorm, Conv2d, Conv3d), but it matches a "
                f"{type(self.base_layer).__name__} without one. Leave target_modules out for all that have one."
            )
        self.bitfit_bias[adapter_name] = nn.Parameter(torch.zeros_like(self.base_layer.bias))
        self.finish(config)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The wrapped module with its bias changed; (..., features) as it has them."""
        base: Any = self.base_layer
        names = [] if self.merged else self.acting()
        if not names:
            return base(x, *args, **kwargs)
        bias = base.bias + sum(self.bitfit_bias[name].to(base.bias.dtype) for name in names)
        if isinstance(base, nn.Linear):
            return F.linear(x, base.weight, bias)
        if isinstance(base, nn.LayerNorm):
            return F.layer_norm(x, base.normalized_shape, base.weight, bias, base.eps)
        return base._conv_forward(x, base.weight, bias)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the active adapters' changes to the bias itself.

        Args:
            safe_merge: refuse changes that are not finite.
            adapter_names: which adapters; the active ones by default.

        Raises:
            ValueError: `safe_merge` found such a change.
        """
        for name in adapter_names or self.active_adapters:
            if name not in self.bitfit_bias or name in self.merged_adapters:
                continue
            change = self.bitfit_bias[name].to(self.base_layer.bias.dtype)  # type: ignore[union-attr]
            if safe_merge and not torch.isfinite(change).all():
                raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken.")
            self.base_layer.bias += change  # type: ignore[operator, union-attr]
            self.merged_adapters.append(name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the changes off again."""
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            self.base_layer.bias -= self.bitfit_bias[name].to(self.base_layer.bias.dtype)  # type: ignore[operator, union-attr]


class BitFitModel(BaselineModel):
    """A frozen model whose biases are trained."""

    prefix = "bitfit_"
    tuner_layer_cls = layer_class = BiasLayer

    @classmethod
    def default_targets(cls, config: BitFitConfig, model: nn.Module) -> str | None:
        """An expression for all modules with a bias outside the head, numbers in their names left open."""
        heads = tuple(f"{head}." for head in heads_of(model))
        names = [
            name
            for name, module in model.named_modules()
            if isinstance(module, KINDS) and module.bias is not None and not f"{name}.".startswith(heads)
        ]
        folded = sorted({re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(name)) for name in names})
        return "|".join(folded) if folded else None
