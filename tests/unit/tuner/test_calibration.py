"""Prompts that start from the backbone's own keys and values."""

import random

import numpy as np
import pytest
import torch
from helpers import raises_exactly
from models import clips, prompt_layers, prompted, tiny_videomae
from peft import PeftModel, get_peft_model
from torch.utils.data import DataLoader

from apt_peft import AttentionPromptConfig, ConfigError, initialize_prompts_from_data

BATCH = [{"pixel_values": clips(4), "labels": torch.tensor([0, 1, 2, 0])}]
UNCALIBRATED = (
    "init_weights (\"data\") of adapter 'default' must be carried out before the first forward. "
    "Call apt_peft.initialize_prompts_from_data(model, dataloader)."
)


def waiting(**settings):
    return prompted(init_weights="data", **settings)


def prompts(model) -> list[torch.Tensor]:
    return [p.detach().clone() for name, p in model.named_parameters() if "attention_prompt_" in name]


def keys_and_values(layer_index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the frozen model computes, (B, H, N, D) each, read off its projections by hooks."""
    model = tiny_videomae()
    attention = model.videomae.encoder.layer[layer_index].attention.attention
    seen = {}
    for name in ("key", "value"):
        getattr(attention, name).register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
    model(clips(4))
    return tuple(seen[name].view(4, 8, 2, 16).transpose(1, 2) for name in ("key", "value"))


def rows(pool: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in pool.reshape(-1, 16).tolist()}


@pytest.mark.parametrize("reparameterization", ["max", "softplus", "none"])
def test_prompts_are_keys_with_their_values(reparameterization):
    model = waiting(reparameterization=reparameterization)
    initialize_prompts_from_data(model, BATCH)
    for index, layer in enumerate(prompt_layers(model)):
        key, value = keys_and_values(index)
        pairs = {
            tuple(k) + tuple(v)
            for k, v in zip(key.reshape(-1, 16).tolist(), value.reshape(-1, 16).tolist(), strict=True)
        }
        own = torch.cat(layer.active_prompts()[:2], -1)
        assert {tuple(row) for row in own.tolist()} <= pairs
        assert len(set(map(tuple, own.tolist()))) == 5


def test_each_head_samples_its_own_tokens():
    model = waiting(share_prompts_across_heads=False)
    initialize_prompts_from_data(model, BATCH)
    for index, layer in enumerate(prompt_layers(model)):
        key, _ = keys_and_values(index)
        own = layer.active_prompts().keys
        assert own.shape == (2, 5, 16)
        for head in range(2):
            assert rows(own[head]) <= rows(key[:, head])


def test_more_prompts_than_positions():
    model = waiting(num_prompt_tokens=100)
    initialize_prompts_from_data(model, BATCH)
    key, _ = keys_and_values(0)
    assert rows(prompt_layers(model)[0].active_prompts()[0]) <= rows(key)


def test_the_seed_decides():
    runs = []
    for seed in (0, 0, 1):
        model = waiting()
        initialize_prompts_from_data(model, BATCH, seed=seed)
        runs.append(prompts(model))
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0][0], runs[2][0])


@pytest.mark.parametrize("training", [True, False])
def test_mode_base_and_random_states_stay(training):
    model = waiting(prompt_dropout=0.5)
    model.train(training)
    model.base_model.model.videomae.embeddings.training = not training  # a module may have a mode of its own
    modes = [module.training for module in model.modules()]
    base = {n: p.detach().clone() for n, p in model.named_parameters() if "attention_prompt_" not in n}
    loader = DataLoader([{"pixel_values": clips(1)[0]} for _ in range(8)], batch_size=4, shuffle=True)
    torch.manual_seed(11), random.seed(11), np.random.seed(11)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(11), random.seed(11), np.random.seed(11)
    initialize_prompts_from_data(model, loader)
    assert (torch.rand(1), random.random(), np.random.rand()) == expected
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(base[n], p) for n, p in model.named_parameters() if n in base)
    assert all(layer.recorder is None for layer in prompt_layers(model))


def test_training_mode_makes_no_difference():
    both = []
    for training in (True, False):
        model = waiting(
            prompt_dropout=0.5, model=tiny_videomae(attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.5)
        )
        model.train(training)
        initialize_prompts_from_data(model, BATCH)
        both.append(prompts(model))
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def test_a_forward_without_it_is_an_error_and_afterwards_none():
    model = waiting()
    with raises_exactly(ConfigError, UNCALIBRATED):
        model(clips())
    with model.disable_adapter():
        model(clips())
    initialize_prompts_from_data(model, BATCH)
    model(clips())


def test_a_reloaded_adapter_needs_none(tmp_path):
    model = waiting()
    initialize_prompts_from_data(model, BATCH)
    logits = model(clips()).logits
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_videomae(), tmp_path).eval()
    assert loaded.peft_config["default"].init_weights == "data"
    assert torch.equal(loaded(clips()).logits, logits)


def test_an_adapter_saved_before_it_still_needs_it_as_a_new_model_does(tmp_path):
    from transformers import AutoModelForVideoClassification

    tiny_videomae().save_pretrained(tmp_path / "base")
    model = waiting(model=AutoModelForVideoClassification.from_pretrained(tmp_path / "base"))
    assert model.peft_config["default"].data_initialized is False
    fresh = get_peft_model(tiny_videomae(), AttentionPromptConfig(num_prompt_tokens=5, init_weights="data"))
    fresh.load_state_dict(model.state_dict())  # a state dict brings prompts, whatever they are
    fresh(clips())


def test_only_the_named_adapter_is_set():
    model = prompted()
    before = prompts(model)
    model.add_adapter("other", AttentionPromptConfig(num_prompt_tokens=2, init_weights="data", modules_to_save=[]))
    initialize_prompts_from_data(model, BATCH, adapter_name="other")
    assert model.peft_config["other"].data_initialized
    assert not model.peft_config["default"].data_initialized
    own = [p for n, p in model.named_parameters() if "attention_prompt_" in n and n.endswith(".default")]
    assert all(torch.equal(a, b) for a, b in zip(before, own, strict=True))


def test_a_tensor_is_a_batch_too():
    first, second = waiting(), waiting()
    initialize_prompts_from_data(first, BATCH)
    initialize_prompts_from_data(second, [clips(4)])
    assert torch.equal(prompts(first)[0], prompts(second)[0])


def test_a_config_may_be_used_again():
    config = AttentionPromptConfig(num_prompt_tokens=5, init_weights="data")
    first = get_peft_model(tiny_videomae(), config)
    initialize_prompts_from_data(first, BATCH)
    second = get_peft_model(tiny_videomae(1, num_labels=4), config).eval()
    assert (config.data_initialized, config.id2label, config.modules_to_save) == (False, None, None)
    with raises_exactly(ConfigError, UNCALIBRATED):
        second(clips())
    assert len(second.peft_config["default"].id2label) == 4
    assert first.peft_config["default"].data_initialized


def test_a_batch_that_is_not_finite_changes_nothing():
    model = waiting()
    before = prompts(model)
    batch = {"pixel_values": clips(4)}
    batch["pixel_values"][1] = float("nan")
    with raises_exactly(
        ConfigError,
        "dataloader must yield clips with finite keys and values, but those of its first batch are not. Check its "
        "pixel_values, and the backbone's weights and dtype.",
    ):
        initialize_prompts_from_data(model, [batch])
    assert all(torch.equal(a, b) for a, b in zip(before, prompts(model), strict=True))
    with raises_exactly(ConfigError, UNCALIBRATED):
        model(clips())


def test_wrong_use():
    with raises_exactly(
        ConfigError,
        "adapter_name ('x') must be an adapter with attention prompts, but the model has none of that name. "
        "Call get_peft_model(model, AttentionPromptConfig(...)) first.",
    ):
        initialize_prompts_from_data(waiting(), BATCH, adapter_name="x")
    with raises_exactly(
        ConfigError, "dataloader must yield a batch, but it is empty. Pass one with at least one clip."
    ):
        initialize_prompts_from_data(waiting(), [])
    with raises_exactly(
        ConfigError,
        "dataloader must yield mappings with pixel_values, or tensors, but its first batch is a list. "
        'Yield {"pixel_values": ...}.',
    ):
        initialize_prompts_from_data(waiting(), [[clips()]])
