"""The table of architectures: heads, names, and the parts of a model that stay without prompts."""

import copy

import pytest
import torch
import transformers
from architectures import AVAILABLE, PRISM, SMALL, TOWERS, build
from peft import get_peft_model

from apt_peft import AttentionPromptConfig
from apt_peft.tuner.families import DEFAULT_PATTERNS, fold_names, heads_of, patch_elements
from apt_peft.tuner.interface import eager_attention
from apt_peft.tuner.seams import ignores_masks, softmax_attention

videoprism = pytest.mark.skipif("videoprism" not in AVAILABLE, reason="the installed transformers has no VideoPrism")


def test_both_heads_of_a_distilled_deit_are_trained():
    model = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**SMALL))
    config = get_peft_model(model, AttentionPromptConfig()).peft_config["default"]
    assert config.modules_to_save == ["cls_classifier", "distillation_classifier"]


@videoprism
def test_a_pooler_without_a_classifier_is_no_head():
    config = transformers.VideoPrismVisionConfig(**PRISM)
    model = transformers.VideoPrismVideoModel(config)
    assert [name for name, _ in model.named_children()] == [
        "vision_model",
        "auxiliary_layers",
        "head",
        "head_layernorm",
    ]
    assert heads_of(model) == []
    assert heads_of(transformers.VideoPrismForVideoClassification(config)) == ["head", "head_layernorm", "classifier"]


def test_the_text_half_of_clip_stays_without_prompts():
    model = transformers.CLIPModel(transformers.CLIPConfig(**TOWERS))
    names = get_peft_model(model, AttentionPromptConfig(num_prompt_tokens=2)).targeted_module_names
    assert names == [f"vision_model.encoder.layers.{layer}.self_attn" for layer in range(2)]


@videoprism
@pytest.mark.parametrize(
    ("layers", "targets"),
    [
        ([0], ["spatial_layers.0.attention", "temporal_layers.0.attention"]),
        ([1], ["spatial_layers.1.attention"]),
    ],
    ids=str,
)
def test_layers_of_videoprism_count_in_each_encoder(layers, targets):
    config = AttentionPromptConfig(num_prompt_tokens=2, layers_to_transform=layers)
    model = get_peft_model(build("videoprism_vision_model"), config)
    assert model.targeted_module_names == [f"vision_model.{name}" for name in targets]


@videoprism
def test_one_encoder_of_videoprism_can_be_chosen():
    chosen = AttentionPromptConfig(target_modules=r".*temporal_layers\.\d+\.attention")
    model = get_peft_model(build("videoprism_vision_model"), chosen)
    assert model.targeted_module_names == ["vision_model.temporal_layers.0.attention"]


@pytest.mark.parametrize(
    ("settings", "elements"),
    [
        ({"patch_size": 16, "num_channels": 3}, 768),
        ({"patch_size": (8, 4), "num_channels": 1}, 32),
        ({"tubelet_size": [2, 16, 8], "num_channels": 3}, 384),
        ({"patch_size": 16, "tubelet_size": 2, "in_chans": 4}, 1024),
        ({}, 768),
    ],
    ids=str,
)
def test_elements_of_a_patch(settings, elements):
    assert patch_elements(transformers.PretrainedConfig(**settings)) == elements


def test_names_are_folded():
    assert fold_names(["a.0.b", "a.1.b", "c", "0.x", "d2.1"]) == ["a.*.b (2)", "c", "*.x (1)", "d2.* (1)"]


def test_expressions_in_saved_adapters_stay_known():
    """An adapter's config holds the expression of its version. Add to this list, never change it."""
    anywhere = r"(?:.*\.)?"
    assert {
        anywhere + r"encoder\.layer\.(?P<layer>\d+)\.attention\.attention",
        anywhere + r"layers\.(?P<layer>\d+)\.attention",
        anywhere + r"encoder\.layer\.(?P<layer>\d+)\.attention",
        anywhere + r"layer\.(?P<layer>\d+)\.attention",
        r"(?:(?:.*\.)?vision_model\.)?encoder\.layers\.(?P<layer>\d+)\.self_attn",
        anywhere + r"encoder\.layer\.(?P<layer>\d+)\.(?:temporal_)?attention\.attention",
        anywhere + r"(?:spatial|temporal)_layers\.(?P<layer>\d+)\.attention",
    } <= DEFAULT_PATTERNS


def test_eager_attention_that_ignores_masks_is_found():
    """V-JEPA 2's takes a mask and drops it: prompts that a sample lacks, and biases, need another function."""
    found = {
        name: ignores_masks(eager_attention(model.get_submodule(model_targets(model)[0])))
        for name in AVAILABLE
        for model in [build(name)]
    }
    assert [name for name, ignores in found.items() if ignores] == ["vjepa2"]
    assert not ignores_masks(softmax_attention)
    assert not ignores_masks(torch.nn.functional.softmax)  # takes none


def model_targets(model) -> list[str]:
    return get_peft_model(copy.deepcopy(model), AttentionPromptConfig(num_prompt_tokens=1)).targeted_module_names
