"""One adapter from several: their weighted sum, or all of them side by side."""

import math

import pytest
import torch
from helpers import raises_exactly
from models import clips, prompt_layers, prompted, tiny_videomae
from peft import PeftModel

from apt_peft import AttentionPromptConfig, ConfigError, TargetError
from apt_peft.tuner.interface import attention_prompt_forward


def pair(**second):
    """Adapters `default` and `b`, both with scales and no head."""
    model = prompted(modules_to_save=[])
    torch.manual_seed(4)
    settings = {"num_prompt_tokens": 5, "init_weights": False, "modules_to_save": [], "reparameterization": "softplus"}
    model.add_adapter("b", AttentionPromptConfig(**(settings | second)))
    return model.eval()


def written_out(adapter: str, layer) -> tuple[torch.Tensor, torch.Tensor]:
    """An adapter's keys and values, the scales by their formulas."""
    scale = layer.attention_prompt_scale[adapter].detach()
    factor = scale.clamp(min=1) if adapter == "default" else (1 + (scale + math.log(math.e - 1)).exp()).log()
    key, value = (getattr(layer, f"attention_prompt_{part}")[adapter].detach() for part in ("key", "value"))
    return key * factor[0][..., None], value * factor[1][..., None]


def test_linear_is_the_weighted_sum_of_scaled_prompts():
    model = pair()
    model.add_weighted_adapter(["default", "b"], [0.7, -1.5], "sum")
    for layer in prompt_layers(model):
        (key, value), (key_b, value_b) = written_out("default", layer), written_out("b", layer)
        assert torch.allclose(layer.attention_prompt_key["sum"], 0.7 * key - 1.5 * key_b, atol=1e-6)
        assert torch.allclose(layer.attention_prompt_value["sum"], 0.7 * value - 1.5 * value_b, atol=1e-6)
        assert "sum" not in layer.attention_prompt_scale
        assert "sum" not in layer.attention_prompt_bias
    config = model.peft_config["sum"]
    assert (config.reparameterization, config.score_bias, config.num_prompt_tokens) == ("none", False, 5)
    assert model.active_adapters == ["default"]
    assert not any(".sum" in name for name, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("attention", "masked"),  # transformers' eager attention adds its mask, so that it takes no boolean one
    [("eager", False), ("eager", "additive"), ("sdpa", False), ("sdpa", "additive"), ("sdpa", True)],
)
def test_cat_counts_each_prompt_as_often_as_its_weight(attention, masked):
    """Against the formula: sums of e^score over tokens, and over prompts times their weight."""
    model = pair(num_prompt_tokens=3)
    model.base_model.model.set_attn_implementation(attention)
    model.add_weighted_adapter(["default", "b"], [2.0, 0.25], "both", "cat")
    model.set_adapter("both")
    layer = prompt_layers(model)[1]
    query, key, value = torch.randn(3, 4, 2, 8, 16)  # 4 samples, 2 heads, 8 tokens
    there = torch.ones(4, 1, 8, 8, dtype=torch.bool)
    if masked:
        there[1, :, :, 5:] = False
    mask = None if not masked else there if masked is True else torch.zeros(there.shape).masked_fill(~there, -1e30)
    got = attention_prompt_forward(layer.base_layer, query, key, value, mask, scaling=0.25, dropout=0.0)[0]

    weights = torch.tensor([1.0] * 8 + [2.0] * 5 + [0.25] * 3)
    keys, values = (
        torch.cat((tokens, own.expand(4, 2, -1, -1), other.expand(4, 2, -1, -1)), dim=2)
        for tokens, own, other in zip((key, value), written_out("default", layer), written_out("b", layer), strict=True)
    )
    seen = torch.cat((there, torch.ones(4, 1, 8, 8, dtype=torch.bool)), dim=-1)
    powers = (query @ keys.mT * 0.25).exp() * weights * seen
    expected = (powers @ values) / powers.sum(-1, keepdim=True)
    assert torch.allclose(got, expected.transpose(1, 2), atol=1e-5)


def test_cat_with_weights_of_one_is_both_adapters_at_once():
    model = pair(num_prompt_tokens=3, share_prompts_across_heads=False, layers_to_transform=[0, 2])
    model.add_weighted_adapter(["default", "b"], [1.0, 1.0], "both", "cat")
    model.base_model.set_adapter(["default", "b"])
    expected = model(clips()).logits
    model.set_adapter("both")
    assert torch.allclose(model(clips()).logits, expected, atol=1e-6)
    config = model.peft_config["both"]
    assert not config.score_bias
    assert config.format_version == 2
    assert [layer.num_prompt_tokens("both") for layer in prompt_layers(model)] == [8, 5, 8]


def test_a_weight_of_two_is_the_adapter_twice():
    model = pair()
    model.add_weighted_adapter(["b"], [1.0], "again")
    model.base_model.set_adapter(["b", "again"])
    expected = model(clips()).logits
    model.add_weighted_adapter(["b"], [2.0], "twofold", "cat")
    model.set_adapter("twofold")
    assert torch.allclose(model(clips()).logits, expected, atol=1e-6)
    model.add_weighted_adapter(["twofold", "b"], [0.5, 0.5], "and on", "cat")  # of one that has a bias already
    model.set_adapter("and on")
    model.add_weighted_adapter(["b"], [1.5], "once and a half", "cat")
    shown = model(clips()).logits
    model.set_adapter("once and a half")
    assert torch.allclose(model(clips()).logits, shown, atol=1e-6)


@pytest.mark.parametrize(
    ("how", "second"), [("linear", {}), ("cat", {"num_prompt_tokens": 2, "layers_to_transform": [1]})], ids=str
)
def test_saved_and_loaded(tmp_path, how, second):
    model = pair(**second)
    model.add_weighted_adapter(["default", "b"], [0.6, 1.7], "new", how)
    model.set_adapter("new")
    expected = model(clips()).logits
    model.save_pretrained(tmp_path, selected_adapters=["new"])
    loaded = PeftModel.from_pretrained(tiny_videomae(), tmp_path / "new").eval()
    assert torch.allclose(loaded(clips()).logits, expected, atol=1e-6)  # a bias that trains takes another kernel


def test_the_head_comes_from_the_adapter_named():
    model = prompted()
    model.add_adapter("b", AttentionPromptConfig(num_prompt_tokens=5, id2label={i: f"b{i}" for i in range(4)}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save.b" in name:
                parameter.normal_()
    model.add_weighted_adapter(["default", "b"], [1.0, 1.0], "new", "cat", head_from="b")
    model.set_adapter("new")
    assert model(clips()).logits.shape == (2, 4)
    assert model.config.id2label == {i: f"b{i}" for i in range(4)}
    heads = model.base_model.model.classifier.modules_to_save
    assert torch.equal(heads["new"].weight, heads["b"].weight)
    assert heads["new"].weight.data_ptr() != heads["b"].weight.data_ptr()


def test_it_trains_on_with_its_bias():
    model = pair()
    model.add_weighted_adapter(["default", "b"], [2.0, 0.5], "new", "cat")
    model.set_adapter("new")
    model.train()
    loss = model(pixel_values=clips(), labels=torch.tensor([0, 2])).loss
    loss.backward()
    biases = [layer.attention_prompt_bias["new"] for layer in prompt_layers(model)]
    assert all(bias.grad is not None and bias.grad.abs().max() > 0 for bias in biases)


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_attention_without_a_place_for_the_bias(monkeypatch, attention):
    model = pair()
    model.add_weighted_adapter(["default", "b"], [2.0, 0.5], "new", "cat")
    model.set_adapter("new")
    for layer in prompt_layers(model):
        monkeypatch.setattr(layer.real_config, "_attn_implementation_internal", attention)
    with raises_exactly(
        TargetError,
        f"attn_implementation ({attention!r}) must add score_bias to the scores of the prompts, but flash and flex "
        'attention take none. Load the model with attn_implementation="sdpa" or "eager".',
    ):
        model(clips())


@pytest.mark.parametrize(
    ("arguments", "second", "message"),
    [
        (
            (["default", "c"], [1.0], "b", "svd"),
            {},
            "combination_type ('svd') must be \"linear\" or \"cat\". adapter_name ('b') must be new, but the model has "
            "['b', 'default']. adapters ['c'] must be adapters of the model, but it has ['b', 'default']. weights [1.0] must "
            "be a finite number for each of the 2 adapters.",
        ),
        (([], [], "n"), {}, "adapters [] must name at least one adapter, each once."),
        ((["b", "b"], [1, 2], "n"), {}, "adapters ['b', 'b'] must name at least one adapter, each once."),
        (
            (["b"], [float("nan")], "n"),
            {},
            "weights [nan] must be a finite number for each of the 1 adapters.",
        ),
        (
            (["default", "b"], [1.0, 0.0], "n", "cat"),
            {},
            'weights [1.0, 0.0] must be above 0 for "cat", where log(weight) joins the scores. Leave an adapter of weight 0 '
            'out; for negative weights take combination_type="linear".',
        ),
        (
            (["default", "b"], [1.0, 1.0], "n"),
            {"num_prompt_tokens": 2, "layers_to_transform": [0, 1]},
            "adapters ['default', 'b'] must have equally many prompts in each layer for \"linear\", but they have 5 and 2 in "
            'videomae.encoder.layer.*.attention.attention (3). Take combination_type="cat".',
        ),
        (
            (["default", "b"], [1.0, 1.0], "n"),
            {"modules_to_save": ["classifier"]},
            "head_from must name the adapter whose head the new one takes, but ['b'] bring heads of their own, which are not "
            "combined. Pass head_from='b'.",
        ),
        (
            (["default"], [1.0], "n", "linear", "default"),
            {},
            "head_from ('default') must be one of the adapters that bring a head, but these are [].",
        ),
        (
            (["default", "b"], [1.0, 1.0], "n"),
            {"init_weights": "data"},
            "adapters ['b'] must have their prompts, but they wait for data. Call "
            "apt_peft.initialize_prompts_from_data(model, dataloader).",
        ),
        (
            (["default", "b"], [1.0, 2.0], "n", "cat"),
            {"key_gate": 2},
            "adapters ['b'] must have no key_gate, which has no weighted sum. Activate them together: "
            "model.base_model.set_adapter(['default', 'b']).",
        ),
        (
            (["b"], [1.0], "n"),
            {"score_bias": True},
            "adapters ['b'] must have no score_bias for \"linear\", which has no sum for it. Take "
            'combination_type="cat".',
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_has_no_defined_result(arguments, second, message):
    model = pair(**second)
    before = set(dict(model.named_parameters()))
    *given, head_from = arguments if len(arguments) == 5 else (*arguments, None)
    with raises_exactly(ConfigError, message):
        model.add_weighted_adapter(*given, head_from=head_from)
    assert set(dict(model.named_parameters())) == before
    assert sorted(model.peft_config) == ["b", "default"]


@pytest.mark.parametrize("name", ["x.y", "keys", "0"])
def test_a_name_that_cannot_be_had_leaves_nothing(name):
    model = pair()
    with pytest.raises(ConfigError, match="adapter_name"):
        model.add_weighted_adapter(["b"], [1.0], name)
    assert sorted(model.peft_config) == ["b", "default"]


@pytest.mark.parametrize("weights", [torch.tensor([0.5, 2.0]), [torch.tensor(0.5), 2]])
def test_weights_of_torch(weights):
    model = pair()
    model.add_weighted_adapter(["default", "b"], weights, "by torch")
    model.add_weighted_adapter(["default", "b"], [0.5, 2.0], "plain")
    for layer in prompt_layers(model):
        assert torch.equal(layer.attention_prompt_key["by torch"], layer.attention_prompt_key["plain"])


def test_weights_that_are_none():
    for weights in (1.0, ["a"], [True]):
        with raises_exactly(ConfigError, f"weights ({weights!r}) must be a list with a number for each adapter."):
            pair().add_weighted_adapter(["b"], weights, "new")


def test_weights_that_overflow():
    model = pair()
    with raises_exactly(
        ConfigError,
        "weights [1e+39] must keep the sum of the prompts within torch.float32, but it overflows. Take smaller ones.",
    ):
        model.add_weighted_adapter(["b"], [1e39], "new")
    assert sorted(model.peft_config) == ["b", "default"]
