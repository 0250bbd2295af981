"""Presets: values under a name, below what is given and above a recipe."""

import pytest
from helpers import raises_exactly
from models import prompted, tiny_videomae
from peft import get_peft_model

from apt_peft import AttentionPromptConfig, ConfigError
from apt_peft.baselines.methods import trained_parameters
from apt_peft.presets import PRESETS, preset_config, preset_of
from apt_peft.training.prompts import prompt_config
from apt_peft.training.recipes import RECIPES
from apt_peft.training.settings import TrainSettings

PLACES = {"model": "m", "data": "d", "out": "o"}
BEST = {
    "num_prompt_tokens": 4,
    "prompt_dropout": 0.0,
    "reparameterization": "max",
    "key_gate": 15,
    "train_norms": True,
    "share_prompts_across_heads": True,
    "init_weights": "data",
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_table_of_settings_that_exist(name):
    preset = preset_of(name)
    settings = TrainSettings.of_preset(name, **PLACES)
    assert {key: getattr(settings, key) for key in preset.settings} == preset.settings
    assert settings.preset_run() == {
        "name": name,
        "source": "docs/science.md",
        "settings": preset.settings,
        "overridden": {},
    }
    ours, theirs = preset_config(name), prompt_config(settings)
    assert ours.to_dict() == theirs.to_dict()


def test_the_values_of_best():
    assert PRESETS["best"].settings == {"method": "apt", **BEST, "lr_rule": "absolute", "lr": 0.1, "head_lr": 0.01}
    config = preset_config("best")
    assert {name: getattr(config, name) for name in BEST} == BEST
    assert preset_config("best", num_prompt_tokens=16, init_weights=True).num_prompt_tokens == 16


def test_the_published_method_stays_the_default():
    settings, config = TrainSettings(**PLACES), AttentionPromptConfig()
    assert (settings.preset, settings.preset_run()) == (None, None)
    for pure in (settings, config):
        assert (pure.train_norms, pure.key_gate, pure.num_prompt_tokens) == (False, 0, 100)
    assert prompted().peft_config["default"].modules_to_save == ["fc_norm", "classifier"]


def test_best_trains_less_than_lora_of_rank_4():
    base = tiny_videomae(hidden_size=128, intermediate_size=512, num_hidden_layers=6)
    model = get_peft_model(base, preset_config("best", init_weights=True))
    head = sum(p.numel() for part in (base.classifier, base.fc_norm) for p in part.modules_to_save.parameters())
    ours = model.get_nb_trainable_parameters()[0] - head
    # norms; keys, values and scales; directions and weights of the gate: of each of six layers
    assert ours == 6 * (4 * 128 + 4 * (2 * 64 + 2) + 15 * (64 + 1)) == 12_042
    assert ours < trained_parameters("lora", base.config, 4) == 12_288


def test_what_is_given_stands_over_a_preset_and_that_over_a_recipe():
    name = "ucf101-vit-small-p400"
    recipe = RECIPES[name].settings
    settings = TrainSettings.of_recipe(name, preset="best", lr=0.05, fp16=False, **PLACES)
    assert (settings.epochs, settings.batch_size, settings.rand_augment) == (100, 64, recipe["rand_augment"])
    assert (settings.num_prompt_tokens, settings.key_gate, settings.lr_rule, settings.lr) == (4, 15, "absolute", 0.05)
    assert settings.preset_run()["overridden"] == {"lr": {"from": 0.1, "to": 0.05}}
    assert settings.overridden()["num_prompt_tokens"] == {"from": 400, "to": 4}


def test_errors():
    with raises_exactly(ConfigError, "preset (bst) must be one of best. Did you mean best?"):
        preset_config("bst")
    with raises_exactly(ConfigError, "preset ('bst') must be one of best. Did you mean best?"):
        TrainSettings.of_preset("bst", **PLACES)
    with raises_exactly(
        ConfigError, "preset (best) must go with method apt, but method is lora. Leave one of them out."
    ):
        TrainSettings.of_preset("best", method="lora", **PLACES)
    with raises_exactly(ConfigError, "num_prompt_tokens (0) must be a whole number from 1 to 65,536. For a head without "
        "prompts, pass target_modules=[]."):  # fmt: skip
        preset_config("best", num_prompt_tokens=0)
