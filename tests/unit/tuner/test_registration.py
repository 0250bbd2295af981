"""The one touch of PEFT's internals. If this file fails after an upgrade of PEFT, `registration.py` needs a look."""

import copy
import enum
import pickle
import subprocess
import sys

import peft
import pytest
from helpers import raises_exactly
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils.peft_types import PeftType

from apt_peft import AttentionPromptConfig, AttentionPromptModel
from apt_peft.tuner.registration import add_enum_member, register

CHANGED = f"peft {peft.__version__} has changed how methods are registered: see apt_peft/tuner/registration.py"


def test_the_member_behaves_as_peft_s_own():
    member = PeftType.ATTENTION_PROMPT
    assert member in list(PeftType), CHANGED
    assert member == "ATTENTION_PROMPT", CHANGED
    assert isinstance(member, PeftType), CHANGED
    assert PeftType("ATTENTION_PROMPT") is PeftType["ATTENTION_PROMPT"] is member, CHANGED
    assert pickle.loads(pickle.dumps(member)) is copy.deepcopy(member) is member, CHANGED
    assert (member.name, member.value) == ("ATTENTION_PROMPT", "ATTENTION_PROMPT"), CHANGED
    assert repr(member) == repr(PeftType.LORA).replace("LORA", "ATTENTION_PROMPT"), CHANGED
    assert len(PeftType.__members__) == len(set(PeftType)), CHANGED


def test_peft_s_tables_know_the_method():
    member = PeftType.ATTENTION_PROMPT
    assert PEFT_TYPE_TO_CONFIG_MAPPING[member] is AttentionPromptConfig, CHANGED
    assert PEFT_TYPE_TO_TUNER_MAPPING[member] is AttentionPromptModel, CHANGED
    assert PEFT_TYPE_TO_PREFIX_MAPPING[member] == AttentionPromptModel.prefix == "attention_prompt_", CHANGED
    assert member in PEFT_TYPE_TO_CONFIG_MAPPING
    assert "ATTENTION_PROMPT" in PEFT_TYPE_TO_CONFIG_MAPPING, CHANGED  # files hold the name as a string


def test_registering_again_does_nothing():
    before = list(PeftType)
    register("attention_prompt", AttentionPromptConfig, AttentionPromptModel)
    assert list(PeftType) == before


def test_any_string_enumeration():
    class Colour(str, enum.Enum):
        RED = "RED"

    blue = add_enum_member(Colour, "BLUE")
    assert list(Colour) == [Colour.RED, blue]
    assert Colour("BLUE") is Colour["BLUE"] is blue
    assert add_enum_member(Colour, "BLUE") is blue
    with pytest.raises(ValueError, match="'GREEN' is not a valid"):
        Colour("GREEN")


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


EXTRAS = ("av", "matplotlib", "torchvision", "datasets", "onnx", "onnxscript", "onnxruntime")
EXTRAS += ("apt_peft.cli", "apt_peft.checkpoints", "apt_peft.export", "apt_peft.processor", "apt_peft.training")


def loaded_extras(imports: str) -> str:
    return run(f"import sys; {imports}; print([name for name in {EXTRAS} if name in sys.modules])")


def test_importing_loads_no_extra():
    # transformers itself may load torchvision where it is installed, so the comparison is with what we build upon
    bare = loaded_extras(
        "import peft.auto; from transformers import AttentionInterface, AutoModelForVideoClassification"
    )
    assert loaded_extras("import apt_peft") == bare


def test_public_names():
    import apt_peft

    assert apt_peft.__all__ == sorted(apt_peft.__all__)
    assert apt_peft.__all__ == [
        "AptError",
        "AttentionPromptConfig",
        "AttentionPromptModel",
        "AutoPeftModelForVideoClassification",
        "CheckpointError",
        "ClipProcessor",
        "ConfigError",
        "DataError",
        "ExportError",
        "MissingExtraError",
        "TargetError",
        "__version__",
        "gather_adapter_state",
        "hotswap_adapter",
        "hotswap_adapter_from_state_dict",
        "initialize_prompts_from_data",
        "label_counts",
        "prompt_parameter_groups",
        "push_to_hub",
        "write_model_card",
    ]
    assert all(hasattr(apt_peft, name) for name in apt_peft.__all__)
    assert set(apt_peft.__all__) <= set(dir(apt_peft))
    assert apt_peft.hotswap_adapter.__module__ == "apt_peft.hotswap"
    with raises_exactly(AttributeError, "module 'apt_peft' has no attribute 'hotswap_adapters'"):
        _ = apt_peft.hotswap_adapters


def test_a_missing_extra_is_named(monkeypatch):
    from apt_peft.errors import MissingExtraError, require

    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("importlib.import_module", _not_there)
    with raises_exactly(
        MissingExtraError,
        "av must be installed for this, but it is not. Run: pip install 'apt-peft[video]'",
    ):
        require("av", "video")


def _not_there(name: str):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
