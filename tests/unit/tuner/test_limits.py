"""What an adapter's few lines may not cost: hours in a regular expression, all memory, or a prediction of noise."""

import json
import re

import pytest
import torch
from helpers import raises_exactly
from models import clips, prompted, tiny_videomae
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTModel

from apt_peft import AttentionPromptConfig, CheckpointError, ConfigError
from apt_peft.tuner.families import DEFAULT_PATTERNS
from apt_peft.tuner.limits import expression_problem

SLOW = (
    "be a regular expression that is quick to try, but repeats in repeats, or too many of them, could try a name "
    "in millions of ways. Write it with fewer, or pass a list of names."
)
NAMES = [f"videomae.encoder.layer.{index}.attention.attention.value" for index in range(12)]


@pytest.mark.parametrize(
    "expression",
    [
        "(a+)+b",
        r"(?:.*\.)*attention",
        "(?:a|a)*b",
        r"(?:[a-z]\w|\w\w)+!",
        "(?:.|..)*!",
        "((.{0,99}){0,99}){0,99}!",
        ".?" * 30 + "!",
        "(?:.?){30}!",
        ".*" * 6 + "!",
        r"(.+)\1+\1+!",
        "(?:a|a)*" + "z" * 99,  # no name is as long, and most of the work is done before that is seen
        "(?=(?:a|a)*b)a",
        "(a)?(?(1)(?:b|.)*|c)!",
    ],
)
def test_expressions_that_could_be_tried_without_end_are_refused(expression):
    for field in ("target_modules", "exclude_modules"):
        with raises_exactly(ConfigError, f"{field} ({expression!r}) must {SLOW}"):
            AttentionPromptConfig(**{field: expression})


@pytest.mark.parametrize(
    "expression",
    [
        *sorted(DEFAULT_PATTERNS),
        r".*\.layer\.\d+\.attention\..*\.(?:query|key)",
        r"(.*\.)?stages\.\d+\.layers\.[0-9]+\.attn.*",
        r"^(?!decoder\.).*attention\.attention$",
        r"encoder\.layer\.(?:0|1|2|1[01])\.attention\.attention",
        r".*\.(?P<a>\d{1,2})\..*",
        r"(a)?(?(1)b|c)",
        "(?:)*.*",
        "(?:ab)*(?:a{4}){4}.+?",
        ".*.*.*.*!",
        ".?" * 19 + "!",
    ],
)
def test_expressions_that_people_write_pass_and_are_quick(expression):
    assert expression_problem(expression) is None
    AttentionPromptConfig(target_modules=expression)
    for name in NAMES:  # the two last are the slowest that pass: this would not end if the bound were wrong
        re.fullmatch(expression, name)


@pytest.mark.parametrize("expression", ["(", "a{99999999999999999999}"])
def test_expressions_that_are_none(expression):
    rule = "must be a valid regular expression when it is a string. Pass a list to give names."
    with raises_exactly(ConfigError, f"target_modules ({expression!r}) {rule}"):
        AttentionPromptConfig(target_modules=expression)


def test_a_long_expression_is_cut_in_the_message():
    problem = "must have at most 2,000 characters when it is a string. Pass a list to give names."
    message = f"target_modules ('{'a' * 5000}') {problem}"
    with raises_exactly(ConfigError, f"{message[:500]} ... {message[-500:]}"):
        AttentionPromptConfig(target_modules="a" * 5000)


def test_a_layers_pattern_is_part_of_an_expression():
    settings = {"target_modules": ["attention"], "layers_to_transform": 0}
    AttentionPromptConfig(**settings, layers_pattern=["layer", r"blocks\.\d+\.inner"])
    with raises_exactly(ConfigError, f"layers_pattern ('(a+)+') must {SLOW}"):
        AttentionPromptConfig(**settings, layers_pattern="(a+)+")
    with raises_exactly(
        ConfigError,
        "layers_pattern ('(') must be a valid regular expression when it is a string. Pass a list to give names.",
    ):
        AttentionPromptConfig(**settings, layers_pattern=["layer", "("])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"layers_to_transform": list(range(3_000_000))},
            "layers_to_transform (a list of 3,000,000) must have at most 10,000 entries.",
        ),
        (
            {"layers_to_transform": range(10**12)},
            "layers_to_transform (a range of 1,000,000,000,000) must have at most 10,000 entries.",
        ),
        ({"modules_to_save": ["a"] * 101}, "modules_to_save (a list of 101) must have at most 100 entries."),
        (
            {"id2label": dict.fromkeys(range(100_001), "a")},
            "id2label (a dict of 100,001) must have at most 100,000 entries.",
        ),
        (
            {"id2label": {0: "a" * 10_001}, "base_model_name_or_path": "b" * 10**7},
            "base_model_name_or_path (a text of 10,000,000) must have at most 10,000 characters in a text. "
            "id2label (a text of 10,001) must have at most 10,000 characters in a text.",
        ),
    ],
    ids=["millions of layers", "a range", "heads", "labels", "texts"],
)
def test_what_is_too_large(settings, message):
    with raises_exactly(ConfigError, message):
        AttentionPromptConfig(**settings)


def test_the_largest_data_set_of_images_fits():
    assert len(AttentionPromptConfig(id2label={index: f"label {index}" for index in range(21_841)}).id2label) == 21_841


def test_a_config_file_is_checked_when_peft_reads_it(tmp_path):
    AttentionPromptConfig().save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": "(.+)+!"}))
    with raises_exactly(ConfigError, f"target_modules ('(.+)+!') must {SLOW}"):
        PeftConfig.from_pretrained(tmp_path)


def test_prompts_larger_than_the_model_many_times_are_refused_before_they_are_made():
    with torch.device("meta"):
        base = ViTModel(ViTConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16))
    config = AttentionPromptConfig(num_prompt_tokens=65_536, share_prompts_across_heads=False)
    with raises_exactly(
        ConfigError,
        "num_prompt_tokens (65536) must keep the prompts below 4 times the size of the model, but in 24 layers they would "
        "take 13.1 GB, and the model has 1.0 GB. Lower it.",
    ):
        get_peft_model(base, config)


@pytest.fixture
def adapter(tmp_path):
    prompted(num_prompt_tokens=2).save_pretrained(tmp_path)
    return tmp_path


def rewrite(adapter, change) -> list[str]:
    """Change one layer's keys in the file; the names of the prompts, as the model has them."""
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in weights if name.endswith("layer.1.attention.attention.attention_prompt_key"))
    weights[name] = change(weights[name])
    save_file(weights, adapter / "adapter_model.safetensors")
    return name + ".default"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_prompts_that_are_not_finite_are_not_loaded(adapter, value):
    name = rewrite(adapter, lambda tensor: tensor.index_fill(0, torch.tensor([1]), value))
    with raises_exactly(
        CheckpointError,
        f"prompts ({name}) must be finite, but have NaN or infinite values: their training diverged, or their file is "
        "damaged. Load an earlier one.",
    ):
        PeftModel.from_pretrained(tiny_videomae(), adapter)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn])
def test_prompts_of_another_dtype_are_not_loaded(adapter, dtype):
    name = rewrite(adapter, lambda tensor: tensor.to(dtype))
    with raises_exactly(
        CheckpointError,
        f"prompts ({name}) must be float16, bfloat16, float32 or float64, but are {dtype}. Get the adapter again from "
        "whoever trained it.",
    ):
        PeftModel.from_pretrained(tiny_videomae(), adapter)


def test_what_is_saved_in_half_precision_is_loaded(adapter):
    rewrite(adapter, lambda tensor: tensor.to(torch.bfloat16))
    model = PeftModel.from_pretrained(tiny_videomae(), adapter)
    with torch.no_grad():
        assert model(clips()).logits.isfinite().all()


def test_loading_without_data_is_left_alone(adapter):
    """On the meta device, where shards are put together and nothing can be looked at."""
    state = {name: tensor.to("meta") for name, tensor in prompted(num_prompt_tokens=2).state_dict().items()}
    with torch.device("meta"):
        model = prompted(num_prompt_tokens=2)
    model.load_state_dict(state)
