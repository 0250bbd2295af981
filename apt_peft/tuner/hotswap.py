"""Another adapter in the place of a loaded one: its numbers are copied into the tensors that are there.

Nothing is wrapped, allocated or compiled anew, so it is quick, and a compiled model goes on with its code. PEFT's own
`peft.utils.hotswap` does this for LoRA; names and arguments here are the same.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from peft import PeftConfig
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from .config import AttentionPromptConfig
from .families import fold_names
from .heads import HeadWrapper
from .layer import AttentionPromptLayer
from .storage import take_out_of_offloading

COMPILED = "_orig_mod."  # what torch.compile puts into names
WRAPPED = "base_model.model."  # what PeftModel puts before them
MOST_NAMES = 8  # in one problem of a message


class _Own(NamedTuple):
    """What a model has of an adapter."""

    config: AttentionPromptConfig
    layers: list[AttentionPromptLayer]
    heads: list[HeadWrapper]
    tensors: dict[str, Tensor]  # by the names that they have in a file, less what wrappers put before them


@torch.no_grad()
def hotswap_adapter_from_state_dict(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    adapter_name: str,
    config: AttentionPromptConfig,
    *,
    source: str = "state_dict",
) -> None:
    """As `hotswap_adapter`, which reads a file, with tensors that are in memory already.

    Args:
        model: a model with that adapter, compiled or not.
        state_dict: the other adapter's tensors, named as in its file and by `get_peft_model_state_dict`, or as in the
            model, with the adapter's name in them.
        adapter_name: the adapter in the model whose place they take.
        config: the other adapter's settings.
        source: what the tensors come from, for messages.

    Raises:
        ConfigError: the model has no such adapter, or has it on the meta device.
        CheckpointError: the tensors do not fit; all that is wrong is listed, and the model is as it was.

    Source: the interface is that of `peft.utils.hotswap.hotswap_adapter_from_state_dict`.
    """
    own = _own(model, adapter_name)
    new = {_file_name(name, adapter_name): tensor for name, tensor in state_dict.items()}
    if problems := [*_config_problems(config, own, adapter_name), *_tensor_problems(new, own.tensors)]:
        raise CheckpointError(
            f"{source} must fit adapter {adapter_name!r} of the model to take its place, but {'; '.join(problems)}. The model is "
            "as it was. Load it under a name of its own: model.load_adapter(..., adapter_name=NAME)."
        )
    for name, tensor in own.tensors.items():
        tensor.copy_(new[name])
    for layer in own.layers:
        if layer.awaits_data.get(adapter_name):
            layer.awaits_data[adapter_name] = False  # these prompts need no calibration any more
    own.config.data_initialized = own.config.data_initialized or own.config.init_weights == "data"
    for head in own.heads:
        if head.labels is not None and adapter_name in head.labels.by_adapter:
            of_base = head.labels.of_base or {}
            count = len(head.labels.by_adapter[adapter_name])
            unnamed = of_base if len(of_base) == count else {index: f"LABEL_{index}" for index in range(count)}
            own.config.id2label = head.labels.by_adapter[adapter_name] = dict(config.id2label or unnamed)
            head.show_labels()


def _own(model: nn.Module, adapter_name: str) -> _Own:
    """Find an adapter in a model."""
    configs: Mapping[str, Any] = getattr(model, "peft_config", {})
    config = configs.get(adapter_name)
    if not isinstance(config, AttentionPromptConfig):
        prompts = sorted(name for name, c in configs.items() if isinstance(c, AttentionPromptConfig))
        there = f"is one of {_method(config)}" if config else f"the model has {prompts or 'none'}"
        raise ConfigError(
            f"adapter_name ({adapter_name!r}) must be an adapter of attention prompts, but {there}. "
            "Load one first, by PeftModel.from_pretrained or model.load_adapter."
        )
    own = _Own(config, [], [], {})
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, AttentionPromptLayer):
            own.layers.append(module)
            module.keep_in_memory()
            for kind in module.adapter_layer_names:
                if adapter_name in getattr(module, kind):
                    found[f"{name}.{kind}"] = getattr(module, kind)[adapter_name]
        elif isinstance(module, HeadWrapper) and adapter_name in module.modules_to_save:
            own.heads.append(module)
            take_out_of_offloading(module.modules_to_save[adapter_name])
            tensors = module.modules_to_save[adapter_name].state_dict(keep_vars=True)
            found |= {f"{name}.{part}": tensor for part, tensor in tensors.items()}
    if away := [name for name, tensor in found.items() if tensor.is_meta]:
        raise ConfigError(
            f"adapter_name ({adapter_name!r}) must have its tensors in memory, but {len(away)} of {len(found)} are on the meta "
            "device. Load the adapter first."
        )
    own.tensors.update({_file_name(name, adapter_name): tensor for name, tensor in found.items()})
    return own


def _file_name(name: str, adapter_name: str) -> str:
    """The name of a tensor without what wrappers, compilation and the adapter's own name put into it."""
    name = name.replace(COMPILED, "").replace(f".modules_to_save.{adapter_name}.", ".")
    while name.startswith(WRAPPED):
        name = name.removeprefix(WRAPPED)
    path, dot, last = name.rpartition(".")
    is_prompt = path.rpartition(".")[2] in AttentionPromptLayer.adapter_layer_names
    return path if dot and is_prompt and last == adapter_name else name


def _config_problems(new: AttentionPromptConfig, own: _Own, adapter_name: str) -> Iterator[str]:
    """What tensors alone do not tell."""
    mine = own.config
    if new.reparameterization != mine.reparameterization:
        yield f"its reparameterization is {new.reparameterization!r}, not {mine.reparameterization!r}"
    if new.share_prompts_across_heads != mine.share_prompts_across_heads:
        kinds = {True: "shared by the heads", False: "of each head"}
        yield (
            f"its prompts are {kinds[new.share_prompts_across_heads]}, not {kinds[mine.share_prompts_across_heads]} "
            f"(share_prompts_across_heads={new.share_prompts_across_heads})"
        )
    for head in own.heads:
        labels = head.labels.by_adapter.get(adapter_name) if head.labels is not None else None
        if labels is not None and new.id2label is not None and len(new.id2label) != len(labels):
            yield f"it has {len(new.id2label)} labels, not {len(labels)}"


def _tensor_problems(new: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[str]:
    if missing := [name for name in own if name not in new]:
        yield f"it lacks {_listing(missing)}"
    if extra := [name for name in new if name not in own]:
        yield f"it has {_listing(extra)}, for which the model has no place"
    wrong: dict[str, list[str]] = {}
    for name in (name for name in own if name in new):
        tensor, there = new[name], own[name]
        if tensor.shape != there.shape:
            wrong.setdefault(f"{tuple(tensor.shape)}, not {tuple(there.shape)}", []).append(name)
        elif tensor.is_floating_point() != there.is_floating_point():
            wrong.setdefault(f"{_dtype(tensor)}, not {_dtype(there)}", []).append(name)
        elif not tensor.to(there.dtype).isfinite().all():
            wrong.setdefault(f"not finite in {_dtype(there)}", []).append(name)
    for problem, names in wrong.items():
        yield f"{_listing(names)} {'is' if len(names) == 1 else 'are'} {problem}"


def _listing(names: list[str]) -> str:
    """Names that differ in their numbers as one, and at most eight."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(fold_names([name])[0].removesuffix(" (1)"), []).append(name)
    entries = [alike[0] if len(alike) == 1 else f"{name} ({len(alike)})" for name, alike in groups.items()]
    shown = ", ".join(entries[:MOST_NAMES])
    return shown if len(entries) <= MOST_NAMES else f"{shown} and {len(entries) - MOST_NAMES} more"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _method(config: PeftConfig) -> str:
    return str(getattr(config.peft_type, "value", config.peft_type))
