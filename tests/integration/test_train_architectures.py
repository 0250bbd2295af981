"""`apt-peft train` and `evaluate` on a backbone of every architecture that transformers has for videos."""

import json

import pytest
import torch
from architectures import ARCHITECTURES, AVAILABLE, build, inputs_for
from peft import PeftModel
from transformers import AutoModelForVideoClassification

from apt_peft.evaluation import clip_logits
from apt_peft.scoring import EvaluateSettings, evaluate_adapter
from apt_peft.training.train import train


@pytest.mark.parametrize("name", [name for name in AVAILABLE if ARCHITECTURES[name].video])
def test_trained_from_a_bare_backbone(name, quick, tmp_path):
    """As the checkpoints of V-JEPA 2 and VideoPrism are: an encoder, for which pooler and classifier are new."""
    model = build(name)
    getattr(model, model.base_model_prefix).save_pretrained(tmp_path / "base")
    result = train(quick(model=str(tmp_path / "base"), epochs=1, init_weights="data", gradient_checkpointing=True))
    run = json.loads((result.out / "run.json").read_text())
    assert run["clips"]["num_frames"] == (model.config.num_frames if name != "vjepa2" else model.config.frames_per_clip)
    again, split, _ = evaluate_adapter(
        EvaluateSettings(adapter=str(result.out), data=run["settings"]["data"], progress=False)
    )
    assert split == "test"
    assert torch.equal(again.scores, result.test.scores)

    base = AutoModelForVideoClassification.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(base, result.out)
    assert clip_logits(loaded(**inputs_for(name)).logits, 2).shape == (2, 3)
    heads = {key.split(".modules_to_save")[0].removeprefix("base_model.model.") for key, _ in loaded.named_parameters()
             if ".modules_to_save." in key}  # fmt: skip
    assert heads == set(ARCHITECTURES[name].heads)
