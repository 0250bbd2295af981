"""Norms that are trained beside the prompts (`train_norms`), on every architecture."""

import re

import pytest
import torch
from architectures import ARCHITECTURES, AVAILABLE, build, output
from helpers import raises_exactly
from models import clips, prompted, tiny_videomae
from peft import PeftModel, get_peft_model

from apt_peft import AttentionPromptConfig, ConfigError, TargetError, prompt_parameter_groups
from apt_peft.tuner.families import norms_of

# The norms of numbered layers, by the names that transformers gives them; those of text halves and predictors are no targets.
IN_LAYERS = re.compile(r"(?:layer|layers|spatial_layers|temporal_layers)\.\d+\.[a-z_]*norm[a-z_0-9]*\.(?:weight|bias)")
ELSEWHERE = ("predictor.", "text_model.", "text_encoder.", "auxiliary", "pooler.")


def in_a_block(name):
    return bool(IN_LAYERS.search(name)) and not any(part in name for part in ELSEWHERE)


def with_norms(name="videomae", **settings):
    torch.manual_seed(3)
    settings = {"num_prompt_tokens": 2, "prompt_dropout": 0.0, "init_weights": False, "train_norms": True} | settings
    return get_peft_model(build(name), AttentionPromptConfig(**settings)).eval()


def trained_norms(model, adapter="default"):
    """Their tensors by the names that they have in the plain model."""
    found = {}
    for name, parameter in model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(f".modules_to_save.{adapter}.", ".")
        if f".modules_to_save.{adapter}." in name and in_a_block(plain):
            found[plain] = parameter
    return found


def shake(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained_norms(model).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("name", AVAILABLE)
def test_all_norms_of_the_blocks_and_no_others_act_as_in_the_model_itself(name, tmp_path):
    model = with_norms(name, key_gate=2)
    wanted = {key for key, _ in build(name).named_parameters() if in_a_block(key)}
    norms = trained_norms(model)
    assert set(norms) == wanted
    assert all(parameter.requires_grad for parameter in norms.values())
    shake(model)
    inputs = ARCHITECTURES[name].inputs()
    with torch.no_grad():
        got = output(model, inputs)

        base = build(name)
        base.load_state_dict({key: value.detach() for key, value in norms.items()}, strict=False)
        plain = get_peft_model(base, AttentionPromptConfig(num_prompt_tokens=2, key_gate=2, prompt_dropout=0.0)).eval()
        own = dict(plain.named_parameters())
        for key, value in model.named_parameters():
            if "attention_prompt_" in key or (".modules_to_save." in key and key in own):
                own[key].copy_(value)
        torch.testing.assert_close(got, output(plain, inputs), rtol=1e-4, atol=1e-5)

        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(build(name), str(tmp_path)).eval()
        torch.testing.assert_close(output(loaded, inputs), got, rtol=1e-4, atol=1e-5)
        bare = output(build(name).eval(), inputs)
        torch.testing.assert_close(output(loaded.unload(), inputs), bare, rtol=1e-4, atol=1e-5)


def test_a_further_adapter_finds_the_same_norms_and_has_its_own():
    model = with_norms()
    model.add_adapter("b", AttentionPromptConfig(num_prompt_tokens=3, train_norms=True, init_weights=False))
    assert model.peft_config["b"].modules_to_save == model.peft_config["default"].modules_to_save
    assert model.peft_config["b"].modules_to_save == ["fc_norm", "classifier", "layernorm_before", "layernorm_after"]
    shake(model)
    x = ARCHITECTURES["videomae"].inputs(batch=3)
    with torch.no_grad():
        a = output(model, x)
        model.set_adapter("b")
        b = output(model, x)
        mixed = model(**x, adapter_names=["default", "b", "default"]).logits
    assert not torch.allclose(a, b, atol=1e-3)
    assert torch.allclose(mixed, torch.stack([a[0], b[1], a[2]]), atol=1e-5)
    assert not any(parameter.requires_grad for parameter in trained_norms(model).values())
    assert all(parameter.requires_grad for parameter in trained_norms(model, "b").values())


def test_only_the_blocks_that_get_prompts():
    model = prompted(layers_to_transform=[1], train_norms=True)
    assert sorted(trained_norms(model)) == [
        f"videomae.encoder.layer.1.layernorm_{place}.{kind}"
        for place in ("after", "before")
        for kind in ("bias", "weight")
    ]


def test_names_that_others_share_are_written_in_full():
    model = tiny_videomae()
    model.layernorm_before = torch.nn.Linear(2, 2)
    names = norms_of(model, ["videomae.encoder.layer.0.attention.attention"])
    assert names == ["videomae.encoder.layer.0.layernorm_before", "videomae.encoder.layer.0.layernorm_after"]


def test_they_learn_at_the_rate_of_the_prompts():
    model = prompted(train_norms=True)
    model.train()(pixel_values=clips(), labels=torch.tensor([0, 2])).loss.backward()
    groups = {group["name"]: group for group in prompt_parameter_groups(model, lr=0.1, head_lr=0.01)}
    norms = list(trained_norms(model).values())
    assert len(norms) == 12
    assert {id(parameter) for parameter in groups["prompts_no_decay"]["params"]} == set(map(id, norms))
    assert all(parameter.grad.abs().max() > 0 for parameter in norms)
    head = {id(parameter) for name in ("head", "head_no_decay") for parameter in groups[name]["params"]}
    assert head.isdisjoint(map(id, norms))
    assert len(head) == 4


def test_error_no_norms():
    model = tiny_videomae()
    for layer in model.videomae.encoder.layer:
        layer.layernorm_before = layer.layernorm_after = torch.nn.Identity()
    with raises_exactly(
        TargetError,
        "train_norms (True) must find norms around the attentions, but VideoMAEForVideoClassification has none in the blocks "
        "of videomae.encoder.layer.0.attention.attention, videomae.encoder.layer.1.attention.attention, "
        "videomae.encoder.layer.2.attention.attention. Leave it out.",
    ):
        prompted(model=model, train_norms=True)


def test_error_weighted_combination():
    model = prompted(modules_to_save=[])
    model.add_adapter("b", AttentionPromptConfig(num_prompt_tokens=5, train_norms=True, modules_to_save=[]))
    with raises_exactly(
        ConfigError,
        "head_from must name the adapter whose head the new one takes, but ['b'] bring heads of their own, which are not "
        "combined. Pass head_from='b'. adapters ['b'] must have no train_norms, since norms are not combined. Run each by "
        "itself.",
    ):
        model.base_model.add_weighted_adapter(["default", "b"], [0.5, 0.5], "n")
