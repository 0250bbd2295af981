"""The tuner: which modules get prompts, and what PEFT asks of a method."""

import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
import torch.nn as nn
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_target_module_exists
from peft.utils.constants import DUMMY_TARGET_MODULES
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from transformers import PreTrainedModel

from ..errors import ConfigError, TargetError
from .combine import check_combination, combined_config, combined_prompts, copy_head
from .config import AttentionPromptConfig, ends_with
from .families import DEFAULT_PATTERNS, FAMILIES, can_take_prompts, candidates, fold_names, heads_of, model_type
from .heads import HeadWrapper, adopt_heads, label_head_name, labels_of
from .layer import AttentionPromptLayer
from .limits import check_memory
from .mixed import mixed_batch
from .order import OwnConfigs, check_adapter_name, refuse_taken_names
from .quantized import blocks_gradients, quantized_modules
from .seams import config_around, prepare_embeddings, restore_embeddings
from .storage import is_left_on_disk

TEXT_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "CAUSAL_LM", "SEQ_2_SEQ_LM")


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
        check_adapter_name(adapter_name)
        config = self.peft_config[adapter_name]
        if not config.inference_mode:
            # A copy: the caller may use the object for another model, whose heads and labels are its own.
            # One that PEFT loads an adapter with, for use, is kept: `from_pretrained(config=...)` promises that object.
            config = self.peft_config[adapter_name] = copy.deepcopy(config)
        self._complete_config(config, model)
        self._check_targets(config, model, by_name=kwargs.get("state_dict") is None)
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

    def _complete_config(self, config: AttentionPromptConfig, model: nn.Module) -> None:
        if config.target_modules is None:
            family = FAMILIES.get(model_type(model) or "")
            if family is None:
                raise TargetError(_unknown_model(model))
            config.target_modules = family.attention
        if config.modules_to_save is None:
            config.modules_to_save = heads_of(model)
            if config.modules_to_save and getattr(model.config, "use_mean_pooling", True) is False:
                warnings.warn(
                    "use_mean_pooling (False) of the model makes it classify from its first patch token, but attention "
                    "prompts are published with the mean of the tokens. Load the model with use_mean_pooling=True.",
                    stacklevel=2,
                )
        if config.id2label is None and label_head_name(model, config.modules_to_save):
            config.id2label = labels_of(model).of_base
        if config.auto_mapping is None and isinstance(model, PreTrainedModel):
            # PeftModel writes it when it saves; the mixin does not, and AutoPeftModel would not know what to load
            config.auto_mapping = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}

    def _check_targets(self, config: AttentionPromptConfig, model: nn.Module, by_name: bool) -> None:
        """Refuse, before anything is wrapped, what cannot work. A state dict may tell the targets instead of names."""
        if config.task_type in TEXT_TASKS:
            raise TargetError(
                f"task_type ({str(config.task_type)!r}) must be left out, but with it PEFT takes the inputs for text and looks "
                "for a text model's head. The head of a video or image model is found without it."
            )
        missing = [n for n in config.modules_to_save or [] if not any(k.endswith(n) for k, _ in model.named_modules())]
        if missing:
            raise TargetError(
                f"modules_to_save {missing} must name modules of the model, but {type(model).__name__} has none of that "
                f"name. Its top modules are {[name for name, _ in model.named_children()]}."
                + (" Load the model with use_mean_pooling=True." if "fc_norm" in missing else "")
            )
        if label_head_name(model, config.modules_to_save or []) is None:
            self._check_labels_without_head(config, model)
        if unfit := quantized_modules(model, config.modules_to_save or []):
            raise TargetError(
                f"modules_to_save {unfit} must have weights that can be trained, but those of the model are quantized. Load it "
                f"with llm_int8_skip_modules={unfit} in BitsAndBytesConfig, or modules_to_not_convert={unfit} in TorchAoConfig."
            )
        if not config.inference_mode and blocks_gradients(model):
            raise TargetError(
                "quantization_config of the model must let gradients through, but it rounds activations, and prompts would "
                "never change. Train on weights quantized alone (Int8WeightOnlyConfig); a trained adapter can be loaded here."
            )
        inside = tuple(key + "." for key, module in model.named_modules() if isinstance(module, BaseTunerLayer))
        matched = {
            key: module
            for key, module in model.named_modules()
            if key and not (inside and key.startswith(inside)) and self._check_target_module_exists(config, key)
        }
        wrong = [key for key, module in matched.items() if not _can_take_prompts(module)]
        if wrong:
            kinds = sorted({type(matched[key]).__name__ for key in wrong})
            raise TargetError(
                f"target_modules matches {_shorten(wrong)} ({', '.join(kinds)}), but prompts can only go to an attention "
                "that looks its implementation up in transformers' attention interface. "
                f"In {type(model).__name__} these can: {candidates(model) or 'none'}."
            )
        if any(is_left_on_disk(module, model) for module in matched.values()):
            raise TargetError(
                "hf_device_map of the model must not name the disk here, but PEFT has taken off the hooks that read its "
                "weights from there, and cannot put them back around an attention. Load the model again, and use "
                "AutoPeftModelForVideoClassification, or `del model.hf_device_map` before PeftModel.from_pretrained."
            )
        self._check_layer_range(config, model)
        check_memory(config, model, matched)
        unused = [key for key in config.num_prompt_tokens_pattern if not any(ends_with(name, key) for name in matched)]
        if unused and by_name:
            raise TargetError(
                f"num_prompt_tokens_pattern {unused} must match the end of a targeted module's name, but the targets are "
                f"{fold_names(matched)}."
            )
        if by_name and not matched and config.target_modules != [] and not config.exclude_modules:
            raise TargetError(
                f"Target modules {config.target_modules} not found in the base model. Please check the target modules and "
                f"try again. In {type(model).__name__} these can take prompts: {candidates(model) or 'none'}."
            )

    @staticmethod
    def _check_labels_without_head(config: AttentionPromptConfig, model: nn.Module) -> None:
        own, names = labels_of(model).of_base, config.id2label
        unsaved = not config.modules_to_save or model_type(model) in FAMILIES
        if unsaved and own is not None and names is not None and names != own:
            raise TargetError(
                f"id2label ({len(names)} names) must be of a head that is saved, but modules_to_save "
                f"({config.modules_to_save}) has none that gives labels. Leave out id2label for the base's own labels, or "
                "modules_to_save for the model's head."
            )

    def _check_layer_range(self, config: AttentionPromptConfig, model: nn.Module) -> None:
        wanted = config.layer_indices
        if wanted is None:
            return
        everywhere = copy.copy(config)
        everywhere.layers_to_transform = None
        matched = (
            _layer_index(config, key)
            for key, _ in model.named_modules()
            if key and self._check_target_module_exists(everywhere, key)
        )
        there = sorted({index for index in matched if index is not None})
        outside = [index for index in wanted if index not in there]
        if there and outside:
            raise TargetError(
                f"layers_to_transform {outside} is out of range: the model has {len(there)} layers ({there[0]}-{there[-1]})."
            )

    @staticmethod
    def _check_target_module_exists(peft_config: AttentionPromptConfig, key: str) -> Any:
        """As PEFT does it, except that `layers_to_transform` works with the default target, a regular expression."""
        found = check_target_module_exists(peft_config, key)
        layers = peft_config.layer_indices
        target = peft_config.target_modules
        if layers is None or not found or not isinstance(target, str) or target not in DEFAULT_PATTERNS:
            return found
        return found and _layer_index(peft_config, key) in layers

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
        """Delete an adapter; another one, if there is any, becomes the active one."""
        super().delete_adapter(adapter_name)
        if not self.active_adapters:  # of heads only: PEFT asks prompts alone which adapter is next
            used = (head.active_adapters for head in self.model.modules() if isinstance(head, HeadWrapper))
            self.active_adapter: str | list[str] = next(used, [])

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
        own = [name for name, config in self.peft_config.items() if isinstance(config, AttentionPromptConfig)]
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
        check_combination(self, layers, adapters, weights, adapter_name, combination_type, head_from)
        prompts = combined_prompts(layers, adapters, weights, combination_type)
        config = self.peft_config[adapter_name] = combined_config(self, adapters, prompts, head_from)
        with torch.random.fork_rng(devices=[]):  # the first values are overwritten
            self.inject_adapter(self.model, adapter_name)
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


def _layer_index(config: AttentionPromptConfig, key: str) -> int | None:
    """The layer that a matching module belongs to: by the default pattern, else as PEFT finds it in a name."""
    if isinstance(config.target_modules, str):
        expressions = [config.target_modules]
    else:
        names = [config.layers_pattern] if isinstance(config.layers_pattern, str) else config.layers_pattern
        expressions = [rf"(?:^|.*?\.){name}\.(?P<layer>\d+)\..*" for name in names or []]
        expressions = expressions or [r".*?\.[^.]*\.(?P<layer>\d+)\..*"]
    match = next((found for found in (re.fullmatch(e, key) for e in expressions) if found), None)
    return int(match["layer"]) if match else None


def _can_take_prompts(module: nn.Module) -> bool:
    if isinstance(module, AttentionPromptLayer):
        return True
    # a head that another adapter saves is no target either
    return not isinstance(module, AuxiliaryTrainingWrapper) and can_take_prompts(module)


def _shorten(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _unknown_model(model: nn.Module) -> str:
    found = candidates(model)
    if found:
        remedy = (
            f"These modules can take prompts: {found}. Name them, for example target_modules=[{_suffix(found[0])!r}]."
        )
    else:
        remedy = "No module in it goes through transformers' attention interface, so prompts cannot be added to it."
    return f"target_modules must be given for a model of type {model_type(model)!r}, which apt_peft does not know. {remedy}"


def _suffix(folded: str) -> str:
    """What follows the last number: `vit.layers.*.attention (12)` -> `attention`."""
    return folded.partition(" (")[0].rpartition("*.")[-1]
