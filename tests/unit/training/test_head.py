"""The start of a head."""

import pytest
import torch

from apt_peft.training.head import initialize_head


def test_the_weight_is_a_small_truncated_normal_and_the_bias_zero():
    head = torch.nn.Linear(400, 300)
    state = torch.random.get_rng_state()
    initialize_head(head, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert head.weight.std().item() == pytest.approx(0.02 * 0.001, rel=0.02)
    assert head.weight.mean().item() == pytest.approx(0, abs=1e-6)
    assert not head.bias.any()


def test_the_seed_decides_and_a_bias_may_be_missing():
    heads = [torch.nn.Linear(8, 4, bias=False) for _ in range(3)]
    for head, seed in zip(heads, (0, 0, 1), strict=True):
        initialize_head(head, seed=seed)
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
