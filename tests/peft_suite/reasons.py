"""Which of PEFT's tests do not pass with attention prompts, and why: the one table.

Each is run all the same, and must end as its row says: in an exception of that kind with that message, or from that
line of theirs, or by skipping itself with that message. One that ends otherwise, or passes, fails. Only rows that end in
`NOT_RUN` are taken on trust.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import peft
import pytest
from packaging.version import Version

from apt_peft.errors import ConfigError, TargetError

SKIPS_ITSELF = pytest.skip.Exception
NOT_RUN = None
PEFT = Version(peft.__version__)


class Row(NamedTuple):
    """One reason, and the tests that it holds for."""

    file: str
    tests: tuple[str, ...]
    ends_in: type[BaseException] | None
    shows: str  # regular expression, for the message or the line of theirs that raised it
    reason: str
    where: str = "always"
    when: Callable[[dict, str], bool] = lambda settings, model: True  # of the settings and the model's name

    def shows_in(self, message: str) -> bool:
        return re.search(self.shows, message) is not None


def _trains_head(settings: dict, model: str) -> bool:
    """Whether modules beside the tuner's are trained: our default on a model whose head is known."""
    return bool(settings.get("modules_to_save", model == "VideoMAE"))


def _is_regex(settings: dict, model: str) -> bool:
    return isinstance(settings.get("target_modules"), str)


def _is_custom(settings: dict, model: str) -> bool:
    return model != "VideoMAE"


_MERGES = "merges: prompts are keys and values of their own, and no weight of the base can stand for them"
_HEAD_IS_TRAINED = "asserts that nothing but the tuner's parameters is trained, and here a head is"
_OUR_WORDS = "the error is raised, in words of ours that say what to do"
_NO_BIAS = "trains biases, which prompts have none of"
_CANNOT_BE_MERGED = "Attention prompts cannot be merged into the base model"

ROWS = [
    Row(
        "testing_common",
        (
            "_test_merge_layers",
            "_test_merge_layers_fp16",
            "_test_merge_layers_is_idempotent",
            "_test_merge_layers_multi",
            "_test_merge_layers_nan",
            "_test_safe_merge",
        ),
        TargetError,
        _CANNOT_BE_MERGED,
        _MERGES,
    ),
    Row(
        "testing_common",
        ("_test_generate", "_test_generate_half_prec", "_test_generate_pos_args"),
        AttributeError,
        "has no attribute 'generate'",
        "generates text: neither VideoMAE nor the custom model has a generate method",
    ),
    Row(
        "testing_common",
        ("_test_generate_with_mixed_adapter_batches_and_beam_search",),
        SKIPS_ITSELF,
        "Mixed adapter batches not supported for",
        "generates text by beam search; batches with an adapter for each sample are in `_test_mixed_adapter_batches`",
    ),
    Row(
        "testing_common",
        ("_test_weighted_combination_of_adapters",),
        SKIPS_ITSELF,
        "Test not applicable for",
        "for LoRA and IA3 by name; the part of it for IA3 is run",
    ),
    Row(
        "testing_common",
        ("_test_weighted_combination_of_adapters_lora",),
        SKIPS_ITSELF,
        "does not support adding weighted adapters",
        "for LoRA and IA3 by name; the part of it for IA3 is run",
    ),
    Row(
        "testing_common",
        ("_test_mixed_adapter_batches",),
        Exception,
        "input_ids|has no attribute 'generate'",
        "takes the model for one of text; VideoMAE runs the test, and `TestMixedAdapterBatches` tries custom models",
        "on the custom models",
        _is_custom,
    ),
    Row(
        "testing_common",
        ("_test_weighted_combination_of_adapters_ia3",),
        ConfigError,
        "head_from must name the adapter whose head the new one takes",
        "combines adapters that have heads, without saying whose head is to stay: refused",
        "where a head is trained",
        _trains_head,
    ),
    Row(
        "testing_common",
        ("_test_training_prompt_learning_tasks",),
        SKIPS_ITSELF,
        "Test not applicable for",
        "for methods that prepend tokens to the input of a text model",
    ),
    Row(
        "testing_common",
        ("_test_adding_multiple_adapters_with_bias_raises",),
        SKIPS_ITSELF,
        "does not support the 'bias' argument",
        _NO_BIAS,
    ),
    Row(
        "testing_common",
        ("_test_passing_input_embeds_works",),
        Exception,
        r"^'NoneType' object has no attribute 'shape'|has no attribute 'get_input_embeddings'",
        "passes embeddings of words: the models take clips",
    ),
    Row(
        "testing_common",
        ("_test_training_layer_indexing",),
        AssertionError,
        "assert param.grad is None",
        _HEAD_IS_TRAINED,
        "where a head is trained",
        _trains_head,
    ),
    Row(
        "testing_common",
        ("_test_training_gradient_checkpointing",),
        AssertionError,
        "assert param.grad is None",
        _HEAD_IS_TRAINED,
        "where VideoMAE's head is trained",
        lambda settings, model: _trains_head(settings, model) and not _is_custom(settings, model),
    ),
    Row(
        "testing_common",
        ("_test_prepare_for_training",),
        AttributeError,
        "has no attribute 'get_input_embeddings'",
        "assumes input embeddings, which a custom model need not have; VideoMAE has them and runs the test",
        "on the custom models",
        _is_custom,
    ),
    Row(
        "testing_common",
        ("_test_training_layer_indexing",),
        ConfigError,
        "layers_to_transform .* must be None when target_modules is a regular expression",
        "a regular expression names its layers itself; layers_to_transform beside it is refused",
        "where target_modules is a regular expression",
        _is_regex,
    ),
    Row(
        "testing_common",
        ("_test_training_gradient_checkpointing",),
        SKIPS_ITSELF,
        "does not support gradient checkpointing",
        "the custom model has no gradient checkpointing; VideoMAE has it and runs the test",
        "on the custom models",
        _is_custom,
    ),
    Row(
        "testing_common",
        ("_test_disable_adapter",),
        AttributeError,
        "has no attribute 'generate'",
        "takes what `generate` gives; the VideoMAE that runs the test has one, the custom model has none",
        "on the custom models",
        _is_custom,
    ),
    Row(
        "test_custom_models",
        (
            "test_delete_merged_adapter_only_rejects_the_merged_one",
            "test_delete_merged_adapter_raises_without_mutation",
            "test_disable_adapters_with_merging",
            "test_merge_layers",
            "test_merge_layers_fp16",
            "test_merge_layers_is_deterministic_in_train_mode",
            "test_merge_layers_is_idempotent",
            "test_merge_layers_multi",
            "test_mixed_adapter_batches_merged_raises",
            "test_multiple_active_adapters_merge_and_unmerge",
            "test_safe_merge",
            "test_sequential_merge_matches_batch_merge",
            "test_unmerge_after_sequential_merge_restores_base",
        ),
        TargetError,
        _CANNOT_BE_MERGED,
        _MERGES,
    ),
    Row(
        "test_custom_models",
        (
            "test_forward_bfloat16",
            "test_forward_bfloat16_no_autocast",
            "test_forward_float16",
            "test_forward_float16_no_autocast",
        ),
        TargetError,
        _CANNOT_BE_MERGED,
        f"the forward in half precision is run, and then it {_MERGES}",
    ),
    Row(
        "test_custom_models",
        ("test_disable_adapters",),
        AssertionError,
        r"assert torch.allclose\(outputs_base, outputs_before\)",
        "asserts that a new adapter changes nothing, but new prompts are attended to from the start; the rest of it is "
        "`test_a_disabled_adapter_is_the_base_bit_for_bit`",
    ),
    Row(
        "test_custom_models",
        ("test_active_adapter",),
        SKIPS_ITSELF,
        "Multiple active adapters with modules_to_save",
        "two active adapters that both bring a head: PEFT forbids it",
        "where a head is trained",
        _trains_head,
    ),
    Row(
        "test_custom_models",
        ("test_adding_multiple_adapters_with_bias_raises",),
        SKIPS_ITSELF,
        "does not support the 'bias' argument",
        _NO_BIAS,
    ),
    Row(
        "test_custom_models",
        ("test_disable_adapter_with_bias_warns",),
        SKIPS_ITSELF,
        "Testing bias warnings only for",
        _NO_BIAS,
    ),
    Row(
        "test_custom_models",
        ("test_save_load_roundtrip_fsdp_wrapped_learnable_bias",),
        SKIPS_ITSELF,
        "support training the bias directly",
        _NO_BIAS,
    ),
    Row(
        "test_custom_models",
        ("test_default_target_modules_not_set_raises", "test_default_target_modules_not_set_model_type_set_raises"),
        AssertionError,
        r"did not match[\s\S]*Please specify `target_modules`[\s\S]*target_modules must be given for a model of",
        _OUR_WORDS,
    ),
    Row(
        "test_custom_models",
        ("test_mixed_adapter_batches_length_mismatch_raises",),
        AssertionError,
        r"did not match[\s\S]*adapter_names \(5 names\) must have a name for each sample",
        _OUR_WORDS,
    ),
    Row(
        "test_custom_models",
        ("test_mixed_adapter_batches_lora_wrong_adapter_name_raises",),
        AssertionError,
        r"did not match[\s\S]*stands for none",
        _OUR_WORDS,
    ),
    Row(
        "test_custom_models",
        ("test_mixed_adapter_batches_training_mode_raises",),
        AssertionError,
        r"did not match[\s\S]*Call model\.eval\(\)",
        _OUR_WORDS,
    ),
    Row(
        "test_custom_models",
        ("test_multiple_active_adapters_with_same_modules_to_save_raises",),
        AssertionError,
        r"did not match[\s\S]*Only one adapter can be set at a time[\s\S]*set_adapter \(",
        _OUR_WORDS,
    ),
    Row(
        "test_custom_models",
        ("test_multiple_active_adapters_with_overlapping_modules_to_save_raises",),
        AssertionError,
        r"did not match[\s\S]*Only one adapter can be set at a time[\s\S]*set_adapter \(",
        _OUR_WORDS,
        "from peft 0.21 on",
        lambda settings, model: Version("0.21") <= PEFT,
    ),
    Row(
        "test_custom_models",
        ("test_multiple_active_adapters_with_overlapping_modules_to_save_raises",),
        TargetError,
        r"Target modules \['0layers..lin0'\] not found in the base model",
        "names a module that is not there (`0layers..lin0`), which is refused",
        "on peft 0.20",
        lambda settings, model: Version("0.21") > PEFT,
    ),
    Row(
        "test_custom_models",
        ("test_loading_model_requires_grad_load_adapter_then_add_adapter",),
        AssertionError,
        "assert .*requires_grad",
        "peft 0.20 expects it to fail with its own methods, too (xfail)",
        "on peft 0.20",
    ),
    Row(
        "test_custom_models",
        ("test_loading_model_requires_grad_set_correctly_switch_inference_mode",),
        AssertionError,
        "lora_A",
        "compares with the names of LoRA's parameters; peft 0.20 expects it to fail (xfail)",
        "on peft 0.20",
    ),
    Row(
        "test_custom_models",
        ("test_default_target_modules_list_of_str", "test_default_target_modules_str"),
        TargetError,
        "target_modules must be given for a model of type",
        "writes into LoRA's and DeLoRA's tables of targets; ours is `families.py`",
    ),
    Row(
        "test_custom_models",
        (
            "test_mixed_adapter_batches_lora_conv1d_emb",
            "test_mixed_adapter_batches_lora_conv1d_emb_multiple_modules_to_save",
            "test_mixed_adapter_batches_lora_conv2d",
            "test_mixed_adapter_batches_mha_raises",
            "test_mixed_adapter_batches_unsupported_layer_raises",
        ),
        TargetError,
        "prompts can only go to an attention that looks its implementation up in transformers' attention interface",
        "a model of convolutions, embeddings, torch's own attention or a GRU: nothing there can take prompts",
    ),
    Row(
        "test_custom_models",
        ("test_mixed_adapter_batches_lora_opt_timing",),
        NOT_RUN,
        "",
        "times LoRA on a language model from the Hub",
    ),
    Row(
        "test_custom_models",
        ("test_add_weighted_adapter_cat_with_rank_pattern",),
        NOT_RUN,
        "",
        "takes a config class and uses LoRA's all the same, with ranks",
    ),
    Row(
        "test_config",
        ("test_save_pretrained_with_target_modules",),
        AssertionError,
        r"isinstance\(\['a', 'list'\], set\)",
        "asserts that names become a set: ours stay the list that was given, so that saved files do not vary",
    ),
    Row(
        "test_config",
        ("test_from_json_file",),
        AssertionError,
        "id2label",
        "compares with the raw JSON, whose keys are strings; `from_pretrained` makes label numbers of them again",
        "where id2label is given",
        lambda settings, model: "id2label" in settings,
    ),
]


def find(file: str, test: str, settings: dict, model: str) -> Row | None:
    """The row of a test, or None where it must pass."""
    rows = [row for row in ROWS if row.file == file and test in row.tests and row.when(settings, model)]
    assert len(rows) <= 1, rows
    return rows[0] if rows else None


def left_out(file: str) -> set[str]:
    """Tests that are not run at all."""
    return {test for row in ROWS if row.file == file and row.ends_in is NOT_RUN for test in row.tests}
