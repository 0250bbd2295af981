"""Checkpoints of a Trainer of the user's own on a model with prompts: the best one, the last one, and after a kill."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from helpers import killed_when
from models import clips, prompted, tiny_videomae
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from trainers import Clips, difference, run, trained
from transformers import EarlyStoppingCallback, Trainer

from apt_peft import AttentionPromptConfig


def train_to_the_best(model, arguments) -> tuple[Trainer, list[float]]:
    """Ten epochs at most at a rate that soon overshoots; the validation loss of each."""
    trainer = Trainer(
        model,
        arguments(
            num_train_epochs=10,
            learning_rate=0.3,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            greater_is_better=False,
        ),
        train_dataset=Clips(),
        eval_dataset=Clips(6, seed=9),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == losses.index(min(losses)) + 3 < 10
    return trainer, losses


def test_the_best_epoch_is_loaded_after_an_early_stop(arguments):
    trainer, losses = train_to_the_best(prompted(), arguments)
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name == f"checkpoint-{3 * (losses.index(min(losses)) + 1)}"
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), abs=1e-6)
    saved = load_file(best / "adapter_model.safetensors")
    names = {
        name.replace(".default", "").replace(".modules_to_save", ""): tensor
        for name, tensor in trained(trainer.model).items()  # all of it may still be trained
    }
    assert saved.keys() == names.keys()
    assert all(torch.equal(saved[name], names[name]) for name in saved)


def test_the_best_epoch_of_an_adapter_of_another_name_is_loaded_by_hand(arguments):
    """Trainer reads the outer folder of the checkpoint only, which holds the adapter named `default`; LoRA alike."""
    config = AttentionPromptConfig(num_prompt_tokens=5, prompt_dropout=0.0, init_weights=False)
    model = get_peft_model(tiny_videomae(), config, adapter_name="mine")
    trainer, losses = train_to_the_best(model, arguments)
    model.load_adapter(f"{trainer.state.best_model_checkpoint}/mine", "mine")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), abs=1e-6)


def two_adapters():
    model = prompted(prompt_dropout=0.2)
    torch.manual_seed(5)
    model.add_adapter("second", AttentionPromptConfig(num_prompt_tokens=3, init_weights=False))
    model.set_adapter("second")
    return model


def test_one_adapter_of_two_is_resumed_exactly(arguments, tmp_path):
    settings = {"num_train_epochs": 3, "save_strategy": "epoch"}
    whole = run(two_adapters(), arguments(**settings)).model
    cut = two_adapters()
    trainer = Trainer(cut, arguments(**settings, output_dir=str(tmp_path / "cut")), train_dataset=Clips())
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert trainer.state.global_step == 9
    assert cut.active_adapters == ["second"]
    assert difference(trained(whole), trained(cut)) == 0
    assert all(".second" in name for name in trained(cut))


def test_a_model_of_transformers_own_mixin_trains_and_is_not_resumed(arguments, tmp_path):
    """Trainer takes such a model for a whole one when it loads a checkpoint; LoRA alike."""
    model = tiny_videomae()
    model.add_adapter(AttentionPromptConfig(num_prompt_tokens=5, prompt_dropout=0.0, init_weights=False))
    start = trained(model)
    trainer = run(model, arguments(save_strategy="epoch"))
    moved = trained(model)
    assert all(not torch.equal(moved[name], start[name]) for name in start)
    last = tmp_path / "run" / "checkpoint-6"
    loaded = PeftModel.from_pretrained(tiny_videomae(), last).eval()
    assert torch.equal(loaded(clips()).logits, model.eval()(clips()).logits)
    with pytest.raises(ValueError, match="Can't find a checkpoint index"):
        trainer.train(resume_from_checkpoint=str(last))


EXAMPLE = Path(__file__).parents[2] / "examples" / "train_trainer.py"


@pytest.fixture
def example(backbone, data, monkeypatch):
    """Words of the command line of the example, and a way to run it in this process."""

    def words(out: Path, *more: str) -> list[str]:
        flags = {"--model": backbone, "--data": data, "--out": out, "--num-prompt-tokens": 3, "--epochs": 20}
        return [*(str(word) for pair in flags.items() for word in pair), "--batch-size", "4", *more]

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", [EXAMPLE.name, *words])
        runpy.run_path(str(EXAMPLE), run_name="__main__")

    return words, run


def test_a_killed_script_resumes_bit_for_bit(example, tmp_path):
    words, run = example
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    killed_when(lambda: len(list(cut.glob("checkpoints/checkpoint-*/trainer_state.json"))) >= 2, EXAMPLE, *words(cut))
    assert not (cut / "adapter_model.safetensors").exists()
    torn = cut / "checkpoints" / "checkpoint-57"  # as a kill in the middle of a save leaves it
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"epoch": 19')

    run(*words(cut, "--resume"))
    run(*words(whole, "--resume"))  # nothing to resume: from the beginning
    saved = [load_file(out / "adapter_model.safetensors") for out in (whole, cut)]
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
    states = [
        json.loads((out / "checkpoints" / "checkpoint-60" / "trainer_state.json").read_text()) for out in (whole, cut)
    ]
    losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in states]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 20
