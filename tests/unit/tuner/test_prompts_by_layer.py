"""Prompts that differ by layer, biases on their scores, and scales folded into them."""

import math

import pytest
import torch
from helpers import raises_exactly
from models import clips, prompt_layers, prompted, tiny_videomae
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from apt_peft import AttentionPromptConfig, CheckpointError, ConfigError, TargetError


def test_prompts_by_layer(tmp_path):
    pattern = {r"layer\.0\.attention\.attention": 2, r"layer\.[01]\.attention\.attention": 7}
    model = prompted(num_prompt_tokens_pattern=pattern)
    assert [layer.num_prompt_tokens("default") for layer in prompt_layers(model)] == [2, 7, 5]
    assert [tuple(layer.attention_prompt_scale["default"].shape) for layer in prompt_layers(model)] == [
        (2, 2),
        (2, 7),
        (2, 5),
    ]
    expected = model(clips()).logits
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_videomae(), tmp_path).eval()
    assert torch.equal(loaded(clips()).logits, expected)
    assert loaded.peft_config["default"].num_prompt_tokens_pattern == pattern
    assert loaded.peft_config["default"].format_version == 2  # so that an older version refuses it


def test_a_name_matches_from_a_dot_on():
    config = AttentionPromptConfig(num_prompt_tokens_pattern={"attention": 3, "b.c": 4})
    assert [config.prompt_tokens_of(name) for name in ("x.attention", "attention", "self_attention", "a.b.c", "a.b.c.d")] == [
        3, 3, 100, 4, 100,
    ]  # fmt: skip


def test_a_pattern_that_matches_no_target():
    with raises_exactly(
        TargetError,
        "num_prompt_tokens_pattern ['layer.7.attention.attention'] must match the end of a targeted module's name, but the "
        "targets are ['videomae.encoder.layer.*.attention.attention (3)'].",
    ):
        prompted(num_prompt_tokens_pattern={"layer.7.attention.attention": 2, "layer.1.attention.attention": 3})


def test_bias_of_scores_is_zero_at_first_and_exact():
    model = prompted(score_bias=True)
    plain = prompted()
    logits = model(clips()).logits
    assert torch.allclose(logits, plain(clips()).logits, atol=1e-6)
    with torch.no_grad():
        for layer in prompt_layers(model):  # log 2 on each: as if each prompt were there twice
            layer.attention_prompt_bias["default"].fill_(math.log(2))
        for layer in prompt_layers(plain):
            for container in (layer.attention_prompt_key, layer.attention_prompt_value):
                container["default"] = torch.nn.Parameter(container["default"].repeat(2, 1))
            layer.attention_prompt_scale["default"] = torch.nn.Parameter(
                layer.attention_prompt_scale["default"].repeat(1, 2)
            )
    assert torch.allclose(model(clips()).logits, plain(clips()).logits, atol=1e-6)
    assert not torch.allclose(model(clips()).logits, logits, atol=1e-3)


@pytest.mark.parametrize("kind", ["max", "softplus", "none"])
@pytest.mark.parametrize("shared", [True, False])
def test_folding_keeps_the_outputs(tmp_path, kind, shared):
    model = prompted(reparameterization=kind, share_prompts_across_heads=shared).double()
    model.save_pretrained(tmp_path / "before")
    expected = model(clips().double()).logits
    keys = [layer.attention_prompt_key["default"] for layer in prompt_layers(model)]
    model.fold_reparameterization()
    assert torch.allclose(model(clips().double()).logits, expected, atol=1e-6)
    assert [layer.attention_prompt_key["default"] for layer in prompt_layers(model)] == keys  # the optimizer's own
    model.save_pretrained(tmp_path / "after")
    names = set(load_file(tmp_path / "after" / "adapter_model.safetensors"))
    assert not any("scale" in name for name in names)
    sizes = [(tmp_path / name / "adapter_model.safetensors").stat().st_size for name in ("before", "after")]
    assert sizes[1] < sizes[0] or kind == "none"
    loaded = PeftModel.from_pretrained(tiny_videomae().double(), tmp_path / "after").eval()
    assert torch.allclose(loaded(clips().double()).logits, expected, atol=1e-6)
    assert loaded.peft_config["default"].format_version == 1


def test_a_folded_adapter_trains_on():
    model = prompted(prompt_dropout=0.5)
    model.fold_reparameterization("default")
    model.train()
    model(pixel_values=clips(), labels=torch.tensor([0, 2])).loss.backward()
    assert all(layer.attention_prompt_key["default"].grad is not None for layer in prompt_layers(model))


def test_only_the_adapters_named_are_folded():
    model = prompted()
    model.add_adapter("b", AttentionPromptConfig(num_prompt_tokens=2))
    model.fold_reparameterization(["b"])
    assert [model.peft_config[name].reparameterization for name in ("default", "b")] == ["max", "none"]
    assert all(set(layer.attention_prompt_scale) == {"default"} for layer in prompt_layers(model))


def test_an_adapter_with_scales_is_not_loaded_over_a_folded_one(tmp_path):
    model = prompted()
    model.save_pretrained(tmp_path)
    model.fold_reparameterization()
    with raises_exactly(
        CheckpointError,
        "adapter 'default' must be loaded into one of its own kind, but the one of that name in the model has no "
        "attention_prompt_scale: it was folded, or made with other settings. Load it under another name, or delete_adapter "
        "first.",
    ):
        model.load_adapter(tmp_path, "default")


def test_folding_what_is_not_there():
    model = prompted()
    model.add_adapter("b", AttentionPromptConfig(num_prompt_tokens=2, init_weights="data"))
    with raises_exactly(
        ConfigError, "adapter_names ['c'] must be adapters with attention prompts, but the model has ['default', 'b']."
    ):
        model.fold_reparameterization(["default", "c"])
    with raises_exactly(
        ConfigError,
        "adapter_names ['b'] must have their prompts, but they wait for data. "
        "Call apt_peft.initialize_prompts_from_data(model, dataloader) first.",
    ):
        model.fold_reparameterization()
    assert model.peft_config["default"].reparameterization == "max"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_prompt_tokens_pattern": [3]},
            "num_prompt_tokens_pattern ([3]) must be a dict of regular expressions and numbers of prompts.",
        ),
        (
            {"num_prompt_tokens_pattern": {"a": 0, "(": 3, "b": 2, "(x*)*y": 4}},
            "num_prompt_tokens_pattern ({'a': 0}) must give each expression a whole number from 1 to 65,536. For layers "
            "without prompts, pass layers_to_transform. num_prompt_tokens_pattern ('(') must be a valid regular expression "
            "when it is a string. Pass a list to give names. num_prompt_tokens_pattern ('(x*)*y') must be a regular "
            "expression that is quick to try, but repeats in repeats, or too many of them, could try a name in millions of "
            "ways. Write it with fewer, or pass a list of names.",
        ),
        ({"score_bias": 1}, "score_bias (1) must be True or False."),
    ],
)
def test_wrong_values(settings, message):
    with raises_exactly(ConfigError, message):
        AttentionPromptConfig(**settings)


def test_an_adapter_without_additions_keeps_the_first_format():
    assert AttentionPromptConfig().format_version == 1
    assert AttentionPromptConfig(num_prompt_tokens_pattern=None).num_prompt_tokens_pattern == {}
    model = get_peft_model(tiny_videomae(), AttentionPromptConfig(num_prompt_tokens=2))
    assert model.peft_config["default"].format_version == 1
