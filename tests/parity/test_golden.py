"""The published method to 1e-6, against values that the reference model computed in float64.

The road is the public one: `apt-peft convert`'s files, `PeftModel.from_pretrained`, autograd, torch's SGD.
"""

from pathlib import Path

import pytest
import torch
from models import clips, prompt_layers, tiny_videomae
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification, VideoMAEForPreTraining

from apt_peft import AttentionPromptConfig
from apt_peft.checkpoints.convert import convert_checkpoint
from apt_peft.checkpoints.options import CheckpointOptions

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
NAMES = ["apt_all_layers", "apt_middle_layers", "apt_no_reparam"]
TOLERANCE = 1e-6
IMPLEMENTATIONS = ["eager", "sdpa"]


def expected(name: str) -> dict[str, torch.Tensor]:
    values = load_file(GOLDEN / f"{name}.expected.safetensors")
    return {key: value.double() if value.is_floating_point() else value for key, value in values.items()}


@pytest.fixture(scope="module", params=NAMES)
def converted(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("golden") / request.param
    convert_checkpoint(GOLDEN / f"{request.param}.pth", out)
    return request.param, out


def load(out: Path, implementation: str) -> PeftModel:
    base = AutoModelForVideoClassification.from_pretrained(out / "base", attn_implementation=implementation)
    base.fc_norm.eps = 1e-6  # the reference's; transformers' is 1e-5, whatever the config says
    model = PeftModel.from_pretrained(base.double(), out / "adapter", is_trainable=True).double()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == 1e-6
    for layer in prompt_layers(model):  # the golden values were computed without dropout
        layer.prompt_dropout["default"] = 0.0
    return model.train()


def trained(model: PeftModel, part: str = "data") -> dict[str, torch.Tensor]:
    """Parameters, or their gradients, under the reference's names."""
    take = (lambda p: p.grad) if part == "grad" else (lambda p: p.detach())
    layers = prompt_layers(model)
    values = {
        "prompt_embeddings_k": torch.stack([take(layer.attention_prompt_key["default"]) for layer in layers]),
        "prompt_embeddings_v": torch.stack([take(layer.attention_prompt_value["default"]) for layer in layers]),
    }
    if layers[0].attention_prompt_scale:
        values["prompt_scale"] = torch.stack([take(layer.attention_prompt_scale["default"]) for layer in layers])
    for theirs, ours in (("head_norm", "fc_norm"), ("head", "classifier")):
        module = getattr(model.base_model.model, ours).modules_to_save["default"]
        values |= {f"{theirs}.weight": take(module.weight), f"{theirs}.bias": take(module.bias)}
    return values


def close(got: torch.Tensor, want: torch.Tensor, what: str) -> None:
    assert got.shape == want.shape, what
    difference = (got - want).abs().max().item()
    assert difference <= TOLERANCE, f"{what}: {difference:.1e}"


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_logits_loss_gradients_and_four_steps(converted, implementation):
    name, out = converted
    model, want = load(out, implementation), expected(name)
    inputs = {"pixel_values": want["pixel_values"], "labels": want["labels"]}
    first = model(**inputs)
    close(first.logits, want["logits"], "logits")
    close(first.loss, want["loss"].squeeze(), "loss")
    first.loss.backward()
    gradients = trained(model, "grad")
    assert {f"grad.{key}" for key in gradients} == {key for key in want if key.startswith("grad.")}
    for key, gradient in gradients.items():
        close(gradient, want[f"grad.{key}"], f"gradient of {key}")

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for step in range(4):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        close(loss, want["sgd.losses"][step], f"loss of step {step}")
        loss.backward()
        optimizer.step()
    close(model(**inputs).logits, want["sgd.logits"], "logits after four steps")
    for key, value in trained(model).items():
        close(value, want[f"sgd.{key}"], f"{key} after four steps")


def test_a_scale_below_one_gets_no_gradient(converted):
    name, out = converted
    model, want = load(out, "sdpa"), expected(name)
    model(pixel_values=want["pixel_values"], labels=want["labels"]).loss.backward()
    scales = [layer.attention_prompt_scale["default"] for layer in prompt_layers(model) if layer.attention_prompt_scale]
    if name == "apt_no_reparam":
        assert not scales
        return
    below = torch.cat([(scale < 1).flatten() for scale in scales])
    gradients = torch.cat([scale.grad.flatten() for scale in scales])
    assert below.any()
    assert (gradients[below] == 0).all()
    assert (gradients[~below] != 0).all()


def test_drift_at_transformers_own_eps(converted):
    """What the docs state: with fc_norm.eps at 1e-5 the logits move by less than 1e-3 here, and not by nothing."""
    name, out = converted
    model, want = load(out, "sdpa"), expected(name)
    model.base_model.model.fc_norm.modules_to_save["default"].eps = 1e-5
    drift = (model(want["pixel_values"]).logits - want["logits"]).abs().max().item()
    assert 1e-7 < drift < 1e-3


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_pretraining_reconstruction(tmp_path, implementation):
    options = CheckpointOptions(image_size=32, num_frames=4, num_attention_heads=4, decoder_num_attention_heads=2)
    convert_checkpoint(GOLDEN / "videomae_pretrain.pth", tmp_path / "out", options=options)
    model = VideoMAEForPreTraining.from_pretrained(
        tmp_path / "out" / "base", use_mean_pooling=False, attn_implementation=implementation
    )
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    want = expected("videomae_pretrain")
    model = model.double().eval()
    logits = model(want["pixel_values"], bool_masked_pos=want["bool_masked_pos"].bool()).logits
    close(logits, want["reconstruction"], "reconstruction")


@pytest.mark.parametrize("per_head", [False, True])
def test_dropout_s_place_and_sharing(per_head):
    """Masks act on raw elements, keys and values apart, before the scale; one mask for all samples and heads."""
    settings = {"num_prompt_tokens": 5, "prompt_dropout": 0.5, "init_weights": False}
    model = get_peft_model(
        tiny_videomae(), AttentionPromptConfig(**settings, share_prompts_across_heads=not per_head)
    ).train()
    torch.manual_seed(9)
    got = model(clips()).logits

    plain = get_peft_model(
        tiny_videomae(),
        AttentionPromptConfig(**(settings | {"prompt_dropout": 0.0}), share_prompts_across_heads=False),
    ).train()
    torch.manual_seed(9)  # the masks again, in the method's order: keys, values, layer by layer
    with torch.no_grad():
        for ours, theirs in zip(prompt_layers(model), prompt_layers(plain), strict=True):
            for row, kind in enumerate(("attention_prompt_key", "attention_prompt_value")):
                prompt = getattr(ours, kind)["default"]
                factor = ours.attention_prompt_scale["default"][row].clamp(min=1).unsqueeze(-1)
                dropped = prompt * torch.nn.functional.dropout(torch.ones_like(prompt), 0.5) * factor
                getattr(theirs, kind)["default"].copy_(dropped.expand(2, 5, 16))  # the same in each head where shared
            theirs.attention_prompt_scale["default"].fill_(1.0)
        want = plain(clips()).logits
    assert torch.allclose(got, want, atol=1e-6)
