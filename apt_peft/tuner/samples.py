"""Which adapter each sample of a batch uses."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

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
