"""One forward pass in which each sample has its own adapter: its own prompts, and its own head.

PEFT sends the samples of a batch through `modules_to_save` for a few kinds of layers only, a LayerNorm not among them,
and joins heads of one width only. So the heads are routed here, in the same pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor

from ..errors import ConfigError
from .heads import label_head_name, labels_of
from .layer import AttentionPromptLayer
from .samples import BASE, SampleAdapters

if TYPE_CHECKING:
    from .model import AttentionPromptModel


@contextmanager
def mixed_batch(
    tuner: "AttentionPromptModel", adapter_names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[None]:
    """Give each sample of a forward pass its own adapter, until the context ends.

    Args:
        tuner: the tuner; in evaluation mode.
        adapter_names: one name a sample, `"__base__"` for the base with its own head.
        args: positional inputs of the forward.
        kwargs: its other inputs.

    Raises:
        ConfigError: the names do not fit the batch or the model, or the pass is one of training.
    """
    _check(tuner, adapter_names, args, kwargs)
    chosen = SampleAdapters.of(adapter_names)
    with ExitStack() as stack:
        for module in tuner.modules():
            if isinstance(module, AttentionPromptLayer):
                module.sample_adapters = chosen
                stack.callback(setattr, module, "sample_adapters", None)
            elif isinstance(module, ModulesToSaveWrapper):
                module.forward = partial(_forward_by_sample, module, chosen)
                stack.callback(delattr, module, "forward")
        yield


def label_counts(model: nn.Module, adapter_names: Sequence[str]) -> list[int]:
    """How many labels each sample of a mixed batch has: where heads differ, the rest of its logits is -inf.

    Args:
        model: a model with attention prompts, as `get_peft_model` returns it.
        adapter_names: as given to its forward, one name a sample.

    Returns:
        One number a sample.

    Raises:
        ConfigError: an adapter does not exist.
    """
    tuner: AttentionPromptModel = getattr(model, "base_model", model)  # type: ignore[assignment]
    _check_names(tuner, adapter_names)
    own = len(labels_of(tuner.model).of_base or {})
    counts = dict.fromkeys(adapter_names, own)
    for name in counts:
        config = tuner.peft_config.get(name)
        if config is not None and config.id2label and label_head_name(tuner.model, config.modules_to_save or []):
            counts[name] = len(config.id2label)
    return [counts[name] for name in adapter_names]


def _check(
    tuner: "AttentionPromptModel", adapter_names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    if isinstance(adapter_names, str) or not isinstance(adapter_names, Sequence):
        raise ConfigError(
            f"adapter_names ({adapter_names!r}) must be a list with the name of an adapter for each sample."
        )
    if tuner.training:
        raise ConfigError(
            "adapter_names must be left out while training, but the model is in training mode. Call model.eval(), or "
            "set_adapter(name) to train one adapter."
        )
    _check_names(tuner, adapter_names)
    inputs = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    if inputs is not None and len(inputs) != len(adapter_names):
        raise ConfigError(
            f"adapter_names ({len(adapter_names)} names) must have a name for each sample, but the batch has {len(inputs)}."
        )
    if kwargs.get("labels") is not None:
        raise ConfigError(
            "labels must be left out with adapter_names, but samples whose heads differ have no common loss. Compute it "
            "from the logits of each adapter's samples."
        )


def _check_names(tuner: "AttentionPromptModel", adapter_names: Sequence[str]) -> None:
    unknown = sorted({str(name) for name in adapter_names if name != BASE and name not in tuner.peft_config})
    if unknown:
        raise ConfigError(
            f"adapter_names {unknown} must be adapters of the model, but it has {sorted(tuner.peft_config)}. Load them "
            f'first; "{BASE}" stands for none.'
        )


def _forward_by_sample(wrapper: ModulesToSaveWrapper, chosen: SampleAdapters, *args: Any, **kwargs: Any) -> Any:
    """The forward of a saved module: each adapter's copy on its samples, the base's own for the others."""
    batch = len(chosen.index)

    def pick(value: Any, rows: list[int]) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] % batch:
            return value
        # a sample may have several rows beside each other (TimeSformer's frames, where each is classified by itself)
        return value.unflatten(0, (batch, -1))[rows].flatten(0, 1)

    rows: list[int] = []
    outputs = []
    for name in chosen.names:
        module = wrapper.original_module
        if name in wrapper.modules_to_save:
            module = wrapper.modules_to_save[name]
        mine = chosen.rows(name)
        inputs = {key: pick(value, mine) for key, value in kwargs.items()}
        outputs.append(module(*(pick(value, mine) for value in args), **inputs))
        rows += mine
    return outputs[0] if len(outputs) == 1 else _join(outputs, rows)


def _join(outputs: list[Any], rows: list[int]) -> Any:
    """Put outputs of parts of a batch back in the order of the samples; narrower ones are filled up with -inf."""
    if isinstance(outputs[0], tuple):  # a pooling head, with the weights of its attention
        return tuple(_join(list(parts), rows) for parts in zip(*outputs, strict=True))
    if outputs[0] is None:
        return None
    width = max(output.shape[-1] for output in outputs)
    padded = [nn.functional.pad(output, (0, width - output.shape[-1]), value=-torch.inf) for output in outputs]
    order = torch.tensor(rows, device=padded[0].device).argsort()
    joined = torch.cat([output.to(padded[0].dtype) for output in padded])
    return joined.unflatten(0, (len(rows), -1))[order].flatten(0, 1)
