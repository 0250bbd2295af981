"""Settings made to do harm, or damaged: each of our roads says what is wrong, before memory or time is spent."""

import json
import os
from pathlib import Path

import pytest
from helpers import raises_exactly
from hostile import CONFIG, by_convert, by_evaluate, by_predict, change, refused_by_all, write_adapter

from apt_peft import AutoPeftModelForVideoClassification, CheckpointError
from apt_peft.checkpoints.source import find_adapter


@pytest.fixture
def adapter(tmp_path) -> Path:
    """A good adapter of a backbone beside it; a test makes it bad."""
    return write_adapter(tmp_path)


def without_settings(adapter: Path, problem: str) -> str:
    return f"adapter ({adapter}) must be a folder or a name on the Hub with an {CONFIG}, but {problem}"


def test_a_config_of_megabytes(adapter):
    (adapter / CONFIG).write_bytes(b"[" + b" " * (8 << 20))
    refused_by_all(
        adapter, without_settings(adapter, "that is no plain file of at most 8,388,608 bytes. It was not read.")
    )


def test_a_config_that_is_a_pipe(adapter):
    (adapter / CONFIG).unlink()
    os.mkfifo(adapter / CONFIG)
    refused_by_all(
        adapter, without_settings(adapter, "that is no plain file of at most 8,388,608 bytes. It was not read.")
    )


@pytest.mark.parametrize("content", ['{"peft_type": ', "[" * 100_000, "\udcff"])
def test_a_config_that_is_no_json(adapter, content):
    raw = content.encode("utf-8", "surrogateescape")
    (adapter / CONFIG).write_bytes(raw)
    with pytest.raises((ValueError, RecursionError)) as told:
        json.loads(raw.decode("utf-8"))
    reason = f"{type(told.value).__name__}: {str(told.value)[:200]}"
    refused_by_all(adapter, without_settings(adapter, f"it cannot be read ({reason}). Copy the adapter again."))


@pytest.mark.parametrize("method", ["LORA", None, 7, "x" * 5000])
def test_another_method(adapter, method):
    """Others have settings that name modules to import."""
    change(adapter, peft_type=method)
    refused_by_all(
        adapter,
        f"adapter ({adapter}) must be of type ATTENTION_PROMPT, but its {CONFIG} says {str(method)[:200]!r}. Load adapters of "
        "other methods with PEFT itself.",
    )


def test_a_class_that_the_config_names_is_not_looked_for(adapter):
    change(adapter, auto_mapping={"base_model_class": "system", "parent_library": "os"})
    model = AutoPeftModelForVideoClassification.from_pretrained(adapter)
    assert type(model.get_base_model()).__name__ == "VideoMAEForVideoClassification"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"layers_to_transform": list(range(20_000))},
            "layers_to_transform (a list of 20,000) must have at most 10,000 entries.",
        ),
        (
            {"target_modules": "(a+)+!"},
            "target_modules ('(a+)+!') must be a regular expression that is quick to try, but repeats in repeats, or too many of "
            "them, could try a name in millions of ways. Write it with fewer, or pass a list of names.",
        ),
        (
            {"num_prompt_tokens": 10**15},
            "num_prompt_tokens (1000000000000000) must be a whole number from 1 to 65,536. For a head without prompts, pass "
            "target_modules=[].",
        ),
        (
            {"task_type": "EVIL"},
            "Invalid task type: 'EVIL'. Must be one of the following task types: SEQ_CLS, SEQ_2_SEQ_LM, CAUSAL_LM, TOKEN_CLS, "
            "QUESTION_ANS, FEATURE_EXTRACTION.",
        ),
    ],
    ids=["layers", "expression", "prompts", "task"],
)
def test_settings_that_break_their_rules(adapter, values, reason):
    change(adapter, **values)
    refused_by_all(adapter, f"adapter ({adapter}) must have a {CONFIG} that can be used, but: {reason}")


@pytest.mark.parametrize(
    "values", [{"base_model_name_or_path": "a\x1b[2Jb"}, {"id2label": {"0": "a\x1b[2Jb"}}, {"revision": "a\x1b[2Jb"}]
)
def test_names_that_would_write_over_a_terminal(adapter, values):
    change(adapter, **values)
    refused_by_all(
        adapter,
        f"adapter ({adapter}) must name its backbone and its labels in plain text, but there is 'a\\x1b[2Jb'. Get it from "
        "somebody else.",
    )


@pytest.mark.parametrize("value", [7, ["a"], {"a": 1}])
def test_a_backbone_s_name_that_is_no_text(adapter, value):
    change(adapter, base_model_name_or_path=value)
    refused_by_all(
        adapter,
        f"adapter ({adapter}) must name its backbone and its labels in plain text, but there is {value!r}. Get it from somebody "
        "else.",
    )


def test_names_in_any_script_are_plain_text(adapter):
    change(adapter, id2label={"0": "прыжок", "1": "跳", "2": "saut 🤸"})
    assert find_adapter(adapter).config.id2label[1] == "跳"


@pytest.mark.parametrize("place", ["../../etc", "file:///etc/passwd", "user/../..", "/etc", "~root"])
def test_backbones_that_are_nowhere(adapter, place, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    change(adapter, base_model_name_or_path=place)
    for road in (by_evaluate, by_predict, by_convert):
        with pytest.raises(CheckpointError) as told:
            road(adapter)
        assert place in str(told.value)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("clips", "named"),
    [
        ({"segments": 10**9}, "segments 1000000000"),
        ({"crops": 10**6, "size": 0}, "size 0, crops 1000000"),
        ({"mean": [1e300, 0, 0]}, "mean (1e+300, 0, 0)"),
        ({"std": [0, 1, 1]}, "std (0, 1, 1)"),
        ({"sampling": "__import__"}, "sampling '__import__'"),
    ],
)
def test_a_run_file_that_asks_for_too_much(adapter, clips, named):
    good = {
        "num_frames": 4, "sampling": "even", "frame_stride": 4, "size": 16, "resize": "crop", "mean": [0, 0, 0],
        "std": [1, 1, 1], "segments": 1, "crops": 1,
    }  # fmt: skip
    run = {"clips": good | clips, "precision": "float32", "settings": {"batch_size": 2}}
    (adapter / "run.json").write_text(json.dumps(run))
    for road in (by_evaluate, by_predict):
        with raises_exactly(
            CheckpointError,
            f"adapter ({adapter}) must have a run.json as apt-peft train wrote it, but reading it fails: ValueError: clips "
            f"cannot have {named}. Restore the file, or delete it and give the clip settings by flags.",
        ):
            road(adapter)
