"""A saved adapter in the place of a loaded one."""

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from .checkpoints.source import find_adapter
from .tuner import hotswap_adapter_from_state_dict


def hotswap_adapter(
    model: nn.Module,
    model_name_or_path: str | Path,
    adapter_name: str,
    torch_device: str | None = None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> None:
    """Put the prompts, head and label names of a saved adapter in the place of a loaded one, which keeps its name.

    The tensors that are there are filled; the model may be compiled, and nothing is compiled again. What training alone
    uses (prompt dropout, how prompts started) stays as it was. Do not swap while a forward runs in another thread.

    Args:
        model: a model with that adapter, as `get_peft_model` or `PeftModel.from_pretrained` returns it, compiled or not.
        model_name_or_path: folder of the other adapter, or `user/name` on the Hub.
        adapter_name: the adapter in the model whose place it takes.
        torch_device: where the file is read to, before it is copied to where the prompts are; the CPU by default.
        revision: branch, tag or commit of an adapter on the Hub.
        subfolder: where in the folder or the repository the adapter is.
        token: of a user of the Hub; the one that is logged in by default.
        cache_dir: where files of the Hub are kept; huggingface_hub's cache by default.
        local_files_only: do not ask the Hub.

    Raises:
        ConfigError: the model has no such adapter, or has it on the meta device.
        CheckpointError: the other adapter is not there, not whole or not safe to read, or does not fit; all that does
            not is listed. The model is as it was.

    Source: the interface is that of `peft.utils.hotswap.hotswap_adapter`, which covers LoRA.
    """
    files = find_adapter(
        model_name_or_path,
        revision=revision,
        subfolder=subfolder,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    tensors = load_file(files.weights, device=torch_device or "cpu")
    hotswap_adapter_from_state_dict(model, tensors, adapter_name, files.config, source=f"adapter ({files.name})")
