"""The published start of a classification head; done by `train` alone, `get_peft_model` never touches a head."""

import torch
from torch import nn

DEVIATION = 0.02
FACTOR = 0.001


@torch.no_grad()
def initialize_head(head: nn.Linear, *, seed: int = 0) -> None:
    """Draw a head's weight from a truncated normal (deviation 0.02, cut at -2 and 2), both tensors x 0.001; bias zero.

    Args:
        head: the last linear layer of a classifier, weight (labels, width); changed in place.
        seed: seed of the draw, which leaves torch's own random state as it was.

    Source: the published recipes' `init_scale` 0.001.
    """
    weight = torch.empty(head.weight.shape, dtype=torch.float32)
    nn.init.trunc_normal_(weight, std=DEVIATION, generator=torch.Generator().manual_seed(seed))
    head.weight.copy_(weight * FACTOR)
    if head.bias is not None:
        head.bias.zero_()
