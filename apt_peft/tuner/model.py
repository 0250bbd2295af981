"""The tuner: what PEFT asks of a method, and what can be made of adapters."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
import torch.nn as nn
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.constants import DUMMY_TARGET_MODULES
from peft.utils.other import ModulesToSaveWrapper

from ..errors import ConfigError, TargetError
from .combine import as_numbers, check_combination, combined_config, combined_prompts, copy_head
from .config import AttentionPromptConfig
from .heads import HeadWrapper, adopt_heads, labels_of
from .layer import AttentionPromptLayer
from .mixed import mixed_batch
from .order import OwnConfigs, check_adapter_name, refuse_taken_names
from .seams import config_around, prepare_embeddings, restore_embeddings
from .targets import check_targets, complete_config, is_target


class AttentionPromptModel(BaseTuner):
    """A frozen model whose self-attention layers see learned prompt keys and values.

    Made by `peft.get_peft_model(model, AttentionPromptConfig(...))`.

    Args:
        model: the base model; its attention modules are wrapped in place.
        peft_config: the first adapter's settings.
        adapter_name: the first adapter's name.

    Raises:
        TargetError: prompts cannot go where the settings say; the model stays as it was.

    Source: Bandara & Patel, Attention Prompt Tuning (FG 2024).
    """

    prefix = "attention_prompt_"
    tuner_layer_cls = AttentionPromptLayer
    target_module_mapping: ClassVar[
        dict[str, list[str]]
    ] = {}  # `families.py` stands in for it: it knows regular expressions

    def __init__(self, model: nn.Module, peft_config: Any, adapter_name: str, **kwargs: Any) -> None:
        refuse_taken_names(model, adapter_name)
        super().__init__(model, peft_config, adapter_name, **kwargs)
        configs: dict[str, Any] = self.model.peft_config
        self.peft_config = self.model.peft_config = OwnConfigs(configs)

    # ------------------------------------------------------------------------------------------------ injection

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Fill in the settings that depend on the model, check them all, then let PEFT wrap the modules."""
        check_adapter_name(adapter_name, model)
        config = self.peft_config[adapter_name]
        if not config.inference_mode:
            # A copy: the caller may use the object for another model, whose heads and labels are its own.
            # One that PEFT loads an adapter with, for use, is kept: `from_pretrained(config=...)` promises that object.
            config = self.peft_config[adapter_name] = copy.deepcopy(config)
        complete_config(config, model)
        check_targets(config, model, by_name=kwargs.get("state_dict") is None)
        without_prompts = config.target_modules == []
        if without_prompts:  # PEFT's word for an adapter that matches nothing on purpose
            config.target_modules = DUMMY_TARGET_MODULES
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        finally:
            if without_prompts:
                config.target_modules = []
        prepare_embeddings(model)
        adopt_heads(model, adapter_name, config.modules_to_save or [], config.id2label)
        self._link_heads(config.inference_mode)

    @staticmethod
    def _check_target_module_exists(peft_config: AttentionPromptConfig, key: str) -> Any:
        return is_target(peft_config, key)

    def _prepare_adapter_config(
        self, peft_config: AttentionPromptConfig, model_config: dict[str, Any]
    ) -> AttentionPromptConfig:
        return peft_config  # completed already: the heads are found on the model, not in its config

    def _create_and_replace(
        self,
        peft_config: AttentionPromptConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, AttentionPromptLayer):
            target.update_layer(adapter_name, peft_config, current_key)
            return
        around = None if hasattr(target, "config") else config_around(self.model, current_key)
        layer = AttentionPromptLayer(target, adapter_name, peft_config, current_key, model_config=around)
        layer.train(target.training)
        if adapter_name not in self.active_adapters:  # a further adapter is not trained until it is activated
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Put a module in another's place; on the way out, an attention gets its config back."""
        if isinstance(child, AttentionPromptLayer):
            child.detach()
        elif isinstance(child, ModulesToSaveWrapper):
            # PEFT would leave the adapter's head on the base; one trained for prompts is of no use without them
            new_module = child.original_module
        setattr(parent, child_name, new_module)

    # ---------------------------------------------------------------------------------- adapters and their heads

    def _link_heads(self, inference_mode: bool) -> None:
        """Let all heads use the active adapter, and let the prompts switch them on again.

        transformers' own mixin leaves the heads to PEFT, which forgets them: a second adapter that it loads would get its
        prompts and the base's head, and after `enable_adapters()` the heads would stay off.
        """
        heads = tuple(module for module in self.model.modules() if isinstance(module, HeadWrapper))
        for head in heads:
            wanted = [name for name in self.active_adapters if name in head.modules_to_save]
            head.set_adapter(wanted, inference_mode) if head.active_adapters != wanted else head.show_labels()
        for module in self.model.modules():
            if isinstance(module, AttentionPromptLayer):
                module.heads = heads

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; if it was active, the others that were, else the first that is left, are from then on."""
        was_active, remaining = adapter_name in self.active_adapters, [*self.active_adapters]
        super().delete_adapter(adapter_name)
        # PEFT lets each layer choose for itself among the adapters that it has
        left = list(self.prompt_adapters)
        chosen = [name for name in remaining if name in left] or left[:1]
        if not was_active:
            self.active_adapter: str | list[str] = remaining
        elif chosen:
            self.set_adapter(chosen, inference_mode=self.peft_config[chosen[0]].inference_mode)

    def unload(self) -> nn.Module:
        """Take all adapters off.

        Returns:
            The base model with its own modules, configs and labels; its own head, too, not an adapter's.
        """
        labels = labels_of(self.model)
        model = super().unload()
        restore_embeddings(model)
        labels.show(None)
        return model

    # ------------------------------------------------------------------------------ prompts made from other prompts

    @property
    def prompt_adapters(self) -> dict[str, AttentionPromptConfig]:
        """The adapters of this method by name; LoRA that was there first is none of them."""
        return {name: config for name, config in self.peft_config.items() if isinstance(config, AttentionPromptConfig)}

    def prompt_layers(self) -> dict[str, AttentionPromptLayer]:
        """The wrapped attention modules by their names in the base model."""
        return {key: layer for key, layer in self.model.named_modules() if isinstance(layer, AttentionPromptLayer)}

    def fold_reparameterization(self, adapter_names: str | Sequence[str] | None = None) -> None:
        """Multiply the learned scales into the prompts: plain prompts, the same outputs, a smaller file.

        Training can go on, without scales from then on.

        Args:
            adapter_names: which adapters; all by default.

        Raises:
            ConfigError: an adapter does not exist, or waits for data; nothing has changed then.
        """
        own = list(self.prompt_adapters)
        names = (
            own if adapter_names is None else [adapter_names] if isinstance(adapter_names, str) else [*adapter_names]
        )
        if unknown := [name for name in names if name not in own]:
            raise ConfigError(
                f"adapter_names {unknown} must be adapters with attention prompts, but the model has {own}."
            )
        layers = self.prompt_layers().values()
        if waiting := [name for name in names if any(layer.awaits_data.get(name) for layer in layers)]:
            raise ConfigError(
                f"adapter_names {waiting} must have their prompts, but they wait for data. "
                "Call apt_peft.initialize_prompts_from_data(model, dataloader) first."
            )
        for name in names:
            for layer in layers:
                if layer.has(name):
                    layer.fold_reparameterization(name)
            self.peft_config[name].reparameterization = "none"

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: Literal["linear", "cat"] = "linear",
        *,
        head_from: str | None = None,
    ) -> None:
        """Add an adapter made of several: the sum of their prompts, or all of them side by side.

        "linear": the weighted sum of the prompts after their scales; P must be equal in each layer. "cat": all prompts,
        each with log(weight) on its score, so that it counts `weight` times. Adapters of layers that the others lack
        can be joined by "cat" only. The new adapter has no scales and is not activated.

        Args:
            adapters: adapters of this model.
            weights: one finite number an adapter; above 0 for "cat".
            adapter_name: name of the new adapter.
            combination_type: "linear" or "cat".
            head_from: the adapter whose head and labels the new one takes; needed where one of them has a head.

        Raises:
            ConfigError: there is no defined result; all reasons are listed, and nothing has changed.
        """
        layers = self.prompt_layers()
        weights = as_numbers(weights)
        check_combination(self, layers, adapters, weights, adapter_name, combination_type, head_from)
        for layer in layers.values():
            layer.keep_in_memory()
        prompts = combined_prompts(layers, adapters, weights, combination_type)
        config = self.peft_config[adapter_name] = combined_config(self, adapters, prompts, head_from)
        try:
            with torch.random.fork_rng(devices=[]):  # the first values are overwritten
                self.inject_adapter(self.model, adapter_name)
        except Exception:
            del self.peft_config[adapter_name]
            raise
        for key, layer in self.prompt_layers().items():
            if layer.has(adapter_name):
                layer.set_prompts(adapter_name, prompts[key], shared=config.share_prompts_across_heads)
        if head_from is not None:
            copy_head(self.model, head_from, adapter_name)

    # -------------------------------------------------------------------------------------- what PEFT may ask for

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Switch gradient checkpointing on, by the name that transformers gives it from 5.23 on."""
        self.model.activation_checkpointing_enable(*args, **kwargs)
        self._let_gradients_in()

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Switch gradient checkpointing on."""
        self.model.gradient_checkpointing_enable(*args, **kwargs)
        self._let_gradients_in()

    def _let_gradients_in(self) -> None:
        """Make the embeddings' output need a gradient.

        With `use_reentrant=True`, a block none of whose inputs needs one would compute none for its prompts either, and
        everything below the first prompts is frozen.
        """
        self.model.enable_input_require_grads()

    def _check_merge_allowed(self) -> None:
        raise TargetError(
            "Attention prompts cannot be merged into the base model: they are keys and values beside those of the tokens, "
            "and no weight of the model can stand for them. Call unload() for the base model, or keep the adapter."
        )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Called by PEFT around each forward: a batch with `adapter_names` has an adapter for each sample."""
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is None:
            yield
            return
        with mixed_batch(self, adapter_names, args, kwargs):
            yield
