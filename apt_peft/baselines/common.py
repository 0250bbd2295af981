"""What the baselines share: settings for targets and head, and a tuner that finds both as that of the prompts does."""

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn as nn
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from transformers import PreTrainedModel

from apt_peft.errors import TargetError
from apt_peft.tuner.families import heads_of, model_type
from apt_peft.tuner.heads import adopt_heads, label_head_name, labels_of

# Where VideoMAE's blocks, and the module that adds an MLP's output to its input, sit.
VIDEOMAE = "videomae"


@dataclass
class BaselineConfig(PeftConfig):
    """Settings that all baselines have.

    Args:
        target_modules: names (suffixes) or one regular expression; None: as the method has it, for VideoMAE.
        exclude_modules: names or one regular expression for modules to leave out.
        modules_to_save: modules trained and saved in full; None: the model's head (VideoMAE: `fc_norm` and
            `classifier`), as for attention prompts; `[]`: nothing.
        id2label: names of the labels that the head was trained for; filled from the model.
    """

    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Names or a regular expression."})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules to leave out."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained in full."})
    id2label: dict[int, str] | None = field(default=None, metadata={"help": "Names of the labels of the head."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.id2label, dict):  # the keys of a JSON file are strings
            self.id2label = {int(key): name for key, name in self.id2label.items()}


class BaselineModel(BaseTuner):
    """A frozen model with the layers of one baseline; made by `peft.get_peft_model`.

    Args:
        model: the base model; its modules are wrapped in place.
        peft_config: the first adapter's settings.
        adapter_name: the first adapter's name.

    Raises:
        TargetError: the model has no place for the method.
    """

    target_module_mapping: ClassVar[dict[str, list[str]]] = {}
    layer_class: ClassVar[type["BaselineLayer"]]

    @classmethod
    def default_targets(cls, config: Any, model: nn.Module) -> list[str] | str | None:
        """Targets of a known architecture, or None where it is not known."""
        raise NotImplementedError

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Fill in targets, head and labels from the model, then let PEFT wrap the modules."""
        config = self.peft_config[adapter_name]
        if not config.inference_mode:
            config = self.peft_config[adapter_name] = copy.deepcopy(config)
        if config.target_modules is None:
            config.target_modules = self.default_targets(config, model)
            if config.target_modules is None:
                raise TargetError(
                    f"target_modules must be given for a model of type {model_type(model)!r}, but "
                    f"{type(config).__name__} knows places by itself in VideoMAE alone. Name them."
                )
        if config.modules_to_save is None:
            config.modules_to_save = heads_of(model)
        if config.id2label is None and label_head_name(model, config.modules_to_save):
            config.id2label = labels_of(model).of_base
        if config.auto_mapping is None and isinstance(model, PreTrainedModel):
            config.auto_mapping = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        adopt_heads(model, adapter_name, config.modules_to_save or [], config.id2label)

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        return peft_config  # completed already

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, self.layer_class):
            target.update_layer(adapter_name, peft_config)
            return
        layer = self.layer_class(target, adapter_name, peft_config, getattr(self.model, "config", None))
        layer.train(target.training)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        setattr(parent, target_name, layer)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)  # PEFT would look for a weight, which blocks don't have


class BaselineLayer(nn.Module, BaseTunerLayer):
    """Wraps one module of the frozen model.

    Args:
        base_layer: the module.
        adapter_name: name of the first adapter.
        config: that adapter's settings.
        model_config: of the whole model.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: Any, model_config: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.model_config = model_config
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.make_containers()
        self.update_layer(adapter_name, config)

    def make_containers(self) -> None:
        """Make the dictionaries of `adapter_layer_names`, empty."""
        raise NotImplementedError

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """Add an adapter's parameters."""
        raise NotImplementedError

    def acting(self) -> list[str]:
        """Names of the adapters that act here now."""
        if self.disable_adapters:
            return []
        there = getattr(self, self.adapter_layer_names[0])
        return [name for name in self.active_adapters if name in there]

    def place(self) -> dict[str, Any]:
        """Device and dtype of the base's weights, for new tensors."""
        weight = next(p for p in self.base_layer.parameters() if p.is_floating_point())
        return {"device": weight.device, "dtype": weight.dtype}

    def finish(self, config: Any) -> None:
        """After new parameters: which are trained."""
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
        place = self.place()
        return place["device"], place["dtype"]
