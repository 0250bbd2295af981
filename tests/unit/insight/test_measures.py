"""Attention on prompts and the like, against attention and singular values written out."""

import copy
import pickle
import random

import numpy
import pytest
import torch
import written_out
from architectures import ARCHITECTURES, AVAILABLE, build, inputs_for
from helpers import raises_exactly
from models import clips, prompt_layers, prompted
from peft import get_peft_model
from written_out import SavedPrompts, write_out

from apt_peft import AttentionPromptConfig, ConfigError
from apt_peft.insight import effective_rank, gradient_norms, prompt_attention, prompt_states

BATCHES = [{"pixel_values": clips(3, seed=2), "labels": torch.tensor([0, 1, 2])}, {"pixel_values": clips(1, seed=5)}]
CELLS = [(name, implementation) for name in AVAILABLE for implementation in ARCHITECTURES[name].implementations]


def written_out_weights(name, implementation, folder, inputs, monkeypatch):
    """By module: the softmax weights of a real model whose attention is written out in plain operations."""
    seen: dict[int, list[torch.Tensor]] = {}
    plain = written_out.softmax_over_tokens_and_prompts

    def watched(module, *args, **kwargs):
        result = plain(module, *args, **kwargs)
        seen.setdefault(id(module), []).append(result[1])
        return result

    monkeypatch.setattr(written_out, "softmax_over_tokens_and_prompts", watched)
    saved = SavedPrompts(folder)
    model = write_out(build(name, implementation, dtype=torch.float64), saved.prompts(), saved.gates())
    for each in inputs:
        with torch.no_grad():
            model(**each)
    return {key: seen[id(model.get_submodule(key))] for key in saved.modules}


@pytest.mark.parametrize(
    "settings", [{}, {"share_prompts_across_heads": False, "score_bias": True, "key_gate": 4}], ids=["plain", "all"]
)
@pytest.mark.parametrize(("name", "implementation"), CELLS)
def test_attention_is_that_of_attention_written_out(name, implementation, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("apt_peft.tuner.probe.CHUNK", 40)  # some queries at a time
    torch.manual_seed(3)
    settings = {"num_prompt_tokens": 3, "prompt_dropout": 0.0, "init_weights": False} | settings
    base = build(name, implementation, dtype=torch.float64)
    model = get_peft_model(base, AttentionPromptConfig(**settings)).eval()
    with torch.no_grad():
        for layer in prompt_layers(model):
            for bias in layer.attention_prompt_bias.values():
                bias.normal_()
    model.save_pretrained(tmp_path)
    inputs = [inputs_for(name, batch, dtype=torch.float64) for batch in (3, 1)]
    want = written_out_weights(name, implementation, tmp_path, inputs, monkeypatch)
    got = prompt_attention(model, inputs)
    assert list(got) == list(want)
    for key, weights in want.items():
        rows = torch.cat([part.transpose(1, 2).flatten(0, 1) for part in weights])  # (clips and queries, heads, keys)
        tolerance = 1e-6  # some architectures take their softmax in float32
        torch.testing.assert_close(got[key].by_head, rows[..., -3:].mean(0), rtol=tolerance, atol=tolerance)
        assert got[key].uniform == pytest.approx(1 / rows.shape[-1])
        assert got[key].uniform_mass == pytest.approx(3 / rows.shape[-1])
        assert got[key].mass == pytest.approx(float(rows[..., -3:].sum(-1).mean()), rel=1e-6)


def test_mass_and_dead_prompts_of_keys_made_for_it():
    model = prompted(num_prompt_tokens=4, reparameterization="none")
    with torch.no_grad():
        for layer in prompt_layers(model):
            layer.attention_prompt_key["default"].zero_()
        for parameter in prompt_layers(model)[1].base_layer.query.parameters():
            parameter.zero_()
    found = list(prompt_attention(model, BATCHES).values())[1]
    assert found.mass == pytest.approx(4 / 12) == found.uniform_mass  # queries of zero look everywhere alike
    torch.testing.assert_close(found.by_prompt, torch.full((4,), 1 / 12, dtype=torch.float64))
    assert not found.dead().any()
    assert found.dead(1.01).all()

    biased = prompted(num_prompt_tokens=4, score_bias=True)
    with torch.no_grad():
        for layer in prompt_layers(biased):
            layer.attention_prompt_bias["default"].copy_(torch.tensor([0.0, -50, 0, -50]))
    for each in prompt_attention(biased, BATCHES).values():
        assert each.dead().tolist() == [False, True, False, True]


def test_a_prompt_that_one_head_looks_at_is_not_dead():
    from apt_peft.insight import PromptAttention

    by_head = torch.tensor([[0.5, 0.001, 0.001], [0.5, 0.3, 0.001]])
    assert PromptAttention(by_head, 0.1, 1.0, 1.0).dead().tolist() == [False, False, True]


def test_rms_of_the_backbone_is_that_of_its_projections():
    model = prompted()
    attention = prompt_layers(model)[0].base_layer
    seen = {"key": [], "value": []}
    hooks = [
        getattr(attention, name).register_forward_hook(lambda m, i, out, name=name: seen[name].append(out))
        for name in seen
    ]
    found = next(iter(prompt_attention(model, BATCHES).values()))
    for hook in hooks:
        hook.remove()
    for name, parts in seen.items():
        want = torch.cat([part.flatten() for part in parts]).double().square().mean().sqrt()
        assert getattr(found, f"{name}_rms") == pytest.approx(float(want), rel=1e-5)


def test_batches_do_not_matter():
    model = prompted()
    whole = prompt_attention(model, [clips(6)])
    parts = prompt_attention(model, list(clips(6).split(4)))
    for key, each in whole.items():
        torch.testing.assert_close(parts[key].by_head, each.by_head, rtol=1e-5, atol=1e-8)


def test_half_precision():
    model = prompted()
    want = prompt_attention(model, [clips(4)])
    got = prompt_attention(model.to(torch.bfloat16), [clips(4).to(torch.bfloat16)])
    for key, each in want.items():
        torch.testing.assert_close(got[key].by_head, each.by_head, rtol=0.1, atol=0.01)


def test_the_model_is_as_it_was():
    model = prompted(prompt_dropout=0.5).train()
    model.base_model.model.videomae.encoder.layer[1].eval()
    modes = [module.training for module in model.modules()]
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5), random.seed(5), numpy.random.seed(5)
    want = torch.rand(()), random.random(), numpy.random.rand()
    torch.manual_seed(5), random.seed(5), numpy.random.seed(5)
    shuffled = torch.utils.data.DataLoader([{"pixel_values": clip} for clip in clips(4)], batch_size=2, shuffle=True)
    prompt_attention(model, shuffled)
    assert (torch.rand(()), random.random(), numpy.random.rand()) == want
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert all(layer.probe is None for layer in prompt_layers(model))
    with pytest.raises(AttributeError):
        prompt_attention(model, [{"pixel_values": clips(2)}, {"pixel_values": object(), "more": clips(1)}])
    assert all(layer.probe is None for layer in prompt_layers(model))
    assert [module.training for module in model.modules()] == modes
    pickle.loads(pickle.dumps(copy.deepcopy(model)))


def test_effective_rank():
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(7, 3)) == pytest.approx(1, abs=1e-5)
    assert effective_rank(torch.zeros(4, 2)) == 0
    states = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.eigvalsh(states.T @ states).sqrt()  # another road to the singular values
    shares = values / values.sum()
    assert effective_rank(states) == pytest.approx(float((-(shares * shares.log()).sum()).exp()))
    assert effective_rank(states) == pytest.approx(effective_rank(3 * states))
    both = torch.stack([states, torch.eye(6, 4, dtype=torch.float64)])
    assert effective_rank(both) == pytest.approx((effective_rank(states) + 4) / 2)


@pytest.mark.parametrize("kind", ["max", "softplus", "none"])
def test_states_are_those_after_the_scales(kind):
    model = prompted(reparameterization=kind)
    found = prompt_states(model)
    for layer, each in zip(prompt_layers(model), found.values(), strict=True):
        scale = layer.attention_prompt_scale["default"] if kind != "none" else torch.ones(2, 5)
        factor = torch.nn.functional.softplus(scale + 0.541324854612918) if kind == "softplus" else scale.clamp(min=1)
        keys, values = (
            (prompt["default"] * part[:, None]).detach()
            for prompt, part in zip((layer.attention_prompt_key, layer.attention_prompt_value), factor, strict=True)
        )
        assert each == pytest.approx(
            {
                "prompts": 5,
                "key_rms": float(keys.pow(2).mean().sqrt()),
                "value_rms": float(values.pow(2).mean().sqrt()),
                "key_rank": effective_rank(keys),
                "value_rank": effective_rank(values),
            },
            rel=1e-5,
        )


def test_gradient_norms():
    model = prompted(key_gate=2, score_bias=True)
    assert all(not each for each in gradient_norms(model).values())
    model(pixel_values=clips(), labels=torch.tensor([0, 2])).loss.backward()
    found = gradient_norms(model)
    for layer, each in zip(prompt_layers(model), found.values(), strict=True):
        assert set(each) == {"key", "value", "scale", "bias", "gate", "gate_weight"}
        for kind, norm in each.items():
            gradient = getattr(layer, f"attention_prompt_{kind}")["default"].grad
            assert norm == pytest.approx(float(gradient.pow(2).sum().sqrt()), rel=1e-5)


def test_layers_without_prompts_are_left_out():
    model = prompted(layers_to_transform=[1])
    assert list(prompt_attention(model, BATCHES)) == ["videomae.encoder.layer.1.attention.attention"]


def test_what_cannot_be_looked_at():
    model = prompted()
    model.add_adapter("b", AttentionPromptConfig(num_prompt_tokens=2, modules_to_save=[]))
    model.add_adapter("c", AttentionPromptConfig(num_prompt_tokens=2, init_weights="data", modules_to_save=[]))
    with raises_exactly(
        ConfigError,
        "adapter_name ('d') must be an adapter with attention prompts, but the model has none of that name.",
    ):
        prompt_attention(model, BATCHES, adapter_name="d")
    with raises_exactly(
        ConfigError,
        "adapter_name ('b') must be the only active adapter for looking at its prompts, but the active ones are ['default']. "
        "Call model.set_adapter('b').",
    ):
        prompt_attention(model, BATCHES, adapter_name="b")
    model.base_model.set_adapter(["default", "b"])
    with raises_exactly(
        ConfigError,
        "adapter_name ('default') must be the only active adapter for looking at its prompts, but the active ones are "
        "['default', 'b']. Call model.set_adapter('default').",
    ):
        prompt_states(model)
    model.set_adapter("c")
    with raises_exactly(
        ConfigError,
        "adapter_name ('c') must have its prompts for looking at its prompts, but it waits for data. "
        "Call apt_peft.initialize_prompts_from_data(model, dataloader).",
    ):
        prompt_attention(model, BATCHES)
    model.set_adapter("default")
    with raises_exactly(
        ConfigError, "dataloader must yield a batch, but it is empty. Pass one with at least one clip."
    ):
        prompt_attention(model, [])
    with raises_exactly(
        ConfigError,
        "dataloader must yield mappings with pixel_values, or tensors, but a batch is a tuple. "
        'Yield {"pixel_values": ...}.',
    ):
        prompt_attention(model, [(clips(), 3)])
    bad = clips()
    bad[0, 0, 0, 0, 0] = torch.nan
    with raises_exactly(
        ConfigError,
        "dataloader must yield clips on which attention is finite, but in videomae.encoder.layer.0.attention.attention it is "
        "not. Check its pixel_values, and the weights of backbone and adapter.",
    ):
        prompt_attention(model, [bad])
    with model.disable_adapter(), pytest.raises(ConfigError, match="the active ones are \\[\\]"):
        prompt_attention(model, BATCHES, adapter_name="default")
