"""AdaptFormer: a narrow two-layer branch beside each MLP, added to its output with a small factor."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch.nn as nn
import torch.nn.functional as F
from peft.utils import PeftType
from torch import Tensor

from apt_peft.errors import ConfigError
from apt_peft.tuner.families import model_type

from .common import VIDEOMAE, BaselineConfig, BaselineLayer, BaselineModel

MLP_OUTPUT = r"(?:.*\.)?encoder\.layer\.\d+\.output"


@dataclass
class AdaptFormerConfig(BaselineConfig):
    """Configuration of AdaptFormer.

    Args:
        bottleneck: width of the branch.
        scale: factor on the branch's output.
        dropout: probability in [0, 1) with which the branch's hidden units are dropped while training.

    The branch takes what enters the MLP's half of a block, before its norm: down, ReLU, dropout, up. Down is drawn as
    torch's Linear draws (Kaiming, a = sqrt(5)), up and the biases are zero, so that training starts at the backbone.

    Raises:
        ConfigError: a value breaks its rule.

    Source: Chen et al., AdaptFormer (NeurIPS 2022); factor 0.1, width 64, dropout 0.1 and no norm of its own as there.
    """

    bottleneck: int = field(default=64, metadata={"help": "Width of the branch."})
    scale: float = field(default=0.1, metadata={"help": "Factor on the branch's output."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout in the branch while training."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.ADAPTFORMER  # type: ignore[attr-defined]
        if not isinstance(self.bottleneck, int) or isinstance(self.bottleneck, bool) or self.bottleneck < 1:
            raise ConfigError(f"bottleneck ({self.bottleneck!r}) must be a whole number from 1 on.")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout ({self.dropout!r}) must be a number of at least 0 and below 1.")
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float) or not math.isfinite(self.scale):
            raise ConfigError(f"scale ({self.scale!r}) must be a finite number.")


class AdaptFormerLayer(BaselineLayer):
    """Wraps the module that ends an MLP: `(hidden, input) -> dense(hidden) + input`."""

    adapter_layer_names = ("adaptformer_down", "adaptformer_up")
    other_param_names = ("scale", "dropout")

    def make_containers(self) -> None:
        """Make the dictionaries."""
        self.adaptformer_down, self.adaptformer_up = nn.ModuleDict(), nn.ModuleDict()
        self.scale: dict[str, float] = {}
        self.dropout: dict[str, float] = {}

    def update_layer(self, adapter_name: str, config: AdaptFormerConfig) -> None:
        """Add an adapter's branch, which does nothing yet."""
        width, place = self.model_config.hidden_size, self.place()
        # nn.Linear's own start is Kaiming's with a = sqrt(5)
        down = nn.Linear(width, config.bottleneck, **place)
        up = nn.Linear(config.bottleneck, width, **place)
        for tensor in (down.bias, up.weight, up.bias):
            nn.init.zeros_(tensor)
        self.adaptformer_down[adapter_name], self.adaptformer_up[adapter_name] = down, up
        self.scale[adapter_name], self.dropout[adapter_name] = config.scale, config.dropout
        self.finish(config)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The wrapped module's output with the branches' added.

        Args:
            hidden_states: hidden layer of the MLP.
            input_tensor: (B, N, hidden size), what the MLP's output is added to.

        Returns:
            (B, N, hidden size).
        """
        output: Tensor = self.base_layer(hidden_states, input_tensor, *args, **kwargs)
        for name in self.acting():
            down, up = self.adaptformer_down[name], self.adaptformer_up[name]
            hidden = F.relu(down(input_tensor.to(down.weight.dtype)))
            hidden = F.dropout(hidden, self.dropout[name], self.training)
            output = output + (self.scale[name] * up(hidden)).to(output.dtype)
        return output


class AdaptFormerModel(BaselineModel):
    """A frozen VideoMAE with AdaptFormer's branches."""

    prefix = "adaptformer_"
    tuner_layer_cls = layer_class = AdaptFormerLayer

    @classmethod
    def default_targets(cls, config: AdaptFormerConfig, model: nn.Module) -> str | None:
        """The ends of all MLPs of VideoMAE's encoder."""
        return MLP_OUTPUT if model_type(model) == VIDEOMAE else None
