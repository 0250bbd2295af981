"""Optimizer groups, the two rules of learning rates, and the schedule against its plain form."""

import math

import pytest
import torch
from helpers import raises_exactly
from models import prompted

from apt_peft import ConfigError
from apt_peft.training.optimizer import LearningRates, learning_rates, prompt_parameter_groups, warmup_cosine


def test_prompts_and_head_get_their_own_rates_and_only_matrices_decay():
    model = prompted()
    groups = {group["name"]: group for group in prompt_parameter_groups(model, lr=0.1, head_lr=0.01, weight_decay=0.5)}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert set(groups) == {"prompts", "head", "head_no_decay"}
    assert all("attention_prompt_" in names[id(parameter)] for parameter in groups["prompts"]["params"])
    assert len(groups["prompts"]["params"]) == 3 * 3  # keys, values and scales of three layers
    assert [names[id(parameter)].split(".")[-4] for parameter in groups["head"]["params"]] == ["classifier"]
    assert all(parameter.ndim == 1 for parameter in groups["head_no_decay"]["params"])
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "prompts": (0.1, 0.5),
        "head": (0.01, 0.5),
        "head_no_decay": (0.01, 0.0),
    }


def test_the_groups_hold_just_what_trains():
    model = prompted()
    held = [parameter for group in prompt_parameter_groups(model, lr=0.1) for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(held) == len({id(parameter) for parameter in held})
    assert {group["lr"] for group in prompt_parameter_groups(model, lr=0.1)} == {0.1}
    torch.optim.AdamW(prompt_parameter_groups(model, lr=0.1))


def test_bad_rates_are_named_at_once():
    with raises_exactly(
        ConfigError,
        "lr (-1.0) must be a finite number of at least 0. head_lr (nan) must be a finite number of at least 0. "
        "weight_decay (inf) must be a finite number of at least 0.",
    ):
        prompt_parameter_groups(prompted(), lr=-1.0, head_lr=math.nan, weight_decay=math.inf)


def test_a_frozen_model_has_nothing_to_train():
    with raises_exactly(
        ConfigError,
        "model must have a parameter that requires grad, but all are frozen. Wrap it with get_peft_model first.",
    ):
        prompt_parameter_groups(prompted().requires_grad_(False), lr=0.1)


@pytest.mark.parametrize(
    ("given", "rates"),
    [
        ({"rule": "absolute", "method": "apt"}, (0.1, 0.01, 0.0, 0.0)),
        ({"rule": "absolute", "method": "apt", "lr": 0.3, "minimum": 1e-5}, (0.3, 0.01, 0.0, 1e-5)),
        ({"rule": "published", "method": "apt"}, (0.0125, 0.0125, 2.5e-7, 2.5e-7)),
        ({"rule": "published", "method": "apt", "lr": 0.4, "head_lr": 0.04}, (0.1, 0.01, 2.5e-7, 2.5e-7)),
        ({"rule": "published", "method": "linear"}, (0.0125, 0.0025, 2.5e-7, 2.5e-7)),
    ],
)
def test_the_two_rules(given, rates):
    found = learning_rates(clips_per_step=64, **given)
    assert (found.prompts, found.head, found.start, found.minimum) == pytest.approx(rates)


def plain_schedule(peak: float, start: float, minimum: float, warmup_steps: int, steps: int) -> list[float]:
    """The published schedule: a straight line that reaches the peak, then a cosine that ends one step after the last."""
    rise = torch.linspace(start, peak, warmup_steps, dtype=torch.float64).tolist() if warmup_steps else []
    left = steps - warmup_steps
    return rise + [minimum + 0.5 * (peak - minimum) * (1 + math.cos(math.pi * i / left)) for i in range(left)]


@pytest.mark.parametrize("warmup_steps", [0, 1, 5])
def test_the_schedule_is_the_plain_one_for_every_group(warmup_steps):
    prompts, head = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.AdamW([{"params": [prompts], "lr": 0.1}, {"params": [head], "lr": 0.01}])
    rates = LearningRates(prompts=0.1, head=0.01, start=1e-4, minimum=1e-3)
    scheduler = warmup_cosine(optimizer, rates=rates, warmup_steps=warmup_steps, steps=20)
    seen = []
    for _ in range(20):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    for column, peak in enumerate((0.1, 0.01)):
        wanted = plain_schedule(peak, 1e-4, 1e-3, warmup_steps, 20)
        assert [row[column] for row in seen] == pytest.approx(wanted)


def test_a_rate_of_zero_stays_zero():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr": 0.0}])
    scheduler = warmup_cosine(optimizer, rates=LearningRates(0, 0, 1e-6, 1e-6), warmup_steps=2, steps=4)
    for _ in range(4):
        assert optimizer.param_groups[0]["lr"] == 0.0
        optimizer.step()
        scheduler.step()
