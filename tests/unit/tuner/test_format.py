"""Adapters that earlier versions saved, kept as files: every version must load them with equal logits."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification

FIXTURES = Path(__file__).parents[2] / "fixtures"
ADAPTERS = sorted(path.parent for path in FIXTURES.glob("adapter_v*/*/adapter_config.json"))


def test_there_are_files_of_every_format_version():
    from apt_peft.tuner.config import FORMAT_VERSION

    versions = {path.parent.name for path in ADAPTERS}
    assert versions == {f"adapter_v{version}" for version in range(1, FORMAT_VERSION + 1)}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_loads_with_equal_logits(adapter):
    expected = load_file(adapter / "expected.safetensors")
    base = AutoModelForVideoClassification.from_pretrained(adapter.parent / "base")
    model = PeftModel.from_pretrained(base, adapter).eval()
    assert torch.allclose(model(expected["pixel_values"]).logits, expected["logits"], atol=1e-6)
    assert model.config.id2label == {0: "jump", 1: "sit", 2: "stand", 3: "turn"}
