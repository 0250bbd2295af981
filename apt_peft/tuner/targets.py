"""Which modules of a model get prompts: settings completed from the model, and everything refused that cannot work."""

import copy
import re
import warnings
from typing import Any

import torch.nn as nn
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel

from ..errors import TargetError
from .config import AttentionPromptConfig, ends_with
from .families import (
    DEFAULT_PATTERNS,
    FAMILIES,
    can_take_prompts,
    candidates,
    fold_names,
    heads_of,
    model_type,
    norms_of,
)
from .heads import label_head_name, labels_of
from .layer import AttentionPromptLayer
from .limits import check_memory
from .quantized import blocks_gradients, quantized_modules
from .sharded import check_whole
from .storage import is_left_on_disk

TEXT_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "CAUSAL_LM", "SEQ_2_SEQ_LM")


def complete_config(config: AttentionPromptConfig, model: nn.Module) -> None:
    """Fill in the settings that depend on the model.

    Args:
        config: changed in place.
        model: the base model.

    Raises:
        TargetError: targets must be given, since the architecture is not known.
    """
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
    if config.train_norms:
        _add_norms(config, model)
    if config.id2label is None and label_head_name(model, config.modules_to_save):
        config.id2label = labels_of(model).of_base
    if config.auto_mapping is None and isinstance(model, PreTrainedModel):
        # PeftModel writes it when it saves; the mixin does not, and AutoPeftModel would not know what to load
        config.auto_mapping = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}


def _add_norms(config: AttentionPromptConfig, model: nn.Module) -> None:
    """Let `modules_to_save` name the norms of the blocks that get prompts."""
    assert config.modules_to_save is not None
    attentions = [key for key, _ in model.named_modules() if key and is_target(config, key)]
    norms = norms_of(model, attentions)
    if not norms:
        raise TargetError(
            f"train_norms (True) must find norms around the attentions, but {type(model).__name__} has none in the blocks of "
            f"{_shorten(attentions)}. Leave it out."
        )
    config.modules_to_save = [*config.modules_to_save, *(name for name in norms if name not in config.modules_to_save)]


def check_targets(config: AttentionPromptConfig, model: nn.Module, by_name: bool) -> None:
    """Refuse, before anything is wrapped, what cannot work.

    Args:
        config: complete settings.
        model: the base model.
        by_name: whether names tell the targets; False where a state dict does.

    Raises:
        TargetError: with the reason.
        ConfigError: the prompts would take more memory than makes sense.
    """
    check_whole(model)
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
        _check_labels_without_head(config, model)
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
        if key and not (inside and key.startswith(inside)) and is_target(config, key)
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
    _check_layer_range(config, model)
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


def is_target(config: AttentionPromptConfig, key: str) -> Any:
    """Whether a module of this name is a target.

    As PEFT finds it, except that `layers_to_transform` works with the default target, a regular expression.
    """
    found = check_target_module_exists(config, key)
    layers = config.layer_indices
    target = config.target_modules
    if layers is None or not found or not isinstance(target, str) or target not in DEFAULT_PATTERNS:
        return found
    return found and _layer_index(config, key) in layers


def _check_labels_without_head(config: AttentionPromptConfig, model: nn.Module) -> None:
    own, names = labels_of(model).of_base, config.id2label
    unsaved = not config.modules_to_save or model_type(model) in FAMILIES
    if unsaved and own is not None and names is not None and names != own:
        raise TargetError(
            f"id2label ({len(names)} names) must be of a head that is saved, but modules_to_save "
            f"({config.modules_to_save}) has none that gives labels. Leave out id2label for the base's own labels, or "
            "modules_to_save for the model's head."
        )


def _check_layer_range(config: AttentionPromptConfig, model: nn.Module) -> None:
    wanted = config.layer_indices
    if wanted is None:
        return
    everywhere = copy.copy(config)
    everywhere.layers_to_transform = None
    matched = (_layer_index(config, key) for key, _ in model.named_modules() if key and is_target(everywhere, key))
    there = sorted({index for index in matched if index is not None})
    outside = [index for index in wanted if index not in there]
    if there and outside:
        raise TargetError(
            f"layers_to_transform {outside} is out of range: the model has {len(there)} layers ({there[0]}-{there[-1]})."
        )


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
