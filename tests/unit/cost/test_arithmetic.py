"""Multiply-adds and parameters: against torch's counter on real models, PEFT's counts, and the table of the method."""

import pytest
import torch
from helpers import raises_exactly
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, ViTConfig

from apt_peft import AttentionPromptConfig, ConfigError, TargetError
from apt_peft.baselines.methods import method_config, trained_parameters
from apt_peft.cost.arithmetic import BACKBONES, COUNTED, VIT_B, VIT_S, Shapes, multiply_adds, parameters, total

# no two sizes alike, so that none can stand for another
SETTINGS = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 56,
    "image_size": (32, 48),
    "patch_size": (16, 8),
    "num_frames": 6,
    "tubelet_size": 2,
    "use_mean_pooling": True,
    "num_labels": 5,
    "attn_implementation": "eager",
}
CASES = [
    ("linear", 0, None),
    ("full", 0, None),
    ("partial", 1, None),
    ("partial", 3, None),
    ("apt", 7, None),
    ("apt", 7, [1]),
    ("apt", 7, [0, 2]),
    ("apt", 7, [2]),
    ("published", 7, None),
    ("vpt-shallow", 7, None),
    ("vpt-deep", 7, None),
    ("lora", 3, None),
    ("adaptformer", 9, None),
    ("bitfit", 0, None),
    ("ln", 0, None),
    ("ia3", 0, None),
]


def backbone(**changes) -> VideoMAEForVideoClassification:
    with torch.device("meta"):  # counted by shapes there, too
        return VideoMAEForVideoClassification(VideoMAEConfig(**(SETTINGS | changes)))


def wrapped(method: str, size: int, layers: list[int] | None, **changes):
    base = backbone(**changes)
    if method in ("apt", "published"):
        settings = AttentionPromptConfig(num_prompt_tokens=size, layers_to_transform=layers)
    else:
        settings = method_config(method, base, size or None)
    return get_peft_model(base, settings)


def counted(model, *, backward: bool) -> int:
    """Multiply-adds of one clip by torch's counter, which counts two operations for each."""
    config = model.config
    clip = torch.zeros(1, config.num_frames, 3, *config.image_size, device="meta")
    with FlopCounterMode(display=False) as counter:
        loss = model(pixel_values=clip, labels=torch.zeros(1, dtype=torch.long, device="meta")).loss
        if backward:
            loss.backward()
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("method", "size", "layers"), CASES, ids=lambda value: str(value))
@pytest.mark.parametrize("bias", [True, False], ids=["biases", "no biases"])
@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # what PEFT says of norms
def test_forward_and_backward_are_those_that_torch_counts(method, size, layers, bias):
    if method == "adaptformer" and not bias:
        return
    model = wrapped(method, size, layers, qv_bias=bias)
    shapes = Shapes.of_config(model.config)
    work = total(multiply_adds(shapes, method, size, layers))
    assert work.forward == counted(model, backward=False)
    assert work.step == counted(model, backward=True)


def test_the_bare_backbone():
    model = backbone()
    work = total(multiply_adds(Shapes.of_config(model.config)))
    assert (work.forward, work.backward) == (counted(model.requires_grad_(False), backward=False), 0)


@pytest.mark.parametrize(
    ("part", "module"),
    [
        ("patch embedding", "videomae.embeddings"),
        ("query key value", "attention.attention"),
        ("output", "attention.output"),
        ("MLP", "MLP"),
        ("head", "classifier"),
    ],
)
def test_each_part_is_that_of_its_modules(part, module):
    model = backbone().requires_grad_(False)
    clip = torch.zeros(1, 6, 3, 32, 48, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(pixel_values=clip)
    found = {name: sum(kinds.values()) // 2 for name, kinds in counter.get_flop_counts().items()}
    ends = ("intermediate.dense", "layer.{}.output.dense") if module == "MLP" else (module,)
    chosen = {
        name: count
        for name, count in found.items()
        if any(name.endswith(end.format(layer)) for end in ends for layer in range(3))
    }
    parts = multiply_adds(Shapes.of_config(model.config))
    attention = sum(parts[name].forward for name in ("scores", "weighted sum"))
    assert sum(chosen.values()) == parts[part].forward + (part == "query key value") * attention
    assert parts["scores"] == parts["weighted sum"]
    assert attention == 3 * 2 * 2 * 36 * 36 * 12  # layers, products, heads, N x N, D


def test_the_table_of_the_method():
    bare = total(multiply_adds(VIT_B)).forward
    assert VIT_B.tokens == 1568
    assert round(bare / 1e9, 1) == 180.3
    for count, apt, vpt in ((1, 0.03, 0.14), (2, 0.06, 0.29), (100, 2.9, 14.5), (200, 5.8, 29.3), (400, 11.6, 60.0)):
        digits = 2 if count < 100 else 1
        for method, wanted in (("apt", apt), ("vpt-deep", vpt)):
            extra = total(multiply_adds(VIT_B, method, count)).forward - bare
            assert round(extra / 1e9, digits) == wanted, (method, count)
    for count, wanted in ((1, 1_560), (2, 3_120), (100, 156_000), (200, 312_000), (400, 624_000)):
        assert parameters(VIT_B, "apt", count) == wanted


@pytest.mark.filterwarnings("ignore:Unsupported layer type")
@pytest.mark.parametrize(("method", "size", "layers"), [case for case in CASES if case[2] is None], ids=str)
def test_parameters_are_those_of_the_model(method, size, layers):
    config = VideoMAEConfig(**SETTINGS)
    name = "apt" if method == "published" else method
    assert parameters(Shapes.of_config(config), method, size) == trained_parameters(name, config, size or None)


def test_prompts_of_late_layers_leave_nothing_to_do_below_them():
    late = multiply_adds(VIT_S, "apt", 100, [11])
    block = total(multiply_adds(VIT_S.changed(layers=1), "apt", 100))
    assert total(late).backward == block.backward
    assert parameters(VIT_S, "apt", 100, [11]) * 12 == parameters(VIT_S, "apt", 100)


def test_shapes_follow_frames_and_image():
    assert VIT_S.changed(frames=64).tokens == 4 * VIT_S.tokens
    assert VIT_S.changed(image=112).tokens * 4 == VIT_S.tokens
    assert VIT_S.changed(image=(112, 224)).tokens * 2 == VIT_S.tokens
    assert {name: shapes.head_dim for name, shapes in BACKBONES.items()} == dict.fromkeys(BACKBONES, 64)


def test_another_architecture_is_refused():
    with raises_exactly(
        TargetError,
        "model (of type 'vit') must be a VideoMAE, for its shapes are what is counted. Name a VideoMAE.",
    ):
        Shapes.of_config(ViTConfig())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("lora2", 8, None), f"method (lora2) must be one of {', '.join(COUNTED)}. Did you mean lora?"),
        (("full", 8, None), "size (8) must be left out for full, which has none."),
        (("apt", 0, None), "size (0) of apt must be a whole number from 1 on."),
        (("partial", 13, None), "size (13) of partial must be at most the backbone's 12 blocks."),
        (
            ("lora", 8, [11]),
            "layers_to_transform ([11]) must be of prompts, but lora has none.",
        ),
        (
            ("apt", 8, [12]),
            "layers_to_transform ([12]) must name layers of the backbone's 12, 0 to 11.",
        ),
        (("apt", 8, []), "layers_to_transform ([]) must name layers of the backbone's 12, 0 to 11."),
    ],
)
def test_what_cannot_be_counted(given, message):
    for count in (multiply_adds, parameters):
        with raises_exactly(ConfigError, message):
            count(VIT_S, *given)
