"""The roads by which an adapter comes from the Hub."""

import torch
from helpers import raises_exactly
from models import clips
from peft import AutoPeftModel, PeftModel
from transformers import AutoModelForVideoClassification

from apt_peft import AutoPeftModelForVideoClassification, CheckpointError
from apt_peft.scoring import PredictSettings, open_adapter

ADAPTER, CONFIG, WEIGHTS = "me/adapter", "adapter_config.json", "adapter_model.safetensors"


def by_auto(name: str = ADAPTER, **options) -> PeftModel:
    return AutoPeftModelForVideoClassification.from_pretrained(name, **options).eval()


def by_peft(name: str = ADAPTER, **options) -> PeftModel:
    base = AutoModelForVideoClassification.from_pretrained("me/base")
    return PeftModel.from_pretrained(base, name, **options).eval()


def by_peft_auto(name: str = ADAPTER, **options) -> PeftModel:
    return AutoPeftModel.from_pretrained(name, **options).eval()


def by_command(name: str = ADAPTER, **options) -> PeftModel:
    return open_adapter(PredictSettings(adapter=name, clips="c", **options)).model


ROADS = [by_auto, by_peft, by_peft_auto, by_command]
OURS = [by_auto, by_command]


def scores(model: PeftModel) -> torch.Tensor:
    with torch.no_grad():
        return model(clips()).logits


def refused(reason: str, file: str = CONFIG, name: str = ADAPTER):
    return raises_exactly(CheckpointError, f"{file} of {name} must be on the Hub, but {reason}")
