"""One process, and what a launcher says; several are in `integration/test_processes.py`."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from helpers import raises_exactly
from torch.utils.data import DataLoader

from apt_peft import ConfigError
from apt_peft.training import processes
from apt_peft.training.trainer import PromptTrainer


@pytest.mark.parametrize(
    ("variable", "name"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")]
)
def test_sharded_training_is_refused(monkeypatch, variable, name):
    monkeypatch.setenv(variable, "true")
    with raises_exactly(
        ConfigError,
        f"{name} ({variable}=true) must be left out, but apt-peft keeps a whole model in each process. "
        "Launch it without a config file, or train by examples/train_accelerate.py.",
    ):
        processes.join("cpu")
    monkeypatch.setenv(variable, "false")
    processes.join("cpu")


def test_one_process_is_the_first_and_the_only_one():
    assert (processes.rank(), processes.world_size()) == (0, 1)
    assert processes.gather("part") == ["part"]
    assert processes.on_first(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        processes.on_first(lambda: 1 // 0)
    processes.wait_for_all()
    processes.leave()


@pytest.mark.parametrize(("clips", "counts"), [(7, [3, 3, 1]), (6, [3, 3]), (2, [2])])
def test_every_clip_counts_in_one_process(clips, counts):
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(torch.arange(clips), batch_size=3))
    assert [processes.count_clips(accelerator, len(batch)) for batch in loader] == [(n, n) for n in counts]


@pytest.mark.parametrize(("process", "kept"), [(0, [5, 5, -100, -100]), (1, [-100] * 4)])
def test_all_copies_of_clips_that_only_fill_up_lose_their_labels(process, kept):
    """One clip is left for the last batches of two processes, which Accelerate fills up; each clip stands there twice."""
    state = SimpleNamespace(end_of_dataloader=True, remainder=1)
    accelerator = SimpleNamespace(gradient_state=state, num_processes=2, process_index=process)
    trainer = SimpleNamespace(settings=SimpleNamespace(repeated_augmentation=2), accelerator=accelerator)
    batch = PromptTrainer._without_repeats(trainer, {"labels": torch.tensor([5, 5, 7, 7])})
    assert batch["labels"].tolist() == kept
