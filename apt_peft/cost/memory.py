"""Bytes that a forward keeps for its backward, counted exactly and by module, without computing anything.

The forward runs on tensors that have shapes and no numbers (torch's `FakeTensorMode`), so a ViT-B costs a second. What is
counted is what autograd saves, each storage once, without the model's own parameters and buffers.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from apt_peft.cost.arithmetic import Shapes
from apt_peft.cost.contenders import Contender, build, example

OUTSIDE = "model"


@dataclass(frozen=True)
class Saved:
    """What a forward keeps.

    Args:
        total: bytes, each storage once.
        by_module: bytes by the module that first asked to keep them; layer numbers stand as `*`.
        by_layer: bytes by the number of the layer; those outside all layers are left out.
        largest: the largest storages: bytes, shape of the tensor, module.
    """

    total: int
    by_module: dict[str, int]
    by_layer: dict[int, int] = field(default_factory=dict)
    largest: tuple[tuple[int, tuple[int, ...], str], ...] = ()


def saved_bytes(
    contender: Contender,
    shapes: Shapes,
    *,
    batch: int = 1,
    implementation: str = "sdpa",
    dtype: str = "float32",
) -> Saved:
    """What a training step's forward keeps for the backward, from shapes alone.

    Args:
        contender: the method.
        shapes: of the backbone.
        batch: clips.
        implementation: of the attention.
        dtype: of weights and clips.

    Returns:
        The bytes, those of PyTorch's CPU kernels.

    Raises:
        ConfigError: a method, a size or layers that cannot be.
    """
    model = build(contender, shapes, implementation=implementation, dtype=dtype)
    return saved_by(model, example(shapes, batch=batch, dtype=dtype), without_numbers=True)


def saved_by(model: nn.Module, inputs: dict[str, Tensor], *, without_numbers: bool = False) -> Saved:
    """What a model's forward keeps for its backward.

    Args:
        model: in the mode that it is to be counted in.
        inputs: arguments of its forward.
        without_numbers: compute shapes alone.

    Returns:
        The bytes.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True) if without_numbers else None
    own = [*model.parameters(), *model.buffers()]
    if mode is not None:
        own += [mode.from_tensor(tensor) for tensor in own]
        inputs = {name: mode.from_tensor(tensor) for name, tensor in inputs.items()}
    ours = {_storage(tensor) for tensor in own}
    seen: dict[int, tuple[int, tuple[int, ...], str]] = {}
    place = [OUTSIDE]

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in ours:
            seen.setdefault(storage._cdata, (storage.nbytes(), tuple(tensor.shape), place[-1]))
        return tensor

    with mode or nullcontext(), _following(model, place):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output: Any = model(**inputs)
        del output  # until here all that is kept is alive, so that no storage's address is another's
    by_module: Counter[str] = Counter()
    by_layer: Counter[int] = Counter()
    for size, _, name in seen.values():
        by_module[re.sub(r"\.\d+(?=\.|$)", ".*", name)] += size
        if number := re.search(r"\.layer\.(\d+)(?:\.|$)", name):
            by_layer[int(number[1])] += size
    return Saved(
        sum(by_module.values()),
        dict(by_module.most_common()),
        dict(sorted(by_layer.items())),
        tuple(sorted(seen.values(), reverse=True)[:10]),
    )


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def _following(model: nn.Module, place: list[str]) -> Iterator[None]:
    """Keep the name of the module whose forward runs at the end of `place`."""
    handles = []
    for name, module in model.named_modules():

        def enter(module: nn.Module, arguments: Any, name: str = name) -> None:
            place.append(name)

        def leave(module: nn.Module, arguments: Any, output: Any) -> None:
            place.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
