"""Names of another method's modules inside a wrapped attention: as if the wrapper were not there.

LoRA that was there first keeps its names: `attention.query.lora_A`, not `attention.base_layer.query.lora_A`. So PEFT saves
it from a model with prompts under the names that it has alone, and it loads before prompts are added. Everything else in
the attention is called `base_layer`, as in any method of PEFT.
"""

from collections.abc import Iterator
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

INSIDE = "base_layer."


class NamesOfInnerTuners(nn.Module):
    """A module with a `base_layer`, whose name the modules of other tuners in it go without."""

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_hide)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """All modules by name; `named_parameters` and `named_buffers` follow it."""
        start = f"{prefix}." if prefix else ""
        tuners: tuple[str, ...] = ()
        for name, module in super().named_modules(memo, prefix, remove_duplicate):
            inner = name.removeprefix(start + INSIDE)
            if inner != name:
                if isinstance(module, BaseTunerLayer):
                    tuners = (*tuners, f"{inner}.")
                if f"{inner}.".startswith(tuners):
                    name = start + inner
            yield name, module

    def __getattr__(self, name: str) -> Any:
        """The modules of other tuners, and what leads to them, by those names."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            base_layer = self.__dict__.get("_modules", {}).get("base_layer")
            inner = base_layer._modules.get(name) if base_layer is not None else None
            if inner is not None and any(isinstance(module, BaseTunerLayer) for module in inner.modules()):
                return inner
            raise

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        own = tuple(f"{prefix}{name}." for name in self._modules)
        for key in [key for key in state_dict if key.startswith(prefix) and not key.startswith(own)]:
            state_dict[prefix + INSIDE + key.removeprefix(prefix)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _hide(layer: nn.Module, state_dict: dict[str, Any], prefix: str, _metadata: Any) -> None:
    modules = layer.get_submodule(INSIDE[:-1]).named_modules()
    inside = tuple(f"{prefix}{INSIDE}{name}." for name, module in modules if isinstance(module, BaseTunerLayer))
    for key in [key for key in state_dict if inside and key.startswith(inside)]:
        state_dict[prefix + key.removeprefix(prefix + INSIDE)] = state_dict.pop(key)
