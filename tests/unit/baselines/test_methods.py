"""The table of contenders: every method trains, its size is what it says, and the flags know the same names."""

import pytest
import torch
from helpers import raises_exactly
from models import clips, tiny_videomae, videomae_config
from peft import get_peft_model
from transformers import VivitConfig, VivitForVideoClassification

from apt_peft import ConfigError, TargetError, prompt_parameter_groups
from apt_peft.baselines.methods import METHODS, method_config, size_for, trained_parameters
from apt_peft.training.optimizer import learning_rates
from apt_peft.training.settings import TrainSettings
from apt_peft.training.table.run import METHODS as FLAGS

SIZES = {"oft": 8, "lora": 2, "adaptformer": 4, "apt": 4, "vpt-deep": 4, "vpt-shallow": 4}
HEAD = 2 * 32 + 3 * 32 + 3
BLOCK = 4 * 32 * 32 + 3 * 32 + 2 * 32 * 64 + 32 + 64 + 4 * 32  # without a bias of the keys
COUNTS = {  # of the tiny model: 3 blocks of width 32, an MLP of 64, 4 frames of 2 x 2 patches of 8 px, tubelets of 2
    "apt": 3 * (4 * 16 * 2 + 2 * 4),
    "linear": 0,
    "vpt-shallow": 4 * 32,
    "vpt-deep": 3 * 4 * 32,
    "adaptformer": 3 * (2 * 4 * 32 + 4 + 32),
    "bitfit": 32 + 3 * (2 * 32 + 32 + 64 + 32 + 2 * 32),
    "lora": 3 * 2 * 2 * 2 * 32,
    "ia3": 3 * (32 + 32 + 64),
    "oft": 3 * 2 * 4 * (8 * 7 // 2),
    "ln": 3 * 4 * 32,
    "partial": BLOCK,
    "full": 3 * BLOCK + 3 * 2 * 8 * 8 * 32 + 32,
}


def test_flags_and_table_have_the_same_names():
    assert tuple(METHODS) == FLAGS


@pytest.mark.filterwarnings("ignore:Unsupported layer type")
@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains_what_it_says(method):
    base, size = tiny_videomae(), SIZES.get(method)
    model = get_peft_model(base, method_config(method, base, size)).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == COUNTS[method] + HEAD
    assert trained_parameters(method, videomae_config(), size) == COUNTS[method]
    groups = prompt_parameter_groups(model, lr=1.0, head_lr=0.5)
    counts = {rate: sum(p.numel() for g in groups if g["lr"] == rate for p in g["params"]) for rate in (1.0, 0.5)}
    assert counts == {1.0: COUNTS[method], 0.5: HEAD}
    before = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.AdamW(groups)
    for _ in range(2):  # where one factor starts at zero, the other gets no gradient at first
        optimizer.zero_grad()
        model(pixel_values=clips(), labels=torch.tensor([0, 2])).loss.backward()
        optimizer.step()
    assert not [name for name, p in trained.items() if torch.equal(p, before[name])]


@pytest.mark.parametrize("method", ["apt", "vpt-shallow", "vpt-deep", "adaptformer", "lora", "partial"])
def test_sizes_match_a_number_of_parameters(method):
    wanted = trained_parameters(method, videomae_config(), 3)
    assert size_for(method, videomae_config(), wanted) == 3
    assert size_for(method, videomae_config(), 1) == 1


def test_rates_of_a_method():
    rates = {name: learning_rates(rule="absolute", method=name, clips_per_step=8).prompts for name in METHODS}
    assert rates["apt"] == 0.1
    assert rates["full"] < rates["lora"] < rates["apt"]
    assert learning_rates(rule="absolute", method="lora", clips_per_step=8, lr=0.3).prompts == 0.3


def test_what_cannot_be():
    base = tiny_videomae()
    with raises_exactly(
        ConfigError,
        "method (lorra) must be one of apt, linear, vpt-shallow, vpt-deep, adaptformer, bitfit, lora, ia3, oft, ln, partial, "
        "full. Did you mean lora?",
    ):
        method_config("lorra", base)
    with raises_exactly(ConfigError, "method_size (3) must be left out for bitfit, which has no size."):
        method_config("bitfit", base, 3)
    with raises_exactly(ConfigError, "method_size (0) must be a whole number from 1 on."):
        method_config("lora", base, 0)
    with raises_exactly(ConfigError, "method_size (4) of partial must be at most the backbone's 3 blocks."):
        method_config("partial", base, 4)
    with raises_exactly(ConfigError, "method_size (5) of oft must divide the backbone's width of 32."):
        method_config("oft", base, 5)
    with raises_exactly(
        ConfigError,
        "method (bitfit) must have a size that its parameters grow with, but it has none. Compare it as it is.",
    ):
        size_for("bitfit", videomae_config(), 100)
    with torch.device("meta"):
        other = VivitForVideoClassification(VivitConfig())
    with raises_exactly(
        TargetError,
        "method (vpt-deep) must go with a VideoMAE, but the backbone is a vivit. These work with it: apt, linear, bitfit, full.",
    ):
        method_config("vpt-deep", other)
    with raises_exactly(
        ConfigError,
        "method_size (4) must go with a baseline, but method is apt. For prompts, take --num-prompt-tokens.",
    ):
        TrainSettings(model="m", data="d", out="o", method_size=4)
