"""The prompts of one attention module, one set per adapter."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from ..errors import ConfigError
from .config import AttentionPromptConfig
from .families import head_dimensions, patch_elements, width
from .functional import (
    Prompts,
    effective_prompts,
    join_prompts,
    neutral_scale,
    published_bound,
    stack_prompts,
)
from .gate import DIRECTION_DEVIATION, Gate
from .heads import HeadWrapper
from .interface import PromptedConfig, attention_prompt_forward, eager_attention
from .kept import KeptPrompts
from .nesting import NamesOfInnerTuners
from .probe import Probe
from .samples import SampleAdapters
from .seams import ignores_masks, seam_of
from .storage import PromptDict, onloaded


class AttentionPromptLayer(KeptPrompts, NamesOfInnerTuners, BaseTunerLayer):
    """Wraps an attention module, whose own forward calls back for the prompts through the attention interface.

    Args:
        base_layer: the attention module; its config is replaced by a view until `detach`.
        adapter_name: name of the first adapter.
        config: that adapter's settings.
        module_name: the module's full name in the model, for settings that differ by layer.
        model_config: what stands for the module's config where it has none of its own, see `config_around`.
    """

    adapter_layer_names = (
        "attention_prompt_key",
        "attention_prompt_value",
        "attention_prompt_scale",
        "attention_prompt_bias",
        "attention_prompt_gate",
        "attention_prompt_gate_weight",
    )
    other_param_names = ("prompt_dropout", "reparameterization", "awaits_data")
    heads: tuple[HeadWrapper, ...] = ()  # of the model; a tuple, so that they are no children

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        config: AttentionPromptConfig,
        module_name: str = "",
        *,
        model_config: Any = None,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.attention_prompt_key = PromptDict()  # (P, D) or (H, P, D) each
        self.attention_prompt_value = PromptDict()  # likewise
        # (2, P) or (2, H, P), row 0 for keys: kept at two dimensions and more, since weight decay acts on it
        self.attention_prompt_scale = PromptDict()
        self.attention_prompt_bias = PromptDict()  # (P,), of adapters with `score_bias`
        self.attention_prompt_gate = PromptDict()  # (r, D), of adapters with `key_gate`
        self.attention_prompt_gate_weight = PromptDict()  # (r,)
        self.prompt_dropout: dict[str, float] = {}
        self.reparameterization: dict[str, str] = {}
        self.awaits_data: dict[str, bool] = {}
        self.recorder: Callable[[Tensor, Tensor], None] | None = None
        self.probe: Probe | None = None  # set for the time of a look at the attention, see `probe.py`
        self.sample_adapters: SampleAdapters | None = None  # set for the time of one forward, by `mixed_batch`
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.seam = seam_of(base_layer)
        self.eager_ignores_masks = ignores_masks(eager_attention(base_layer))
        self.lends_config = not hasattr(base_layer, "config")
        base_layer.config = PromptedConfig(model_config if self.lends_config else base_layer.config, self)
        self.update_layer(adapter_name, config, module_name)

    @property
    def real_config(self) -> Any:
        """The config that the wrapped module had, and gets back."""
        return self.base_layer.config.real_config

    @property
    def in_features(self) -> int:
        """Width of the tokens that go in, which PEFT's layers tell."""
        return width(self.base_layer)

    @property
    def out_features(self) -> int:
        """Width of the tokens that come out."""
        return width(self.base_layer)

    def update_layer(self, adapter_name: str, config: AttentionPromptConfig, module_name: str = "") -> None:
        """Add an adapter's prompts, on the device and in the dtype of the wrapped module."""
        self.keep_in_memory()
        heads, dim = head_dimensions(self.base_layer)
        shape: tuple[int, ...] = (config.prompt_tokens_of(module_name), dim)
        if not config.share_prompts_across_heads:
            shape = (heads, *shape)
        device, dtype = self._get_base_layer_device_and_dtype(self.base_layer)
        new = {"device": device, "dtype": dtype}
        self.attention_prompt_key[adapter_name] = nn.Parameter(torch.empty(shape, **new))
        self.attention_prompt_value[adapter_name] = nn.Parameter(torch.empty(shape, **new))
        if config.reparameterization != "none":
            self.attention_prompt_scale[adapter_name] = nn.Parameter(torch.empty((2, *shape[:-1]), **new))
        if config.score_bias:
            self.attention_prompt_bias[adapter_name] = nn.Parameter(torch.empty(shape[-2], **new))
        if config.key_gate:
            self.attention_prompt_gate[adapter_name] = nn.Parameter(torch.empty((config.key_gate, dim), **new))
            self.attention_prompt_gate_weight[adapter_name] = nn.Parameter(torch.empty(config.key_gate, **new))
        self.prompt_dropout[adapter_name] = config.prompt_dropout
        self.reparameterization[adapter_name] = config.reparameterization
        self.awaits_data[adapter_name] = config.init_weights == "data" and not config.data_initialized
        self.reset_parameters(adapter_name, config)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @torch.no_grad()
    def reset_parameters(self, adapter_name: str, config: AttentionPromptConfig) -> None:
        """Draw an adapter's prompts anew, as its settings say.

        Source: reference model for `init_weights=True`: uniform in +-sqrt(6 / (3 * patch area + D)), scales of one.
        """
        key, value = self.attention_prompt_key[adapter_name], self.attention_prompt_value[adapter_name]
        if key.is_meta:
            return
        scale = self.attention_prompt_scale.get(adapter_name)
        if config.init_weights is False:
            for prompts in (key, value):
                nn.init.normal_(prompts)
        else:
            bound = published_bound(patch_elements(self.real_config), key.shape[-1])
            for prompts in (key, value):
                nn.init.uniform_(prompts, -bound, bound)
        if scale is not None:
            neutral = neutral_scale(config.reparameterization)
            if config.init_weights is False:
                nn.init.uniform_(scale, neutral - 0.5, neutral + 0.5)
            else:
                nn.init.constant_(scale, neutral)
        if adapter_name in self.attention_prompt_bias:
            nn.init.zeros_(self.attention_prompt_bias[adapter_name])
        if adapter_name in self.attention_prompt_gate:
            nn.init.normal_(self.attention_prompt_gate[adapter_name], std=DIRECTION_DEVIATION)
            spread = 0.5 if config.init_weights is False else 0.0  # at zero the gate does nothing
            nn.init.uniform_(self.attention_prompt_gate_weight[adapter_name], -spread, spread)

    def prompts_of_batch(self) -> Prompts | None:
        """What this forward adds: each sample's own adapter where they were named, else the active ones.

        Returns:
            None where there is nothing to add.

        Raises:
            ConfigError: an adapter waits for `initialize_prompts_from_data`.
        """
        chosen = self.sample_adapters
        if chosen is None or self.disable_adapters:
            return self.active_prompts()
        parts = [self.effective_prompts(name) if self.has(name) else None for name in chosen.names]
        there = next((part for part in parts if part is not None), None)
        if there is None or len(parts) == 1:
            return there
        heads, _ = head_dimensions(self.base_layer)
        return stack_prompts(parts, chosen.index_on(there.keys.device), heads)

    def active_prompts(self) -> Prompts | None:
        """What the active adapters add, in their order.

        Returns:
            Prompts of (P, D) or (H, P, D), P summed over the adapters; None where there is nothing to add.

        Raises:
            ConfigError: an adapter waits for `initialize_prompts_from_data`.
        """
        if self.disable_adapters:
            return None
        parts = [self.effective_prompts(name) for name in self.active_adapters if self.has(name)]
        if len(parts) < 2:
            return parts[0] if parts else None
        heads, _ = head_dimensions(self.base_layer)
        return join_prompts(parts, heads)

    def effective_prompts(self, name: str, *, dropout: bool = True) -> Prompts:
        """One adapter's prompts as the attention sees them, after dropout and scale.

        Args:
            name: an adapter that this layer has.
            dropout: False leaves it out in training mode, too.

        Returns:
            Prompts of (P, D) or (H, P, D).

        Raises:
            ConfigError: the adapter waits for `initialize_prompts_from_data`.
        """
        if self.awaits_data[name]:
            raise ConfigError(
                f'init_weights ("data") of adapter {name!r} must be carried out before the first forward. '
                "Call apt_peft.initialize_prompts_from_data(model, dataloader)."
            )
        kind, rate, training = self.reparameterization[name], self.prompt_dropout[name], self.training and dropout
        scales = self.attention_prompt_scale.get(name, (None, None))
        return Prompts(
            effective_prompts(self.attention_prompt_key[name], scales[0], kind, rate, training),
            effective_prompts(self.attention_prompt_value[name], scales[1], kind, rate, training),
            self.attention_prompt_bias.get(name),
            gates=self._gates(name),
        )

    def _gates(self, name: str) -> tuple[Gate, ...]:
        if name not in self.attention_prompt_gate:
            return ()
        return (Gate(self.attention_prompt_gate[name], self.attention_prompt_gate_weight[name]),)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Let adapters act, and be trained unless `inference_mode`; refused first where two of them bring a head."""
        for head in self.heads:
            head.check_set_adapter(adapter_names)
        super().set_adapter(adapter_names, inference_mode=inference_mode)

    def enable_adapters(self, enabled: bool) -> None:
        """Switch the prompts on or off, and the heads on with them: transformers' own mixin forgets those."""
        super().enable_adapters(enabled)
        for head in self.heads:
            if enabled and head.disable_adapters:
                head.enable_adapters(True)

    @property
    def takes_part(self) -> bool:
        """Whether a forward of the wrapped module needs this layer: to add prompts, or to record keys and values."""
        if self.recorder is not None:
            return True
        names = self.active_adapters if self.sample_adapters is None else self.sample_adapters.names
        return not self.disable_adapters and any(map(self.has, names))

    def has(self, name: str) -> bool:
        """Whether an adapter has prompts here."""
        return name in self.attention_prompt_key

    def num_prompt_tokens(self, name: str) -> int:
        """P of an adapter that has prompts here."""
        return int(self.attention_prompt_key[name].shape[-2])

    @torch.no_grad()
    def fold_reparameterization(self, adapter_name: str) -> None:
        """Multiply an adapter's scales into its prompts and drop them; the optimizer's references stay valid.

        Args:
            adapter_name: an adapter that this layer has.
        """
        self.keep_in_memory()
        if adapter_name in self.attention_prompt_scale:
            kind, scales = self.reparameterization[adapter_name], self.attention_prompt_scale[adapter_name]
            for scale, container in zip(scales, (self.attention_prompt_key, self.attention_prompt_value), strict=True):
                prompt = container[adapter_name]
                exact = torch.promote_types(prompt.dtype, torch.float32)
                prompt.copy_(effective_prompts(prompt.to(exact), scale.to(exact), kind, 0.0, training=False))
            del self.attention_prompt_scale[adapter_name]
        self.reparameterization[adapter_name] = "none"

    @torch.no_grad()
    def set_prompts(self, name: str, prompts: Prompts, *, shared: bool) -> None:
        """Give an adapter without scales these prompts, in their own dtype.

        Args:
            name: an adapter that this layer has.
            prompts: (P, D) or (H, P, D).
            shared: whether the adapter's prompts are shared by the heads; where they are not, (P, D) is repeated.
        """
        heads, _ = head_dimensions(self.base_layer)
        for container, states in (
            (self.attention_prompt_key, prompts.keys),
            (self.attention_prompt_value, prompts.values),
        ):
            states = states if shared else states.expand(heads, *states.shape[-2:])
            container[name].data = states.detach().clone().contiguous()
        if name in self.attention_prompt_bias:
            bias = torch.zeros_like(prompts.keys[..., 0, :, 0]) if prompts.bias is None else prompts.bias
            self.attention_prompt_bias[name].data = bias.detach().clone()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped module's own forward; where it does not look for an implementation, that of its seam."""
        # A replica of nn.DataParallel shares the original's view, whose prompts are on another device
        if self.base_layer.config.prompt_layer is not self:
            self.base_layer.config = PromptedConfig(self.real_config, self)
        if not any(hasattr(container, "_hf_hook") for container in self._containers()):
            return self._attention(*args, **kwargs)
        with onloaded(self._containers()):
            return self._attention(*args, **kwargs)

    def _attention(self, *args: Any, **kwargs: Any) -> Any:
        if self.seam is not None and self.takes_part:
            return self.seam.forward(attention_prompt_forward, self.base_layer, *args, **kwargs)
        return self.base_layer(*args, **kwargs)

    def detach(self) -> nn.Module:
        """Give the wrapped module its own config back.

        Returns:
            The module, as it was before it was wrapped.
        """
        if self.lends_config:
            del self.base_layer.config
        else:
            self.base_layer.config = self.real_config
        return self.base_layer

    def __repr__(self) -> str:
        return "attention_prompt." + super().__repr__()
