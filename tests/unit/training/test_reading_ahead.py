"""Workers of the training read as many batches ahead as they are told."""

import pytest
import torch
from torch.utils.data import TensorDataset
from transformers import Trainer

from apt_peft.training.settings import TrainSettings
from apt_peft.training.trainer import training_arguments


@pytest.mark.parametrize(("given", "ahead"), [({}, None), ({"workers": 2}, 2), ({"workers": 2, "prefetch": 5}, 5)])
def test_the_loader_reads_so_many_batches_ahead(tmp_path, given, ahead):
    settings = TrainSettings(model="m", data="d", out="o", device="cpu", **given)
    arguments = training_arguments(settings, folder=tmp_path, validates=False)
    trainer = Trainer(torch.nn.Linear(1, 1), arguments, train_dataset=TensorDataset(torch.zeros(4, 1)))
    assert trainer.get_train_dataloader().prefetch_factor == ahead
