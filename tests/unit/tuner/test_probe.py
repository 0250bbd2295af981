"""What a probe sees under flash attention. Every architecture: tests/unit/insight/test_measures.py."""

import pytest
import torch
from models import prompt_layers, prompted
from test_mixed import attend, by_torch

from apt_peft.insight.measures import _Sums


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_attention_under_flash(padded, monkeypatch):
    """Prompts stand before the tokens there, if there is a mask."""
    layer = prompt_layers(prompted(key_gate=3))[0]
    states = [torch.randn(3, 2, 6, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    there = torch.ones(3, 6, dtype=torch.int64)
    if padded:
        there[0, 4:], there[2, 1:] = 0, 0
    expected, got = _Sums(), _Sums()
    layer.probe = expected
    attend(layer, states, there.bool()[:, None, None].expand(3, 1, 6, 6) if padded else None)
    by_torch(monkeypatch, layer)
    layer.probe = got
    attend(layer, states, there if padded else None)
    torch.testing.assert_close(got.result().by_head, expected.result().by_head)
    assert got.result().key_rms == pytest.approx(expected.result().key_rms)
