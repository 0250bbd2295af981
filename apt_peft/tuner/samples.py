"""Which adapter each sample of a batch uses, and modules run by it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BASE = "__base__"  # PEFT's name for no adapter


@dataclass(frozen=True)
class SampleAdapters:
    """The adapters of a batch, each named once, and the one that each sample uses."""

    names: tuple[str, ...]  # in the order of their first sample
    index: tuple[int, ...]  # (B,), into `names`
    tensors: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, adapter_names: Sequence[str]) -> "SampleAdapters":
        """From one name a sample."""
        names = tuple(dict.fromkeys(adapter_names))
        return cls(names, tuple(names.index(name) for name in adapter_names))

    def index_on(self, device: torch.device) -> Tensor:
        """The index as a tensor, (B,); copied to a device once."""
        if device not in self.tensors:
            self.tensors[device] = torch.tensor(self.index, device=device)
        return self.tensors[device]

    def rows(self, name: str) -> list[int]:
        """The samples that use an adapter."""
        return [row for row, used in enumerate(self.index) if self.names[used] == name]


def run_by_sample(
    chosen: SampleAdapters, module_of: Callable[[str], nn.Module], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Run each adapter's module on its samples.

    Args:
        chosen: the adapters of the batch.
        module_of: the module for an adapter's name.
        args: inputs; tensors whose first dimension is the batch, or several rows of each sample beside each other, are
            divided.
        kwargs: further inputs, likewise.

    Returns:
        The outputs in the order of the samples; where modules have outputs of different widths, narrower ones are filled
        up with -inf.
    """
    batch = len(chosen.index)

    def pick(value: Any, rows: list[int]) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] % batch:
            return value
        # several rows: TimeSformer's frames, where each is classified by itself
        return value.unflatten(0, (batch, -1))[rows].flatten(0, 1)

    rows: list[int] = []
    outputs = []
    for name in chosen.names:
        mine = chosen.rows(name)
        inputs = {key: pick(value, mine) for key, value in kwargs.items()}
        outputs.append(module_of(name)(*(pick(value, mine) for value in args), **inputs))
        rows += mine
    return outputs[0] if len(outputs) == 1 else _join(outputs, rows)


def _join(outputs: list[Any], rows: list[int]) -> Any:
    if isinstance(outputs[0], tuple):  # a pooling head, with the weights of its attention
        return tuple(_join(list(parts), rows) for parts in zip(*outputs, strict=True))
    if outputs[0] is None:
        return None
    width = max(output.shape[-1] for output in outputs)
    padded = [F.pad(output, (0, width - output.shape[-1]), value=-torch.inf) for output in outputs]
    order = torch.tensor(rows, device=padded[0].device).argsort()
    joined = torch.cat([output.to(padded[0].dtype) for output in padded])
    return joined.unflatten(0, (len(rows), -1))[order].flatten(0, 1)
