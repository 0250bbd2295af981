"""Where a layer keeps its prompts: on the device of the wrapped module, out of offloading, and as a file brings them."""

from typing import Any

import torch
import torch.nn as nn

from ..errors import CheckpointError
from .limits import refuse_unusable
from .storage import PromptDict, place_for_prompts, take_out_of_offloading


class KeptPrompts(nn.Module):
    """A module with a `base_layer` and a `PromptDict` for each of `adapter_layer_names`."""

    base_layer: nn.Module
    adapter_layer_names: tuple[str, ...]
    attention_prompt_key: PromptDict
    awaits_data: dict[str, bool]

    def _containers(self) -> list[PromptDict]:
        return [getattr(self, name) for name in self.adapter_layer_names]

    def keep_in_memory(self) -> None:
        """Take the prompts out of Accelerate's offloading, whose hooks know only those tensors that they found."""
        for container in self._containers():
            if hasattr(container, "_hf_hook"):
                take_out_of_offloading(container)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
        return place_for_prompts(base_layer)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Move loaded prompts to where the base computes, in the dtype that they were asked for in.

        Not to `meta`, where the base is still empty: they would be lost.
        """
        device = device or place_for_prompts(self.base_layer)[0]
        if device is None or device.type == "meta":
            return
        for container in self._containers():
            if adapter_name in container and not container[adapter_name].is_meta:
                container[adapter_name] = container[adapter_name].to(device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        refuse_unusable({k: v for k, v in state_dict.items() if k.startswith(f"{prefix}attention_prompt_")})
        for name in (
            name for name in self.attention_prompt_key if f"{prefix}attention_prompt_key.{name}" in state_dict
        ):
            for kind in ("attention_prompt_scale", "attention_prompt_bias", "attention_prompt_gate"):
                given = {f"{prefix}{kind}", f"{prefix}{kind}.{name}"} & state_dict.keys()  # PEFT names what has a place
                if given and name not in getattr(self, kind):
                    raise CheckpointError(
                        f"adapter {name!r} must be loaded into one of its own kind, but the one of that name in the model has "
                        f"no {kind}: it was folded, or made with other settings. Load it under another name, or delete_adapter "
                        "first."
                    )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        for name in self.awaits_data:  # loaded prompts need no calibration any more
            if f"{prefix}attention_prompt_key.{name}" in state_dict:
                self.awaits_data[name] = False
