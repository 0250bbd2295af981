"""Which adapters may live on one model, and in which order: other methods first, attention prompts last.

PEFT never looks inside the modules that another method has wrapped. LoRA on the projections and prompts around them works;
prompts first would hide the projections from LoRA, which then adapts what is left without a word, or finds nothing.
"""

from typing import Any

from peft import PeftConfig
from torch import nn

from ..errors import ConfigError, TargetError
from .config import AttentionPromptConfig
from .samples import BASE


def check_adapter_name(name: str, model: nn.Module) -> None:
    """Refuse a name before anything is wrapped for it.

    PEFT tells adapters apart by finding `.name` anywhere in a parameter's name. With two adapters, one called "0" would
    be saved without its prompts of layer 1, whose names have a 0 in them.

    Args:
        name: an adapter's name; it becomes a name of parameters and modules.
        model: the base model.

    Raises:
        ConfigError: torch cannot have it there, or it stands for something else.
    """
    if name in parts_of_names(model):
        raise ConfigError(
            f"adapter_name ({name!r}) must not be part of the names of the model's modules and weights, since PEFT finds an "
            "adapter's weights by it. Choose another."
        )
    taken = hasattr(nn.ParameterDict(), name) or hasattr(nn.ModuleDict(), name)
    if taken or not name or "." in name or name == BASE:
        raise ConfigError(
            f"adapter_name ({name!r}) must be a name that torch's containers have no use for, without dots, and not "
            f"{BASE!r}. Choose another."
        )


def parts_of_names(model: nn.Module) -> set[str]:
    """What stands between the dots in the names of a model's weights, those of adapters left out."""
    parts = {"base_model", "base_layer", "model", "original_module", "modules_to_save"}
    for name, module in model.named_modules():
        if ".modules_to_save." not in f".{name}" and not isinstance(module, nn.ParameterDict):
            parts.update(name.split("."), module._parameters)
    return parts


def refuse_taken_names(model: Any, adapter_name: str) -> None:
    """Keep another method's adapter, which PEFT would replace in the model's dictionary without a word.

    Args:
        model: the model that is about to get prompts.
        adapter_name: the prompts' name.

    Raises:
        TargetError: another method's adapter has that name.
    """
    there = (getattr(model, "peft_config", None) or {}).get(adapter_name)
    if there is not None and not isinstance(there, AttentionPromptConfig):
        raise TargetError(
            f"adapter_name ({adapter_name!r}) must be new, but an adapter of {_method(there)} has it. Pass another "
            "adapter_name to get_peft_model."
        )


def _method(config: PeftConfig) -> str:
    return str(getattr(config.peft_type, "value", config.peft_type))


class OwnConfigs(dict[str, PeftConfig]):
    """The adapters of a model with attention prompts, to which PEFT would add another method's.

    PEFT shares this dictionary with the base model, and enters every further method's config into it before it looks
    for that method's modules.
    """

    def __setitem__(self, name: str, config: PeftConfig) -> None:
        self._check({name: config})
        super().__setitem__(name, config)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Enter adapters, as PEFT does for a second method.

        Raises:
            TargetError: a new one is of another method.
        """
        new = dict(*args, **kwargs)
        self._check(new)
        super().update(new)

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)

    def _check(self, new: dict[str, PeftConfig]) -> None:
        foreign = {
            name: _method(config)
            for name, config in new.items()
            if not isinstance(config, AttentionPromptConfig) and self.get(name) is not config
        }
        if foreign:
            raise TargetError(
                f"{', '.join(f'{kind} ({name!r})' for name, kind in foreign.items())} must be added before attention "
                "prompts, but the model has prompts already, and PEFT does not look inside the attention modules they "
                "wrap. Call unload(), add the other method, then the prompts."
            )
