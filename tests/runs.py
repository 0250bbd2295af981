"""A tiny backbone in a folder and tiny clips in class folders, made once; and the settings of a quick run on them."""

from pathlib import Path

import pytest
import torch
from clips import write_classes
from models import tiny_videomae
from safetensors.torch import load_file, save_file

from apt_peft.training.settings import TrainSettings
from apt_peft.training.trainer import PromptTrainer


@pytest.fixture(scope="session")
def backbone(tmp_path_factory) -> Path:
    """A random VideoMAE of 3 layers, 4 frames of 16 px, as a user's folder; its own config knows two labels."""
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    tiny_videomae(num_labels=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Three classes: four training clips and two test clips each."""
    root = tmp_path_factory.mktemp("data")
    size = {"num_frames": 6, "width": 32, "height": 24}
    write_classes(root / "train", ["down", "left", "up"], clips=4, **size)
    write_classes(root / "test", ["down", "left", "up"], clips=2, **size)
    return root


@pytest.fixture
def quick(backbone, data, tmp_path):
    """Settings of a run of seconds; any of them may be given."""

    def settings(**changes) -> TrainSettings:
        values = {
            "model": str(backbone),
            "data": str(data),
            "out": str(tmp_path / "run"),
            "epochs": 2,
            "batch_size": 4,
            "num_prompt_tokens": 3,
            "threads": 1,
            "progress": False,
        }
        return TrainSettings(**(values | changes))

    return settings


@pytest.fixture
def steps(monkeypatch) -> list[dict]:
    """What each call of the loss saw and gave."""
    seen = []
    original = PromptTrainer.loss

    def noted(self, outputs, labels, **options):
        loss = original(self, outputs, labels, **options)
        step = {"step": self.state.global_step, "logits": outputs.logits.detach().double(), "labels": labels.clone()}
        seen.append(step | {"loss": loss.item()})
        return loss

    monkeypatch.setattr(PromptTrainer, "loss", noted)
    return seen


def let_prompts_matter(adapter: Path) -> None:
    """Change an adapter that was trained for a moment only, so that prompts, scales and head have a say in its logits.

    Args:
        adapter: its folder, changed in place.
    """
    weights = load_file(adapter / "adapter_model.safetensors")
    for name, value in weights.items():
        if "attention_prompt_" in name:
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))) + 1)
        if "classifier.weight" in name:
            value.mul_(20)  # logits are some tenths
    save_file(weights, adapter / "adapter_model.safetensors")
