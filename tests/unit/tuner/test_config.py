"""Every setting is checked when the config is made, and the whole message is what the user reads."""

import json
import warnings

import pytest
from helpers import raises_exactly
from peft import PeftConfig

from apt_peft import AttentionPromptConfig, ConfigError
from apt_peft.tuner.families import FAMILIES

WRONG = [
    (
        {"num_prompt_tokens": 0},
        "num_prompt_tokens (0) must be a whole number from 1 to 65,536. For a head without prompts, pass target_modules=[].",
    ),
    (
        {"num_prompt_tokens": 65_537},
        "num_prompt_tokens (65537) must be a whole number from 1 to 65,536. "
        "For a head without prompts, pass target_modules=[].",
    ),
    (
        {"num_prompt_tokens": True},
        "num_prompt_tokens (True) must be a whole number from 1 to 65,536. "
        "For a head without prompts, pass target_modules=[].",
    ),
    (
        {"num_prompt_tokens": "10"},
        "num_prompt_tokens ('10') must be a whole number from 1 to 65,536. "
        "For a head without prompts, pass target_modules=[].",
    ),
    ({"prompt_dropout": 1.0}, "prompt_dropout (1.0) must be a number of at least 0 and below 1."),
    ({"prompt_dropout": float("nan")}, "prompt_dropout (nan) must be a number of at least 0 and below 1."),
    ({"reparameterization": "exp"}, 'reparameterization (\'exp\') must be "max", "softplus" or "none".'),
    ({"share_prompts_across_heads": 1}, "share_prompts_across_heads (1) must be True or False."),
    ({"init_weights": "random"}, "init_weights ('random') must be True, False or \"data\"."),
    (
        {"target_modules": "all-linear"},
        'target_modules ("all-linear") must name attention modules, but prompts are keys and values of an attention, '
        "and a Linear has none. Leave target_modules out for all layers of a known model.",
    ),
    ({"target_modules": 3}, "target_modules (3) must be a list of names or a string."),
    (
        {"target_modules": "("},
        "target_modules ('(') must be a valid regular expression when it is a string. Pass a list to give names.",
    ),
    ({"exclude_modules": [1]}, "exclude_modules ([1]) must be a list of names or a string."),
    ({"layers_pattern": "layer"}, "layers_pattern must come with layers_to_transform, but that is None."),
    (
        {"layers_pattern": "layer", "layers_to_transform": 1},
        "layers_pattern ('layer') must go with target_modules as a list of names, but the default target knows its layers. "
        "Leave it out.",
    ),
    (
        {"layers_to_transform": [-1]},
        "layers_to_transform ([-1]) must be a layer's index, or a list of at least one, counted from 0. "
        "For a head without prompts, pass target_modules=[].",
    ),
    (
        {"layers_to_transform": []},
        "layers_to_transform ([]) must be a layer's index, or a list of at least one, counted from 0. "
        "For a head without prompts, pass target_modules=[].",
    ),
    (
        {"layers_to_transform": 1, "target_modules": r".*attention"},
        "layers_to_transform (1) must be None when target_modules is a regular expression. "
        "Write the layers into the expression, or pass target_modules as a list.",
    ),
    (
        {"modules_to_save": "classifier"},
        "modules_to_save ('classifier') must be a list of module names, or None for the model's head.",
    ),
    ({"id2label": {0: "a", 2: "b"}}, "id2label ({0: 'a', 2: 'b'}) must name the labels 0, 1, 2, ... without gaps."),
    ({"data_initialized": "no"}, "data_initialized ('no') must be True or False."),
    ({"key_gate": -1}, "key_gate (-1) must be a whole number from 0 to 1,024."),
    ({"key_gate": True}, "key_gate (True) must be a whole number from 0 to 1,024."),
    ({"train_norms": 1}, "train_norms (1) must be True or False."),
    (
        {"train_norms": True, "target_modules": []},
        "train_norms (True) must go with prompts, but target_modules is []. Leave one of them out.",
    ),
    ({"key_gate": 1025}, "key_gate (1025) must be a whole number from 0 to 1,024."),
    ({"format_version": 0}, "format_version (0) must be a whole number from 1 on."),
    (
        {"format_version": 4},
        "format_version (4) must be at most 3 for this version of apt_peft, but the adapter was saved by a newer one. "
        "Run: pip install -U apt-peft",
    ),
    (
        {"num_prompt_tokens": 0, "prompt_dropout": -1},
        "num_prompt_tokens (0) must be a whole number from 1 to 65,536. "
        "For a head without prompts, pass target_modules=[]. "
        "prompt_dropout (-1) must be a number of at least 0 and below 1.",
    ),
]


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=lambda v: str(v)[:40])
def test_wrong_values(settings, message):
    with raises_exactly(ConfigError, message):
        AttentionPromptConfig(**settings)


def test_config_error_is_a_value_error():
    with pytest.raises(ValueError, match="num_prompt_tokens"):
        AttentionPromptConfig(num_prompt_tokens=-1)


def test_defaults_are_the_published_ones():
    config = AttentionPromptConfig()
    assert (config.num_prompt_tokens, config.prompt_dropout, config.reparameterization) == (100, 0.1, "max")
    assert config.share_prompts_across_heads is True
    assert config.init_weights is True
    assert config.peft_type == "ATTENTION_PROMPT"


@pytest.mark.parametrize("name", ["save_pretrained", "round trip with everything set"])
def test_saved_and_loaded_through_peft(tmp_path, name):
    settings = {}
    if name != "save_pretrained":
        settings = {
            "num_prompt_tokens": 7,
            "prompt_dropout": 0.0,
            "reparameterization": "softplus",
            "share_prompts_across_heads": False,
            "init_weights": "data",
            "target_modules": ["attention.attention"],
            "exclude_modules": ["decoder"],
            "layers_to_transform": [0, 2],
            "layers_pattern": "layer",
            "modules_to_save": [],
            "id2label": {0: "jump", 1: "sit"},
        }
    config = AttentionPromptConfig(**settings)
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is AttentionPromptConfig
    assert loaded == config
    assert json.loads((tmp_path / "adapter_config.json").read_text())["format_version"] == 1


def test_unknown_keys_of_a_newer_file_are_named_in_one_warning(tmp_path):
    AttentionPromptConfig(num_prompt_tokens=3).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"new_part": 8, "zzz": 1}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = PeftConfig.from_pretrained(tmp_path)
    assert loaded.num_prompt_tokens == 3
    assert len(caught) == 1
    assert "Unexpected keyword arguments ['new_part', 'zzz'] for class AttentionPromptConfig" in str(caught[0].message)


def test_a_hostile_file_is_refused_before_memory_is_spent(tmp_path):
    AttentionPromptConfig().save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_prompt_tokens": 10**12}))
    with raises_exactly(
        ConfigError,
        "num_prompt_tokens (1000000000000) must be a whole number from 1 to 65,536. "
        "For a head without prompts, pass target_modules=[].",
    ):
        PeftConfig.from_pretrained(tmp_path)


def test_sequences_of_any_kind_become_sorted_lists():
    config = AttentionPromptConfig(target_modules={"b", "a"}, layers_to_transform=range(2, 4))
    assert config.target_modules == ["a", "b"]
    assert config.layers_to_transform == [2, 3]


def test_layers_to_transform_goes_with_a_default_pattern_that_a_file_states():
    config = AttentionPromptConfig(target_modules=FAMILIES["videomae"].attention, layers_to_transform=1)
    assert config.layer_indices == [1]
