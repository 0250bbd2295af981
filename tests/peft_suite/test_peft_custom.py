"""PEFT's `test_custom_models`: every test of it that takes a config or its class, with ours."""

import inspect

import pytest
from adapt import Parameters, adapted, load
from models import clips
from ours import CASES, MLP, CustomModels, DeepMLP, Inputs

from apt_peft import AttentionPromptConfig

FILE = "test_custom_models"
custom = load(FILE)
custom.MLP, custom.DeepMLP = MLP, DeepMLP  # the module is imported by nobody else
pytestmark = pytest.mark.filterwarnings("default")  # their tests warn on purpose


def config(target="lin0", **settings) -> AttentionPromptConfig:
    targets = target if isinstance(target, list) else [target]
    settings = {"num_prompt_tokens": 5, "init_weights": False} | settings
    return AttentionPromptConfig(target_modules=targets, **settings)


LIN0 = {"target_modules": ["lin0"], "num_prompt_tokens": 5, "init_weights": False}
PARAMETERS = [
    Parameters(
        "test_name model_id config_cls config_kwargs",
        {
            f"{case.model} {case.name}": (case.name, case.model, AttentionPromptConfig, case.settings)
            for case in CASES
            if case.model != "VideoMAE"
        },
    ),
    Parameters("config_cls", {"prompts": (AttentionPromptConfig,)}),
    Parameters("config0", {kind: (config(reparameterization=kind),) for kind in ("max", "softplus", "none")}),
    Parameters(
        "test_name tuner_method config_cls config_kwargs_1 config_kwargs_2",
        {
            "same layer": ("", "attention_prompt", AttentionPromptConfig, LIN0, LIN0 | {"num_prompt_tokens": 7}),
            "other layer": ("", "attention_prompt", AttentionPromptConfig, LIN0, LIN0 | {"target_modules": ["lin2"]}),
        },
    ),
    Parameters("test_name config", {"prompts": ("", config())}),
    Parameters("test_name config0 config1", {"prompts": ("", config(), config(num_prompt_tokens=7))}),
    Parameters(
        "test_name config0 config1",
        {"prompts": ("", config(), config("lin2"))},
        test="test_mixed_adapter_batches_different_target_layers",
    ),
    Parameters(
        "test_name config0 config1",
        {"prompts": ("", config(), config(["lin0", "lin2"]))},
        test="test_mixed_adapter_batches_partly_overlapping_target_layers",
    ),
    Parameters(
        "test_name config0 config1",
        {"prompts": ("", config(modules_to_save=["lin1"]), config(modules_to_save=["lin1"], num_prompt_tokens=7))},
        test="test_mixed_adapter_batches_multiple_modules_to_save",
    ),
]


def prepare_inputs_for_testing(self) -> dict:
    return Inputs(X=clips(3).to(self.torch_device))


for _name, _cls in inspect.getmembers(custom, inspect.isclass):
    if _name.startswith("Test") and _cls.__module__ == custom.__name__:
        _ours = {}
        if hasattr(_cls, "transformers_class"):
            _ours = {"transformers_class": CustomModels, "prepare_inputs_for_testing": prepare_inputs_for_testing}
        _adapted = adapted(_cls, FILE, PARAMETERS, __module__=__name__, **_ours)
        globals()[_adapted.__name__] = _adapted
del _adapted, _cls
