"""The gate on keys. Every architecture's forward and backward against plain operations: test_architectures.py."""

import pytest
import torch
from helpers import raises_exactly
from models import clips, prompt_layers, prompted
from test_mixed import attend, by_torch

from apt_peft import AttentionPromptConfig, ConfigError
from apt_peft.tuner.gate import Gate, gate_scores, widen


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_scores_are_the_formula():
    keys, directions, weights = randn(2, 3, 5, 8), randn(4, 8, seed=1), randn(4, seed=2)
    want = torch.zeros(2, 3, 5, dtype=torch.float64)
    for b, h, n in torch.cartesian_prod(*map(torch.arange, want.shape)).tolist():
        for direction, weight in zip(directions, weights, strict=True):
            product = torch.dot(keys[b, h, n], direction) / 4
            want[b, h, n] += weight * product * 0.5 * (1 + torch.erf(product / 2**0.5))
    gate = Gate(directions, weights)
    assert torch.allclose(gate_scores(keys, [gate]), want, atol=1e-12)
    assert torch.allclose(gate_scores(keys, [gate, gate]), 2 * want, atol=1e-12)


@pytest.mark.parametrize(("multiple", "width"), [(1, 17), (8, 24)])
def test_one_more_dimension_adds_the_scores(multiple, width):
    query, key, value = randn(2, 3, 6, 16), randn(2, 3, 9, 16, seed=1), randn(2, 3, 9, 16, seed=2)
    scores = randn(2, 3, 9, seed=3)
    want = (query @ key.transpose(-1, -2) * 0.3 + scores[:, :, None]).softmax(-1) @ value
    q, k, v = widen(query, key, value, scores, 0.3, multiple=multiple)
    assert q.shape[-1] == k.shape[-1] == v.shape[-1] == width
    got = (q @ k.transpose(-1, -2) * 0.3).softmax(-1) @ v
    assert torch.allclose(got[..., :16], want, atol=1e-12)


def test_a_new_gate_changes_nothing_and_learns():
    with_gate = prompted(init_weights=True, key_gate=4)
    layers = prompt_layers(with_gate)
    assert all(layer.attention_prompt_gate["default"].shape == (4, 16) for layer in layers)
    assert all(not layer.attention_prompt_gate_weight["default"].any() for layer in layers)
    without = prompted(init_weights=True)
    for ours, theirs in zip(layers, prompt_layers(without), strict=True):
        for kind in ("attention_prompt_key", "attention_prompt_value"):
            getattr(theirs, kind)["default"].data = getattr(ours, kind)["default"].data
    assert torch.allclose(with_gate(clips()).logits, without(clips()).logits, atol=1e-6)
    with_gate.train()(pixel_values=clips(), labels=torch.tensor([0, 2])).loss.backward()
    gradients = [layer.attention_prompt_gate_weight["default"].grad for layer in layers]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


def test_a_gate_can_hide_a_token():
    """What appended keys cannot do: the tokens that a direction picks lose their weight for every query."""
    layer = prompt_layers(prompted(key_gate=1))[0]
    query, key, value = (randn(1, 2, 6, 16, seed=seed).float() for seed in range(3))
    direction = torch.zeros(1, 16)
    direction[0, 0] = 4.0
    key[..., 0] = torch.tensor([0.0, 0, 50, 0, 0, 50])
    layer.attention_prompt_gate["default"].data = direction
    layer.attention_prompt_gate_weight["default"].data = torch.tensor([-10.0])
    changed = value.clone()
    changed[:, :, [2, 5]] += 100
    assert torch.allclose(attend(layer, [query, key, value]), attend(layer, [query, key, changed]), atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_flash_attention_has_the_gate_of_sdpa(monkeypatch, padded):
    layer = prompt_layers(prompted(key_gate=3))[0]
    states = [randn(3, 2, 6, 16, seed=seed).float() for seed in range(3)]
    there = torch.ones(3, 6, dtype=torch.int64)
    if padded:
        there[0, 4:], there[2, 1:] = 0, 0
    mask = there.bool()[:, None, None].expand(3, 1, 6, 6) if padded else None
    expected = attend(layer, states, mask)
    by_torch(monkeypatch, layer)
    got = attend(layer, states, there if padded else None)
    assert torch.allclose(got[there.bool()], expected[there.bool()], atol=1e-6)


def test_gates_of_active_adapters_add_up():
    model = prompted(key_gate=3, modules_to_save=[])
    model.add_adapter(
        "b", AttentionPromptConfig(num_prompt_tokens=2, init_weights=False, key_gate=2, modules_to_save=[])
    )
    model.base_model.set_adapter(["default", "b"])
    layer = prompt_layers(model)[0]
    keys = randn(1, 2, 6, 16).float()
    gates = layer.active_prompts().gates
    assert [gate.directions.shape[0] for gate in gates] == [3, 2]
    assert torch.allclose(gate_scores(keys, gates), sum(gate_scores(keys, [gate]) for gate in gates), atol=1e-6)
    with torch.no_grad():
        both = model(clips()).logits
        model.base_model.set_adapter("default")
        assert not torch.allclose(both, model(clips()).logits, atol=1e-4)


def test_half_precision():
    model = prompted(key_gate=3)
    with torch.no_grad():
        want = model(clips()).logits
        got = model.to(torch.bfloat16)(clips().to(torch.bfloat16)).logits
    assert torch.allclose(got.float(), want, atol=0.05)


def test_a_mixed_batch_is_refused():
    model = prompted(key_gate=3)
    model.add_adapter("b", AttentionPromptConfig(num_prompt_tokens=2))
    model.eval()
    with raises_exactly(
        ConfigError,
        "adapter_names ['default'] must have no key_gate in a mixed batch, but a gate scores the tokens of all samples. Run "
        "their samples apart.",
    ):
        model(clips(), adapter_names=["default", "b"])
    with torch.no_grad():
        assert torch.equal(model(clips(), adapter_names=["default", "default"]).logits, model(clips()).logits)
