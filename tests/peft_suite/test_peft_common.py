"""Every method of PEFT's `PeftCommonTester`, on a saved VideoMAE and on custom models around one."""

import copy
import inspect

import pytest
import torch
from adapt import judge, load
from models import clips, tiny_videomae
from ours import CASES, CustomModels, Inputs, SavedModels, SpeaksLikeText
from peft import get_peft_model
from transformers import VideoMAEForVideoClassification

from apt_peft import AttentionPromptConfig

common = load("testing_common")
pytestmark = pytest.mark.filterwarnings("default")  # their tests warn on purpose

METHODS = sorted(name for name in vars(common.PeftCommonTester) if name.startswith("_test"))
HELPERS = {
    "prepare_inputs_for_common",
    "check_modelcard",
    "check_config_json",
    "perturb_trainable_token_weights_if_used",
    "torch_device",
    "transformers_class",
}
# What their callers add to (model_id, config_cls, config_kwargs); each choice is a test of its own.
MORE_ARGUMENTS: dict[str, list[dict]] = {
    "_test_save_pretrained": [{}, {"safe_serialization": False}],
    "_test_save_pretrained_selected_adapters": [{}, {"safe_serialization": False}],
    "_test_add_adapter_no_autocast_adapter_dtype": [{"dtype": torch.float16}, {"dtype": torch.bfloat16}],
    "_test_generate_pos_args": [{"raises_err": True}, {"raises_err": False}],
    "_test_training_gradient_checkpointing": [{"use_reentrant": True}, {"use_reentrant": False}],
    "_test_passing_input_embeds_works": [{"test_name": ""}],
}
# Their callers ask these for prompts that differ from one another and from nothing.
NEED_RANDOM_WEIGHTS = ("save", "merge", "unload", "disable", "mixed", "weighted", "multi")
AS_TEXT = ("_test_disable_adapter", "_test_mixed_adapter_batches")
ON_A_MODEL = ("_test_weighted_combination_of_adapters_lora", "_test_weighted_combination_of_adapters_ia3")


@pytest.fixture(scope="session")
def videomae_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("videomae")
    tiny_videomae().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model} {case.name}")
@pytest.mark.parametrize(
    ("method", "more"),
    [
        pytest.param(method, more, id=" ".join([method, *(f"{name}={value}" for name, value in more.items())]))
        for method in METHODS
        for more in MORE_ARGUMENTS.get(method, [{}])
    ],
)
def test_common(method, more, case, videomae_folder, monkeypatch):
    torch.manual_seed(0)
    if method == "_test_mixed_adapter_batches":  # it names the two methods of PEFT that can do it; here ours is one
        monkeypatch.setattr(common, "RoadConfig", AttentionPromptConfig)
    settings = copy.deepcopy(case.settings)  # one of theirs deletes from it
    if any(word in method for word in NEED_RANDOM_WEIGHTS):
        settings["init_weights"] = False
    tester = common.PeftCommonTester()
    if case.model == "VideoMAE":
        as_text = method in AS_TEXT
        kind = SpeaksLikeText if as_text else VideoMAEForVideoClassification
        model_id, tester.transformers_class = SavedModels.NAME, SavedModels(kind, videomae_folder)
        inputs = {"input_ids" if as_text else "pixel_values": clips().to(tester.torch_device)}
    else:
        model_id, tester.transformers_class = case.model, CustomModels
        inputs = {"X": clips().to(tester.torch_device)}
    tester.prepare_inputs_for_testing = lambda: Inputs(inputs)

    def run():
        if method in ON_A_MODEL:
            config = AttentionPromptConfig(**settings)
            model = get_peft_model(tester.transformers_class.from_pretrained(model_id), config, "adapter_1")
            getattr(tester, method)(model, config, ["adapter_1", "adapter_2", "adapter_3"], [0.5, 1.5, 1.5])
        else:
            getattr(tester, method)(model_id=model_id, config_cls=AttentionPromptConfig, config_kwargs=settings, **more)

    judge("testing_common", method, case.settings, case.model, run)


def test_every_method_is_run_with_the_arguments_that_it_has():
    """A method that a new release adds is run by the test above; one that takes arguments unknown here shows up."""
    members = {name for name in vars(common.PeftCommonTester) if not name.startswith("__")}
    assert members - set(METHODS) <= HELPERS, "neither a test nor a known helper"
    for method in METHODS:
        required = {
            name
            for name, parameter in inspect.signature(getattr(common.PeftCommonTester, method)).parameters.items()
            if parameter.default is inspect.Parameter.empty and name != "self"
        }
        given = {"model_id", "config_cls", "config_kwargs", *MORE_ARGUMENTS.get(method, [{}])[0]}
        if method in ON_A_MODEL:
            given = {"model", "config", "adapter_list", "weight_list"}
        assert required <= given, method
