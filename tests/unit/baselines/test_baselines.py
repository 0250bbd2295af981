"""Each baseline against its published definition, written out here in plain operations in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import raises_exactly
from models import clips, tiny_videomae
from peft import PeftModel, get_peft_model
from transformers import VideoMAEForPreTraining

import apt_peft.baselines as baselines
from apt_peft import ConfigError, TargetError

CONFIGS = {
    "vpt-deep": lambda **s: baselines.VisualPromptConfig(**({"num_prompt_tokens": 5} | s)),
    "vpt-shallow": lambda **s: baselines.VisualPromptConfig(**({"num_prompt_tokens": 5, "deep": False} | s)),
    "adaptformer": lambda **s: baselines.AdaptFormerConfig(**({"bottleneck": 6} | s)),
    "bitfit": lambda **s: baselines.BitFitConfig(**s),
}
PARTS = ("visual_prompt_", "adaptformer_", "bitfit_")


def adapted(method: str, **settings):
    """A tiny model in float64 with a baseline whose parameters are random, so that all of them make a difference."""
    model = get_peft_model(tiny_videomae().double(), CONFIGS[method](**settings), autocast_adapter_dtype=False).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in PARTS):
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return model


def tensors(model, part: str) -> list[torch.Tensor]:
    return [parameter.detach() for name, parameter in model.named_parameters() if part in name]


def written_out(model, pixels, *, shallow=None, deep=None, branches=None, biases=None):
    """VideoMAE's forward by its definition; `biases` maps a base parameter's name to what is added to it."""
    base = tiny_videomae().double()
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for name, change in (biases or {}).items():
        state[name] += change
    config = base.config
    heads, size, eps = config.num_attention_heads, config.hidden_size, config.layer_norm_eps
    head = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if "modules_to_save" in name and ("fc_norm" in name or "classifier" in name)
    }
    x = F.conv3d(
        pixels.transpose(1, 2),
        state["videomae.embeddings.patch_embeddings.projection.weight"],
        state["videomae.embeddings.patch_embeddings.projection.bias"],
        stride=(2, 8, 8),
    )
    x = x.flatten(2).transpose(1, 2) + base.videomae.embeddings.position_embeddings.double()
    tokens = x.shape[1]
    if shallow is not None:
        x = torch.cat([shallow.expand(len(x), -1, -1), x], 1)
    for index in range(config.num_hidden_layers):
        p = f"videomae.encoder.layer.{index}."

        def linear(y, name, p=p):
            return y @ state[p + name + ".weight"].T + state.get(p + name + ".bias", 0)

        def norm(y, name, p=p):
            centred = y - y.mean(-1, keepdim=True)
            scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
            return scaled * state[p + name + ".weight"] + state[p + name + ".bias"]

        if deep is not None:
            x = torch.cat([deep[index].expand(len(x), -1, -1), x[:, -tokens:]], 1)
        y = norm(x, "layernorm_before")
        q, k, v = (
            linear(y, f"attention.attention.{n}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for n in ("query", "key", "value")
        )
        weights = (q @ k.transpose(-1, -2) / math.sqrt(size // heads)).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), "attention.output.dense")
        y = norm(x, "layernorm_after")
        y = linear(y, "intermediate.dense")
        y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
        y = linear(y, "output.dense")
        if branches is not None:
            down, down_bias, up, up_bias = branches[index]
            y = y + 0.1 * ((x @ down.T + down_bias).clamp(min=0) @ up.T + up_bias)
        x = x + y
    pooled = x[:, -tokens:].mean(1)
    get = {("norm" if "fc_norm" in n else "head", n.rpartition(".")[2]): t for n, t in head.items()}
    pooled = F.layer_norm(pooled, (size,), get["norm", "weight"], get["norm", "bias"], 1e-5)
    return pooled @ get["head", "weight"].T + get["head", "bias"]


def difference(model, **parts) -> float:
    pixels = clips().double()
    with torch.no_grad():
        return (model(pixel_values=pixels).logits - written_out(model, pixels, **parts)).abs().max().item()


def test_the_written_out_model_is_the_backbone():
    model = get_peft_model(tiny_videomae().double(), baselines.BitFitConfig(), autocast_adapter_dtype=False).eval()
    assert difference(model) < 1e-12


def test_deep_visual_prompts_are_as_published():
    model = adapted("vpt-deep")
    prompts = tensors(model, "visual_prompt_tokens")
    assert [tuple(p.shape) for p in prompts] == [(5, 32)] * 3
    assert difference(model, deep=prompts) < 1e-12
    assert difference(model, deep=[torch.zeros_like(p) for p in prompts]) > 1e-3


def test_shallow_visual_prompts_are_as_published():
    model = adapted("vpt-shallow")
    (prompts,) = tensors(model, "visual_prompt_tokens")
    assert difference(model, shallow=prompts) < 1e-12
    assert difference(model, shallow=torch.zeros_like(prompts)) > 1e-3


def test_adaptformer_is_as_published():
    model = adapted("adaptformer")
    parts = tensors(model, "adaptformer_")
    branches = [parts[4 * i : 4 * i + 4] for i in range(3)]
    assert [tuple(t.shape) for t in branches[0]] == [(6, 32), (6,), (32, 6), (32,)]
    assert difference(model, branches=branches) < 1e-12
    assert difference(model) > 1e-3


def test_bitfit_changes_every_bias_outside_the_head_and_no_other_tensor():
    model = adapted("bitfit")
    there = {
        name.replace("base_model.model.", "").replace(".bitfit_bias.default", ".bias"): parameter.detach()
        for name, parameter in model.named_parameters()
        if "bitfit_" in name
    }
    wanted = {name for name, _ in tiny_videomae().named_parameters() if name.endswith(".bias")}
    assert there.keys() == {name for name in wanted if not name.startswith(("fc_norm", "classifier"))}
    assert difference(model, biases=there) < 1e-12
    assert difference(model) > 1e-3


def test_merged_biases_give_the_same_numbers():
    model, pixels = adapted("bitfit"), clips().double()
    with torch.no_grad():
        before = model(pixel_values=pixels).logits
        model.merge_adapter()
        assert torch.allclose(model(pixel_values=pixels).logits, before, atol=1e-12, rtol=0)
        model.unmerge_adapter()
        assert torch.allclose(model(pixel_values=pixels).logits, before, atol=1e-12, rtol=0)
        merged = model.merge_and_unload()
        assert torch.allclose(merged(pixel_values=pixels).logits, before, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("method", "count"),
    [
        ("vpt-deep", 3 * 5 * 32),
        ("vpt-shallow", 5 * 32),
        ("adaptformer", 3 * (6 * 32 + 6 + 32 * 6 + 32)),
        ("bitfit", 32 + 3 * (32 * 2 + 32 + 64 + 32 + 32 * 2)),
    ],
)
def test_trained_are_the_method_s_parameters_and_the_head(method, count):
    model = get_peft_model(tiny_videomae(), CONFIGS[method]())
    assert model.get_nb_trainable_parameters()[0] == count + 32 * 2 + 32 * 3 + 3


def test_visual_prompts_start_as_published():
    torch.manual_seed(0)
    (prompts,) = tensors(get_peft_model(tiny_videomae(), CONFIGS["vpt-shallow"](num_prompt_tokens=2000)), "visual_")
    bound = math.sqrt(6 / (3 * 8 * 8 + 32))
    assert prompts.abs().max() <= bound
    assert prompts.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_adaptformer_starts_at_the_backbone():
    torch.manual_seed(0)
    model = get_peft_model(tiny_videomae(), CONFIGS["adaptformer"](bottleneck=64)).eval()
    down = next(tensor for tensor in tensors(model, "adaptformer_down") if tensor.dim() == 2)
    bound = math.sqrt(6 / ((1 + 5) * 32))  # Kaiming's uniform with a = sqrt(5)
    assert down.abs().max() <= bound
    assert down.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    pixels = clips()
    with torch.no_grad():
        logits = model(pixel_values=pixels).logits
        with model.disable_adapter():
            assert torch.equal(logits, model(pixel_values=pixels).logits)


@pytest.mark.parametrize("method", CONFIGS)
def test_saved_and_loaded(method, tmp_path):
    model, pixels = adapted(method), clips().double()
    model.save_pretrained(str(tmp_path))
    assert {p.name for p in tmp_path.iterdir()} == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    loaded = PeftModel.from_pretrained(
        tiny_videomae().double(), str(tmp_path), autocast_adapter_dtype=False, torch_device="cpu"
    ).eval()
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values=pixels).logits, model(pixel_values=pixels).logits)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("method", CONFIGS)
def test_switched_off_and_taken_off(method):
    model, pixels, plain = adapted(method), clips().double(), tiny_videomae().double()
    with torch.no_grad():
        assert not torch.allclose(model(pixel_values=pixels).logits, plain(pixel_values=pixels).logits, atol=1e-4)
        with model.disable_adapter():
            assert torch.equal(model(pixel_values=pixels).logits, plain(pixel_values=pixels).logits)
        unloaded = model.unload()  # as with every method of PEFT's, the trained head stays
        plain.fc_norm, plain.classifier = unloaded.fc_norm, unloaded.classifier
        assert torch.equal(unloaded(pixel_values=pixels).logits, plain(pixel_values=pixels).logits)
    assert unloaded.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("method", CONFIGS)
def test_every_parameter_gets_a_gradient(method):
    model = adapted(method).train()
    model(pixel_values=clips().double(), labels=torch.tensor([0, 2])).loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained.values())
    assert all(any(part in name for part in (*PARTS, "modules_to_save")) for name in trained)


def test_dropout_of_visual_prompts_is_drawn_for_each_sample():
    model = adapted("vpt-deep", prompt_dropout=0.5).train()
    pixels = clips(batch=1).double().expand(2, -1, -1, -1, -1)
    torch.manual_seed(0)
    logits = model(pixel_values=pixels).logits
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: baselines.VisualPromptConfig(num_prompt_tokens=0),
            "num_prompt_tokens (0) must be a whole number from 1 on.",
        ),
        (
            lambda: baselines.VisualPromptConfig(prompt_dropout=1.0),
            "prompt_dropout (1.0) must be a number of at least 0 and below 1.",
        ),
        (lambda: baselines.AdaptFormerConfig(bottleneck=0), "bottleneck (0) must be a whole number from 1 on."),
        (
            lambda: baselines.AdaptFormerConfig(dropout=-1),
            "dropout (-1) must be a number of at least 0 and below 1.",
        ),
        (lambda: baselines.AdaptFormerConfig(scale=math.inf), "scale (inf) must be a finite number."),
    ],
)
def test_values_that_cannot_be_used(make, message):
    with raises_exactly(ConfigError, message):
        make()


def test_places_that_there_are_not():
    with raises_exactly(
        TargetError,
        "target_modules must be given for a model of type None, but VisualPromptConfig knows places by itself in "
        "VideoMAE alone. Name them.",
    ):
        get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), CONFIGS["vpt-deep"]())
    with raises_exactly(
        TargetError,
        "target_modules must match modules with a bias (Linear, LayerNorm, Conv2d, Conv3d), but it matches a Linear "
        "without one. Leave target_modules out for all that have one.",
    ):
        get_peft_model(tiny_videomae(), baselines.BitFitConfig(target_modules=["key"]))


def test_shallow_prompts_leave_a_pre_training_decoder_alone():
    model = tiny_videomae()
    whole = VideoMAEForPreTraining(model.config)
    wrapped = get_peft_model(whole, CONFIGS["vpt-shallow"]())
    layers = [n for n, m in wrapped.named_modules() if type(m).__name__ == "VisualPromptLayer"]
    assert layers == ["base_model.model.videomae.encoder"]
