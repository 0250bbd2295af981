"""A tiny data set in memory for a Trainer of the user's own, and what is looked at after it ran."""

import pytest
import torch
from models import clips
from transformers import Trainer, TrainingArguments

Weights = dict[str, torch.Tensor]


class Clips(torch.utils.data.Dataset):
    """Random clips of three classes, a little brighter from class to class."""

    def __init__(self, count: int = 12, seed: int = 1, inputs: dict[str, torch.Tensor] | None = None) -> None:
        self.labels = torch.arange(count) % 3
        brighter = {"pixel_values": clips(count, seed) + 0.5 * self.labels[:, None, None, None, None]}
        self.inputs = brighter if inputs is None else inputs

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {name: tensor[index] for name, tensor in self.inputs.items()} | {"labels": int(self.labels[index])}


@pytest.fixture
def arguments(tmp_path):
    """Arguments of a plain Trainer: two epochs of three steps; any argument may be given."""

    def arguments(**given) -> TrainingArguments:
        values = {
            "output_dir": str(tmp_path / "run"),
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 0.05,
            "lr_scheduler_type": "constant",
            "save_strategy": "no",
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
            "log_level": "error",
            "report_to": "none",
        }
        return TrainingArguments(**(values | given))

    return arguments


def trained(model) -> Weights:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def difference(one: Weights, other: Weights) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def run(model, arguments: TrainingArguments, **options) -> Trainer:
    trainer = Trainer(model, arguments, train_dataset=Clips(), **options)
    trainer.train()
    return trainer
