"""Random erasing by torchvision, whose draws are made to come from a generator."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ..errors import require

# torch's own random state, which torchvision draws from, is lent to one thread at a time.
_LENT = Lock()


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Make what draws from torch's own random state draw from a generator; the state is as before afterwards.

    Args:
        generator: on the CPU; goes on where the last draw left it.
    """
    with _LENT:
        before = torch.get_rng_state()
        torch.set_rng_state(generator.get_state())
        try:
            yield
        finally:
            generator.set_state(torch.get_rng_state())
            torch.set_rng_state(before)


def erase(clip: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Perhaps set a random box to 0, the same in all frames.

    Args:
        clip: (T, C, height, width), normalised: 0 is the mean colour.
        probability: of doing so.
        generator: draws.

    Returns:
        The clip, a new tensor where a box was erased: 2 to 33 % of the picture, height / width 0.3 to 3.3.

    Source: Zhong et al. 2020, with torchvision's defaults.
    """
    v2: Any = require("torchvision.transforms.v2", "video")
    with drawing_from(generator):
        return v2.RandomErasing(p=probability)(clip)
