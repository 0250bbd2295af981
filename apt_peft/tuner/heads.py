"""The classification head that comes with an adapter, and the label names that go with it.

A base checkpoint knows its own labels, or none; an adapter was trained for others. So the adapter's config carries
`id2label`, its copy of the head is made to that size, and the model's config shows the labels of the head in use.
"""

import weakref
from typing import Any

import torch
import torch.nn as nn
from peft.utils.other import ModulesToSaveWrapper

from ..errors import ConfigError
from .families import FAMILIES, model_type
from .samples import SampleAdapters, run_by_sample
from .storage import take_out_of_offloading


class HeadWrapper(ModulesToSaveWrapper):
    """PEFT's wrapper of a head, one copy per adapter, which by itself does what its adapters' other modules do.

    PEFT switches adapters through its tuner, transformers' own mixin (`model.set_adapter`) module by module, past any
    tuner. What must happen by either road happens here. Made by `adopt_heads`, never called.
    """

    labels: "Labels | None" = None  # of the head that gives the labels, None for others
    sample_adapters: SampleAdapters | None = None  # set for the time of one forward, by `mixed_batch`

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The copy in use; where samples have adapters of their own, each one's copy on its samples."""
        if self.sample_adapters is None or self.disable_adapters:
            return super().forward(*args, **kwargs)
        return run_by_sample(self.sample_adapters, self._copy_of, args, kwargs)

    def _copy_of(self, adapter_name: str) -> nn.Module:
        return self.modules_to_save[adapter_name] if adapter_name in self._adapters else self.original_module

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Use the copy of the adapter that has one here, or the base's own head where none has."""
        super().set_adapter(self._mine(adapter_names), inference_mode=inference_mode)
        self.show_labels()

    def check_set_adapter(self, adapter_name: str | list[str]) -> str | None:
        """Which adapter's copy would be used, or None.

        Raises:
            ConfigError: two of them bring a copy.
        """
        return next(iter(self._mine(adapter_name)), None)

    def enable_adapters(self, enabled: bool) -> None:
        """Use the active adapter's copy, or the base's own head."""
        super().enable_adapters(enabled)
        self.show_labels()

    def delete_adapter(self, adapter_name: str, new_active_adapters: list[str] | None) -> None:
        """Delete an adapter's copy, and use that of the adapter which is active from now on."""
        if adapter_name not in self._adapters:
            return
        if new_active_adapters is None:  # a model without prompts, of heads only: no other module chose
            new_active_adapters = [n for n in self.active_adapters if n != adapter_name] or sorted(self._adapters)
        remaining = self._mine([name for name in new_active_adapters if name != adapter_name])
        if remaining != self.active_adapters:
            super().set_adapter(remaining)
        super().delete_adapter(adapter_name, remaining)
        if self.labels is not None:
            self.labels.by_adapter.pop(adapter_name, None)
        self.show_labels()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        """Also where loading replaces tensors (`low_cpu_mem_usage=True`), a copy keeps the dtype that its base computes in.

        A state dict that holds the base's own head, too, is of a whole model, and stays as it is.
        """
        if local_metadata.get("assign_to_params_buffers"):
            for name, there in self.modules_to_save.named_parameters():
                key, own = f"{prefix}modules_to_save.{name}", f"{prefix}original_module.{name.partition('.')[2]}"
                value = state_dict.get(key)
                if isinstance(value, torch.Tensor) and value.is_floating_point() and own not in state_dict:
                    state_dict[key] = value.to(there.dtype)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _mine(self, names: str | list[str]) -> list[str]:
        """Those of some adapters that have a copy here: one, or none."""
        mine = [name for name in ([names] if isinstance(names, str) else names) if name in self._adapters]
        if len(mine) > 1:
            raise ConfigError(
                f"set_adapter ({mine}) must name one adapter that brings a head, but each of these brings its own, and an "
                "input goes through one. Name one, or train the others with modules_to_save=[]."
            )
        return mine

    def show_labels(self) -> None:
        """Make the model's config state the labels of what is in use here, if this head gives them."""
        if self.labels is not None:
            in_use = None if self.disable_adapters else next(iter(self.active_adapters), None)
            self.labels.show(in_use)


class Labels:
    """The label names of a model's own head and of its adapters' heads.

    Args:
        model: the base model; its config states its own labels now.
    """

    def __init__(self, model: nn.Module) -> None:
        self.of_base = label_names(model)
        self.by_adapter: dict[str, dict[int, str]] = {}
        self._model = _Reference(model)

    def show(self, adapter_name: str | None) -> None:
        """Make the model's config state the labels of an adapter's head, or of the base's own (None)."""
        model = self._model()
        if model is not None:
            show_labels(model, self.by_adapter.get(adapter_name or "", self.of_base))


class _Reference:
    """To a module, from inside it: keeps nothing alive, and is copied with the whole, never along with a part."""

    def __init__(self, module: nn.Module | None) -> None:
        self._weak = None if module is None else weakref.ref(module)

    def __call__(self) -> nn.Module | None:
        return None if self._weak is None else self._weak()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Reference":
        return _Reference(memo.get(id(self())))

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        return _Reference, (self(),)


def label_names(model: nn.Module) -> dict[int, str] | None:
    """The labels that a model's config states, or None where it has none (a model outside transformers)."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    return {int(k): str(v) for k, v in names.items()} if names else None


def labels_of(model: nn.Module) -> Labels:
    """What is known of a model's labels: kept by the head that gives them, else the model's config states its own."""
    kept = (module.labels for module in model.modules() if isinstance(module, HeadWrapper))
    return next((labels for labels in kept if labels is not None), None) or Labels(model)


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
    count = len(labels_of(model).of_base or {})
    linear = [name for name in saved if getattr(_original(getattr(model, name, None)), "out_features", None) == count]
    return linear[0] if len(linear) == 1 else None


def adopt_heads(model: nn.Module, adapter_name: str, saved: list[str], names: dict[int, str] | None) -> None:
    """Turn the wrappers that PEFT put around an adapter's heads into ours, and give them the adapter's labels.

    Args:
        model: the base model, whose heads are wrapped already.
        adapter_name: whose heads.
        saved: names of the modules that are saved in full.
        names: label names by index, or None where they are not known.
    """
    wrappers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, ModulesToSaveWrapper) and adapter_name in module.modules_to_save
    }
    for wrapper in wrappers.values():
        if type(wrapper) is ModulesToSaveWrapper:  # PEFT chose the class itself; only behaviour is added to it
            wrapper.__class__ = HeadWrapper
        take_out_of_offloading(wrapper.modules_to_save[adapter_name])
    if names is None or not wrappers:
        return
    label_head = wrappers.get(label_head_name(model, saved) or "")
    if label_head is not None:
        fit_label_head(model, label_head, adapter_name, len(names))
    else:  # named by the user, and of a kind that cannot be resized: what is nearest to the output
        label_head = list(wrappers.values())[-1]
    label_head.labels = labels_of(model)
    label_head.labels.by_adapter[adapter_name] = names


def fit_label_head(model: nn.Module, wrapper: HeadWrapper, adapter_name: str, num_labels: int) -> None:
    """Give an adapter's copy of the label head as many outputs as the adapter has labels.

    The new weights are drawn as the model draws its own; loading the adapter replaces them.

    Args:
        model: the base model.
        wrapper: of its label head.
        adapter_name: whose copy.
        num_labels: outputs wanted.
    """
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
