"""PEFT's `test_config`: every test of it that takes a config class, with ours."""

import pytest
from adapt import Parameters, adapted, load
from peft import LoraConfig

from apt_peft import AttentionPromptConfig

FILE = "test_config"
theirs_config = load(FILE)
pytestmark = pytest.mark.filterwarnings("default")

PARAMETERS = [
    Parameters(
        "config_class mandatory_kwargs",
        {
            "default": (AttentionPromptConfig, {}),
            "all set": (
                AttentionPromptConfig,
                {
                    "num_prompt_tokens": 7,
                    "prompt_dropout": 0.25,
                    "reparameterization": "softplus",
                    "share_prompts_across_heads": False,
                    "init_weights": False,
                    "target_modules": ["attention.attention"],
                    "modules_to_save": ["classifier"],
                    "id2label": {0: "jump", 1: "sit"},
                },
            ),
        },
    ),
    Parameters("config_class", {"prompts": (AttentionPromptConfig,)}),
    Parameters(
        "config_class mandatory_kwargs",
        {"list": (AttentionPromptConfig, {"target_modules": ["attention.attention"]})},
        test="test_config_layers_to_transform_index_zero",
    ),
]


@pytest.fixture(autouse=True)
def lora_config_on_disk(tmp_path, monkeypatch):
    """In place of their adapter on the Hub, which is one of LoRA."""
    LoraConfig(target_modules=["query"]).save_pretrained(tmp_path)
    monkeypatch.setattr(theirs_config, "PEFT_MODELS_TO_TEST", [(str(tmp_path), "main")])


TestPeftConfigWithPrompts = adapted(theirs_config.TestPeftConfig, FILE, PARAMETERS, __module__=__name__)
