"""The classification head that comes with an adapter, and the label names that go with it.

A base checkpoint knows its own labels, or none; an adapter was trained for others. So the adapter's config carries
`id2label`, its copy of the head is made to that size, and the model's config shows the labels of the head in use.
"""

import torch
import torch.nn as nn
from peft.utils.other import ModulesToSaveWrapper

from .families import FAMILIES, model_type


def label_names(model: nn.Module) -> dict[int, str] | None:
    """The labels that a model's config states, or None where it has none (a model outside transformers)."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    return {int(k): str(v) for k, v in names.items()} if names else None


def show_labels(model: nn.Module, names: dict[int, str] | None) -> None:
    """Make a model's config state the labels of the head in use; losses and pipelines read them there.

    Args:
        model: the base model, changed in place.
        names: label names by index; None changes nothing.
    """
    if names is None or label_names(model) is None or label_names(model) == names:
        return
    model.config.id2label = dict(names)
    model.config.label2id = {name: index for index, name in names.items()}
    if hasattr(model, "num_labels"):
        model.num_labels = len(names)


def label_head_name(model: nn.Module, saved: list[str]) -> str | None:
    """Which of the saved modules gives the labels.

    Args:
        model: the base model, before or after its head was wrapped.
        saved: names of the modules that are saved in full.

    Returns:
        The name, or None where no saved module is a Linear of the model's label count.
    """
    family = FAMILIES.get(model_type(model) or "")
    if family is not None:
        return family.label_head if family.label_head in saved else None
    count = len(label_names(model) or {})
    linear = [name for name in saved if getattr(_original(getattr(model, name, None)), "out_features", None) == count]
    return linear[0] if len(linear) == 1 else None


def fit_label_head(model: nn.Module, adapter_name: str, saved: list[str], num_labels: int) -> None:
    """Give an adapter's copy of the label head as many outputs as the adapter has labels.

    The new weights are drawn as the model draws its own; loading the adapter replaces them.

    Args:
        model: the base model, whose head is wrapped already.
        adapter_name: whose copy.
        saved: names of the modules that are saved in full.
        num_labels: outputs wanted.
    """
    name = label_head_name(model, saved)
    wrapper = getattr(model, name, None) if name else None
    if not isinstance(wrapper, ModulesToSaveWrapper):
        return
    old = wrapper.modules_to_save[adapter_name]
    if not isinstance(old, nn.Linear) or old.out_features == num_labels:
        return
    like = old.weight
    new = nn.Linear(old.in_features, num_labels, bias=old.bias is not None, device=like.device, dtype=like.dtype)
    if not like.is_meta:
        with torch.no_grad():
            nn.init.normal_(new.weight, std=getattr(model.config, "initializer_range", 0.02))
            if new.bias is not None:
                nn.init.zeros_(new.bias)
    new.requires_grad_(like.requires_grad)
    new.train(old.training)
    wrapper.modules_to_save[adapter_name] = new


def _original(module: object) -> object:
    return module.original_module if isinstance(module, ModulesToSaveWrapper) else module
