"""A Trainer of the user's own on a model from get_peft_model, as with LoRA: what it offers works on prompts and head."""

import copy

import optuna
import pytest
import torch
from architectures import ARCHITECTURES, build
from models import clips, prompted, tiny_videomae
from peft import PeftModel
from trainers import Clips, Weights, difference, run, trained
from transformers import Trainer

from apt_peft import prompt_parameter_groups


def loss_of_all(outputs, labels, num_items_in_batch=None) -> torch.Tensor:
    """The mean over all clips of an optimizer step, as docs/transformers.md has it."""
    total = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


# V-JEPA 2, TimeSformer, BEiT, CLIP and SigLIP are offered the count of clips and do not use it; LoRA alike.
ACCUMULATED = {"videomae": None, "vivit": None, "vjepa2": loss_of_all, "timesformer": loss_of_all}


@pytest.mark.parametrize(("name", "loss"), ACCUMULATED.items(), ids=ACCUMULATED)
@pytest.mark.parametrize(("batch", "parts"), [(4, 3), (5, 3)], ids=["equal parts", "unequal parts"])
def test_accumulated_gradients_are_those_of_the_big_batch(arguments, name, loss, batch, parts):
    dataset = Clips(inputs=ARCHITECTURES[name].inputs(batch=12))
    torch.manual_seed(0)
    model = prompted(model=build(name))
    by_hand = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD([p for p in by_hand.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        logits = by_hand(**dataset.inputs).logits
        torch.nn.functional.cross_entropy(logits, dataset.labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": parts, "max_grad_norm": 0.0}
    trainer = Trainer(
        model,
        arguments(**settings, optim="sgd", learning_rate=0.01),
        train_dataset=dataset,
        compute_loss_func=loss,
    )
    before = trained(model)
    trainer.train()
    assert trainer.state.global_step == 2
    assert difference(trained(by_hand), before) > 1e-3
    assert difference(trained(by_hand), trained(model)) <= 1e-6


def test_compiled_training_is_training(arguments, tmp_path):
    plain = run(prompted(), arguments()).model
    torch.compiler.reset()
    trainer = run(prompted(), arguments(torch_compile=True, torch_compile_backend="aot_eager"))
    assert isinstance(trainer.model_wrapped, torch._dynamo.OptimizedModule)
    assert difference(trained(plain), trained(trainer.model)) <= 1e-6
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(tiny_videomae(), tmp_path / "adapter").eval()
    assert torch.equal(loaded(clips()).logits, trainer.model.eval()(clips()).logits)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing")  # named activation_checkpointing from 5.23 on
@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_gradient_checkpointing_trains_the_same(arguments, use_reentrant):
    kind = {"gradient_checkpointing_kwargs": {"use_reentrant": use_reentrant}}
    checkpointed = trained(run(prompted(prompt_dropout=0.2), arguments(gradient_checkpointing=True, **kind)).model)
    plain = trained(run(prompted(prompt_dropout=0.2), arguments()).model)
    # A checkpointed block gives its input a gradient, so that the first layer sums in another order.
    assert difference(checkpointed, plain) <= 1e-6


def test_bf16_computes_in_bf16_and_keeps_float32(arguments):
    model = prompted()
    start, base = trained(model), tiny_videomae().state_dict()
    seen = set()
    model.base_model.model.videomae.encoder.layer[0].attention.attention.base_layer.query.register_forward_hook(
        lambda module, args, output: seen.add(output.dtype)
    )
    half = run(model, arguments(bf16=True, logging_strategy="epoch")).state.log_history
    full = run(prompted(), arguments(logging_strategy="epoch")).state.log_history
    assert seen == {torch.bfloat16}
    moved = trained(model)
    assert {tensor.dtype for tensor in moved.values()} == {torch.float32}
    assert all(not torch.equal(moved[name], start[name]) for name in start)
    assert half[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.02)
    plain = model.unload().state_dict()
    assert all(torch.equal(tensor, base[name]) for name, tensor in plain.items())


def out_of_memory(model, most: int, call: int = 1) -> list[tuple[int, Weights]]:
    """From some call on, ask the allocator for more than there is where a batch is larger than `most`.

    Returns:
        The size of every batch tried, and the weights at that moment.
    """
    tried: list[tuple[int, Weights]] = []

    def before(module, args, inputs) -> None:
        size = len(inputs["pixel_values"])
        tried.append((size, trained(model)))
        if size > most and len(tried) >= call:
            torch.empty(size, 2**50)  # DefaultCPUAllocator: can't allocate memory

    model.register_forward_pre_hook(before, with_kwargs=True)
    return tried


def test_a_batch_that_is_too_big_is_tried_smaller_from_the_same_weights(arguments):
    model = prompted()
    start, tried = trained(model), out_of_memory(model, most=4)
    run(model, arguments(auto_find_batch_size=True, per_device_train_batch_size=6))
    assert [size for size, _ in tried] == [6, 5] + 6 * [4]
    assert all(difference(weights, start) == 0 for _, weights in tried[:3])
    assert difference(trained(model), trained(run(prompted(), arguments()).model)) == 0


def test_memory_that_runs_out_later_keeps_what_was_trained(arguments):
    """transformers' Trainer counts its steps anew, but takes the weights as they are; LoRA alike."""
    model = prompted()
    start, tried = trained(model), out_of_memory(model, most=3, call=3)
    trainer = run(model, arguments(auto_find_batch_size=True, num_train_epochs=1))
    assert [size for size, _ in tried] == [4, 4, 4, 3, 3, 3, 3]
    assert trainer.state.global_step == 4
    assert difference(tried[3][1], tried[2][1]) == 0
    assert difference(tried[3][1], start) > 0.01


def test_a_search_makes_a_new_model_for_each_trial(arguments):
    made, rates = [], []

    def model_init(trial):
        made.append(trial.suggest_int("num_prompt_tokens", 2, 6) if trial else 1)  # Trainer makes one to look at first
        return prompted(num_prompt_tokens=made[-1])

    class PromptTrainer(Trainer):
        def create_optimizer(self, model=None) -> torch.optim.Optimizer:
            if self.optimizer is None:
                rate = self.args.learning_rate
                groups = prompt_parameter_groups(self.model, lr=rate, head_lr=rate / 10)
                rates.append({group["name"]: group["lr"] for group in groups})
                self.optimizer = torch.optim.AdamW(groups)
            return self.optimizer

    trainer = PromptTrainer(
        model_init=model_init,
        args=arguments(num_train_epochs=1, eval_strategy="epoch"),
        train_dataset=Clips(),
        eval_dataset=Clips(6, seed=9),
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)},
        direction="minimize",
        backend="optuna",
        n_trials=3,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    assert set(best.hyperparameters) == {"num_prompt_tokens", "learning_rate"}
    assert best.hyperparameters["num_prompt_tokens"] in made[1:]
    assert len(made) == 4
    assert len({entry["prompts"] for entry in rates}) == 3
    assert all(entry["head"] == pytest.approx(entry["prompts"] / 10) for entry in rates)

    # The winner once more, by itself: nothing of the other trials came into it.
    alone = PromptTrainer(
        model_init=lambda: prompted(num_prompt_tokens=best.hyperparameters["num_prompt_tokens"]),
        args=arguments(num_train_epochs=1, learning_rate=best.hyperparameters["learning_rate"]),
        train_dataset=Clips(),
        eval_dataset=Clips(6, seed=9),
    )
    alone.train()
    assert alone.evaluate()["eval_loss"] == pytest.approx(best.objective, abs=1e-6)
