"""Baselines on the same road as prompts: trained, saved, and scored again from the folder by another process's means."""

import pytest
import torch
from peft import PeftModel

import apt_peft.baselines  # noqa: F401  (its methods become known to PEFT)
from apt_peft.scoring import EvaluateSettings, evaluate_adapter
from apt_peft.training.base import open_base
from apt_peft.training.train import train

METHODS = {"vpt-deep": 3, "vpt-shallow": 3, "adaptformer": 4, "bitfit": None, "lora": 2, "partial": 1, "full": None}


@pytest.mark.parametrize("method", METHODS)
def test_trained_and_scored_again_with_equal_numbers(method, quick, tmp_path):
    settings = quick(method=method, method_size=METHODS[method], epochs=1, cache="none", val_fraction=0)
    result = train(settings)
    evaluate = EvaluateSettings(
        adapter=str(result.out), data=settings.data, out=str(tmp_path / "again"), threads=1, progress=False
    )
    again, _, _ = evaluate_adapter(evaluate)
    assert torch.allclose(again.scores, result.test.scores, atol=1e-6)
    card = (result.out / "README.md").read_text()
    assert "ttention prompt" not in card or method == "apt"


def test_a_baseline_s_folder_is_an_adapter_of_peft_s(quick):
    result = train(quick(method="vpt-deep", method_size=2, epochs=1, cache="none", val_fraction=0, test=False))
    base = open_base(quick().model, labels=("down", "left", "up"), mean_pooling=True)
    model = PeftModel.from_pretrained(base, str(result.out))
    assert [tuple(p.shape) for n, p in model.named_parameters() if "visual_prompt" in n] == [(2, 32)] * 3
