"""Where prompts are kept: frozen stays frozen, and Accelerate's offloading finds them.

PEFT casts and moves an adapter by putting new tensors in its containers, and loads it onto the `meta` device first where
memory is scarce. Accelerate offloads weights by hooks that bring them back around a module's forward; a container of
prompts has none.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

# Smaller floating-point types hold quantized weights: nothing can be drawn or trained in them
COMPUTE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class PromptDict(nn.ParameterDict):
    """One kind of prompt tensors of a layer, by adapter.

    `nn.ParameterDict` makes a parameter that requires grad of every tensor put into it: a frozen adapter would train on
    after PEFT has cast or moved it.
    """

    def __setitem__(self, adapter_name: str, value: Any) -> None:
        if adapter_name in self and isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, requires_grad=self[adapter_name].requires_grad)
        super().__setitem__(adapter_name, value)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        """An empty prompt tensor that waits for its values (`low_cpu_mem_usage=True`) says their dtype."""
        if local_metadata.get("assign_to_params_buffers"):
            for name, empty in self.items():
                value = state_dict.get(prefix + name)
                if empty.is_meta and isinstance(value, Tensor) and value.is_floating_point():
                    state_dict[prefix + name] = value.to(empty.dtype)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def place_for_prompts(module: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """Where a module computes, and in which dtype.

    Args:
        module: an attention; it has no weight of its own, and those of its parts may be quantized or offloaded.

    Returns:
        Device and dtype, each None where nothing tells.
    """
    device = dtype = None
    for part in module.modules():
        for weight in part.parameters(recurse=False):
            device = _execution_device(part) or weight.device if device is None else device
            if dtype is None and weight.dtype in COMPUTE_DTYPES:
                dtype = weight.dtype
        if dtype is None:
            dtype = getattr(part, "compute_dtype", None)  # bitsandbytes, 4 bits
    return device, dtype


def _hooks(module: nn.Module) -> list[Any]:
    """Accelerate's hooks of one module."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))


def _execution_device(module: nn.Module) -> torch.device | None:
    """Where the weights of an offloaded module are brought for its forward; None for one that is not offloaded."""
    devices = (hook.execution_device for hook in _hooks(module) if getattr(hook, "offload", False))
    device = next((device for device in devices if device is not None), None)
    return None if device is None else torch.device(device)


def is_left_on_disk(module: nn.Module, model: nn.Module) -> bool:
    """Whether a module's weights are on the disk, by the model's device map, and nothing is left to read them.

    `PeftModel.from_pretrained` takes hooks off before it wraps a model.
    """
    if "disk" not in (getattr(model, "hf_device_map", None) or {}).values():
        return False
    return any(
        weight.is_meta and _execution_device(part) is None
        for part in module.modules()
        for weight in part.parameters(recurse=False)
    )


@contextmanager
def onloaded(containers: Iterable[nn.Module]) -> Iterator[None]:
    """Bring offloaded tensors back for the time of a forward, as Accelerate does for modules that have one."""
    hooked = [container for container in containers if hasattr(container, "_hf_hook")]
    for container in hooked:
        container._hf_hook.pre_forward(container)
    try:
        yield
    finally:
        for container in hooked:
            container._hf_hook.post_forward(container, None)


@torch.no_grad()
def take_out_of_offloading(module: nn.Module) -> None:
    """Keep the weights of a module where it computes, and take Accelerate's hooks off.

    An offloaded weight is a new tensor in each forward: it cannot be trained, and values loaded into it are lost.

    Args:
        module: a copy of a base model's head; changed in place.
    """
    from accelerate.hooks import remove_hook_from_module
    from accelerate.utils import set_module_tensor_to_device

    for part in module.modules():
        kept: list[tuple[str, torch.device, Tensor]] = []
        for hook in _hooks(part):
            if getattr(hook, "offload", False):
                weights = part.named_parameters(recurse=hook.place_submodules)
                names = [name for name, weight in weights if weight.is_meta]
                # a copy: the base goes on using the offloaded tensor
                kept += [(name, hook.execution_device, hook.weights_map[name].clone()) for name in names]
        if hasattr(part, "_hf_hook"):
            remove_hook_from_module(part)
        for name, device, value in kept:
            set_module_tensor_to_device(part, name, device, value=value)
