"""Visual Prompt Tuning: learned tokens before the patch tokens, at the first block or anew at every block."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from peft.utils import PeftType
from torch import Tensor
from transformers.utils import ModelOutput

from apt_peft.errors import ConfigError
from apt_peft.tuner.families import model_type, patch_elements
from apt_peft.tuner.functional import published_bound

from .common import VIDEOMAE, BaselineConfig, BaselineLayer, BaselineModel

ENCODER = r"(?:.*\.)?videomae\.encoder|encoder"
BLOCKS = r"(?:.*\.)?encoder\.layer\.\d+"


@dataclass
class VisualPromptConfig(BaselineConfig):
    """Configuration of Visual Prompt Tuning.

    Args:
        num_prompt_tokens: P, learned tokens.
        deep: True: P tokens of its own for every block; those of the block before are dropped. False: P tokens before
            the first block, which go through all of them.
        prompt_dropout: probability in [0, 1) with which elements of the prompts are dropped while training, each
            sample by itself.

    Only patch tokens leave the encoder, so a classifier that pools all tokens pools these alone.

    Raises:
        ConfigError: a value breaks its rule.

    Source: Jia et al., Visual Prompt Tuning (ECCV 2022).
    """

    num_prompt_tokens: int = field(default=50, metadata={"help": "Learned tokens (of each block, if deep)."})
    deep: bool = field(default=True, metadata={"help": "Tokens for every block, or for the first alone."})
    prompt_dropout: float = field(default=0.0, metadata={"help": "Dropout on the tokens while training."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.VISUAL_PROMPT  # type: ignore[attr-defined]
        count, rate = self.num_prompt_tokens, self.prompt_dropout
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ConfigError(f"num_prompt_tokens ({count!r}) must be a whole number from 1 on.")
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise ConfigError(f"prompt_dropout ({rate!r}) must be a number of at least 0 and below 1.")


class VisualPromptLayer(BaselineLayer):
    """Wraps a block, or the whole encoder: tokens are put before its input and taken off its output."""

    adapter_layer_names = ("visual_prompt_tokens",)
    other_param_names = ("prompt_dropout",)

    def make_containers(self) -> None:
        """Make the dictionaries."""
        self.visual_prompt_tokens = nn.ParameterDict()  # (P, hidden size) each
        self.prompt_dropout: dict[str, float] = {}

    def update_layer(self, adapter_name: str, config: VisualPromptConfig) -> None:
        """Add an adapter's tokens, uniform in +-sqrt(6 / (3 * patch area + hidden size)), as published."""
        width = self.model_config.hidden_size
        tokens = torch.empty(config.num_prompt_tokens, width, **self.place())
        if not tokens.is_meta:
            bound = published_bound(patch_elements(self.model_config), width)
            nn.init.uniform_(tokens, -bound, bound)
        self.visual_prompt_tokens[adapter_name] = nn.Parameter(tokens)
        self.prompt_dropout[adapter_name] = config.prompt_dropout
        self.finish(config)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The wrapped module on (B, P + N, hidden size) tokens, of which the last N leave it."""
        names = self.acting()
        if not names:
            return self.base_layer(hidden_states, *args, **kwargs)
        batch = hidden_states.shape[0]
        parts = [
            F.dropout(
                self.visual_prompt_tokens[name].to(hidden_states.dtype).expand(batch, -1, -1),
                self.prompt_dropout[name],
                self.training,
            )
            for name in names
        ]
        count = sum(part.shape[1] for part in parts)
        return _without(count, self.base_layer(torch.cat([*parts, hidden_states], dim=1), *args, **kwargs))


class VisualPromptModel(BaselineModel):
    """A frozen VideoMAE with visual prompts."""

    prefix = "visual_prompt_"
    tuner_layer_cls = layer_class = VisualPromptLayer

    @classmethod
    def default_targets(cls, config: VisualPromptConfig, model: nn.Module) -> str | None:
        """All blocks of VideoMAE's encoder, or the encoder."""
        if model_type(model) != VIDEOMAE:
            return None
        return BLOCKS if config.deep else ENCODER


def _without(count: int, output: Any) -> Any:
    """An output whose first tokens are left out, be it the tokens, a tuple that begins with them, or a `ModelOutput`."""
    if isinstance(output, Tensor):
        return output[:, count:]
    if isinstance(output, ModelOutput):
        output.last_hidden_state = output.last_hidden_state[:, count:]
        return output
    first, *rest = output
    return (first[:, count:], *rest)
