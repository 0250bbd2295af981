"""An adapter whose tensors are spread over several processes, put together again."""

import torch.nn as nn
from torch import Tensor

from ..errors import ConfigError, TargetError

# By these attributes a parameter is known as FSDP2's DTensor, or as partitioned by DeepSpeed ZeRO-3.
DTENSOR, PARTITIONED = "full_tensor", "ds_id"


def gather_adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' tensors in full, whether the model is sharded over several processes or not.

    Every process must call it, since each holds a part; then one of them saves:

        state = gather_adapter_state(model)
        if torch.distributed.get_rank() == 0:
            model.save_pretrained(folder, state_dict=state)

    Args:
        model: as `get_peft_model` made it, its weights sharded by FSDP2 (`fully_shard`, or Accelerate), partitioned by
            DeepSpeed ZeRO-3, or whole. Not a wrapper around it: take `.module`, or Accelerate's `unwrap_model`.

    Returns:
        Tensors on the CPU under their names in `model.state_dict()`, the same in every process; the frozen backbone is
        neither gathered nor returned.

    Raises:
        ConfigError: it is such a wrapper, or has no adapter.
    """
    adapters = set(getattr(model, "peft_config", None) or {})
    if not adapters:
        raise ConfigError(
            f"model ({type(model).__name__}) must be what get_peft_model made, but it has no adapters. "
            "Of a wrapper take its .module, or Accelerate's unwrap_model(model)."
        )
    return {
        name: _whole(tensor).cpu()
        for name, tensor in model.state_dict(keep_vars=True).items()
        if not adapters.isdisjoint(name.split("."))
    }


def is_sharded(module: nn.Module) -> bool:
    """Whether a module's weights are spread over processes by `fully_shard` or tensor parallelism."""
    return any(hasattr(parameter, DTENSOR) for parameter in module.parameters())


def check_whole(model: nn.Module) -> None:
    """See that a model's weights are not sharded yet: prompts that are added then would learn in each process by itself.

    Raises:
        TargetError: they are.
    """
    if is_sharded(model):
        raise TargetError(
            f"model ({type(model).__name__}) must get its prompts before its weights are sharded, but these are spread over "
            "processes already, and prompts and head would not be. Call get_peft_model or load the adapter, then fully_shard."
        )


def _whole(tensor: Tensor) -> Tensor:
    if hasattr(tensor, DTENSOR):
        return tensor.detach().full_tensor()
    if hasattr(tensor, PARTITIONED):
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor.detach().clone()
