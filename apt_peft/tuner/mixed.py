"""One forward pass in which each sample has its own adapter: its own prompts, and its own head.

PEFT sends the samples of a batch through `modules_to_save` for a few kinds of layers only, a LayerNorm not among them,
and joins heads of one width only. So the heads are routed here, in the same pass.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch.nn as nn
from torch import Tensor

from ..errors import ConfigError
from .heads import HeadWrapper, label_head_name, labels_of
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
        adapter_names: one name a sample, `"__base__"` for no prompts and the base's own head.
        args: positional inputs of the forward.
        kwargs: its other inputs.

    Raises:
        ConfigError: the names do not fit the batch or the model, or the pass is one of training.
    """
    _check(tuner, adapter_names, args, kwargs)
    chosen = SampleAdapters.of(adapter_names)
    with ExitStack() as stack:
        for module in tuner.modules():
            if isinstance(module, AttentionPromptLayer | HeadWrapper):
                module.sample_adapters = chosen
                stack.callback(setattr, module, "sample_adapters", None)
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
        config = tuner.prompt_adapters.get(name)
        if config is not None and config.id2label and label_head_name(tuner.model, config.modules_to_save or []):
            counts[name] = len(config.id2label)
    return [counts[name] for name in adapter_names]


def _check(
    tuner: "AttentionPromptModel", adapter_names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    texts = isinstance(adapter_names, Sequence) and all(isinstance(name, str) for name in adapter_names)
    if isinstance(adapter_names, str) or not texts:
        raise ConfigError(
            f"adapter_names ({adapter_names!r}) must be a list with the name of an adapter for each sample."
        )
    if tuner.training:
        raise ConfigError(
            "adapter_names must be left out while training, but the model is in training mode. Call model.eval(), or "
            "set_adapter(name) to train one adapter."
        )
    _check_names(tuner, adapter_names)
    gated = sorted({name for name in adapter_names if name != BASE and tuner.prompt_adapters[name].key_gate})
    if gated and len(set(adapter_names)) > 1:
        raise ConfigError(
            f"adapter_names {gated} must have no key_gate in a mixed batch, but a gate scores the tokens of all samples. Run "
            "their samples apart."
        )
    inputs = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    if inputs is not None and len(inputs) != len(adapter_names):
        raise ConfigError(
            f"adapter_names ({len(adapter_names)} names) must have a name for each sample, but the batch has {len(inputs)}."
        )
    if _argument(tuner.model, "labels", args, kwargs) is not None:
        raise ConfigError(
            "labels must be left out with adapter_names, but samples whose heads differ have no common loss. Compute it "
            "from the logits of each adapter's samples."
        )


def _argument(model: nn.Module, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An argument of a model's forward, by name or by place."""
    try:
        return inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments.get(name, kwargs.get(name))
    except TypeError:  # arguments that the model will refuse
        return kwargs.get(name)


def _check_names(tuner: "AttentionPromptModel", adapter_names: Sequence[str]) -> None:
    own = tuner.prompt_adapters
    unknown = sorted({name for name in adapter_names if name != BASE and name not in own})
    if unknown:
        raise ConfigError(
            f"adapter_names {unknown} must be adapters of attention prompts, but the model has {sorted(own)}. Load them "
            f'first; "{BASE}" stands for none.'
        )
