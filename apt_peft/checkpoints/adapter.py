"""An adapter onto its backbone, or an error: PEFT itself only warns of what is missing and drops what is left over."""

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..errors import AptError, CheckpointError
from .reading import listing
from .source import AdapterFiles, find_adapter


def load_adapter(
    base: nn.Module,
    adapter: AdapterFiles | str | Path,
    *,
    name: str,
    adapter_name: str = "default",
    is_trainable: bool = False,
    **options: Any,
) -> PeftModel:
    """Put an adapter onto its backbone, every tensor of it in its place.

    What the adapter asks for is compared with what its file holds before any of it is made, and the backbone is
    touched only when they agree.

    Args:
        base: the backbone; or a model with adapters already, which gets one more.
        adapter: its files as `find_adapter` found them; or a folder, or a name on the Hub.
        name: of the backbone, for messages.
        adapter_name: of the adapter in the model.
        is_trainable: whether it is trained further.
        **options: of `PeftModel.from_pretrained`, or of `load_adapter` where the backbone has adapters already.

    Returns:
        The model; of a model with adapters, the same object.

    Raises:
        CheckpointError: the weights are damaged or not finite, lack tensors, hold some that the config has no place for,
            or have other shapes.
    """
    files = adapter if isinstance(adapter, AdapterFiles) else find_adapter(adapter)
    problems = _differences(_expected(base, files), files)
    if problems:
        raise _unfit(files, name, "; ".join(problems))
    _refuse_unusable(files, name)
    options |= {"adapter_name": adapter_name, "is_trainable": is_trainable}
    try:
        with warnings.catch_warnings():
            # What PEFT says of missing tensors is said already; it looks for names anywhere in those of others.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            if isinstance(base, PeftModel):
                base.load_adapter(str(files.folder), **({"torch_device": "cpu"} | options))
                return base
            config = copy.deepcopy(files.config)
            return PeftModel.from_pretrained(base, str(files.folder), config=config, **options)  # type: ignore[arg-type]
    except AptError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        lines = [line.strip() for line in str(error).strip().split("\n")]
        raise _unfit(files, name, " ".join(lines[:2]).rstrip(".")) from None


def _expected(base: nn.Module, files: AdapterFiles) -> dict[str, torch.Tensor]:
    """The tensors that the config makes of this backbone, found on a copy of it that has no data: they cost nothing."""
    skeleton: Any = _without_data(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same is said when the adapter is loaded
        if isinstance(skeleton, PeftModel):
            skeleton = skeleton.unload()
        model = PeftModel(skeleton, copy.deepcopy(files.config))
        # False: there are no embeddings, and looking for them would ask the Hub for a base that has moved.
        return get_peft_model_state_dict(model, save_embedding_layers=False)


def _without_data(model: nn.Module) -> nn.Module:
    """A copy of a model whose tensors are empty, on the meta device."""
    known: dict[int, Any] = {}
    for parameter in model.parameters():
        known[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        known[id(buffer)] = buffer.to("meta")
    for module in model.modules():
        if (hook := module.__dict__.get("_hf_hook")) is not None:
            known[id(hook)] = None  # Accelerate's, which may hold all weights once more
    skeleton = copy.deepcopy(model, known)
    for module in skeleton.modules():
        if "_hf_hook" in module.__dict__:
            for name in ("_hf_hook", "_old_forward", "forward"):
                module.__dict__.pop(name, None)
    return skeleton


def _differences(expected: Mapping[str, torch.Tensor], files: AdapterFiles) -> list[str]:
    """What is wrong with the tensors of a file, all at once."""
    found = files.tensors
    problems = []
    if lost := sorted(expected.keys() - found.keys()):
        problems.append(f"it lacks {listing(lost)}")
    if left := sorted(found.keys() - expected.keys()):
        problems.append(f"its adapter_config.json has no place for {listing(left)} of its weights")
    other = {key: (found[key].shape, tuple(expected[key].shape)) for key in sorted(expected.keys() & found.keys())}
    if odd := [f"{key} {list(has)}, not {list(wanted)}" for key, (has, wanted) in other.items() if has != wanted]:
        problems.append(f"it has other shapes: {listing(odd)}")
    return problems


def _refuse_unusable(files: AdapterFiles, name: str) -> None:
    try:
        weights = load_file(files.weights)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _unfit(files, name, f"its weights cannot be read ({error})") from None
    if odd := sorted(key for key, tensor in weights.items() if not tensor.isfinite().all()):
        raise CheckpointError(
            f"adapter ({files.name}) must hold finite weights, but {listing(odd)} {'has' if len(odd) == 1 else 'have'} NaN or "
            "infinite values: its training diverged, or it is damaged. Copy it again, or take an earlier one."
        )


def _unfit(files: AdapterFiles, name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"adapter ({files.name}) must be whole and fit its backbone ({name}), but {reason}. "
        "Copy the adapter again, or give the backbone it was trained on."
    )
