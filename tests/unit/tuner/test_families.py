"""Every architecture of the table, against plain softmax over concatenated keys, computed here."""

import pytest
import torch
import transformers
from models import prompt_layers
from peft import PeftModel, get_peft_model
from transformers.masking_utils import sdpa_mask

from apt_peft import AttentionPromptConfig
from apt_peft.tuner.families import FAMILIES, fold_names, patch_elements

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 8,
}
VIDEO, IMAGE = torch.randn(2, 4, 3, 16, 16), torch.randn(2, 3, 16, 16)
VISION = {"vision_config": SMALL, "text_config": {**SMALL, "projection_dim": 8}}

# model type -> (model class, changes to the config, inputs, label for heads, elements of a patch)
MODELS = {
    "videomae": (
        "VideoMAEForVideoClassification",
        {"num_frames": 4, "use_mean_pooling": True},
        {"pixel_values": VIDEO},
        192,
    ),
    "vivit": (
        "VivitForVideoClassification",
        {"num_frames": 4, "tubelet_size": [2, 8, 8], "patch_size": None},
        {"pixel_values": VIDEO},
        192,
    ),
    "vjepa2": (
        "VJEPA2ForVideoClassification",
        {
            "crop_size": 16,
            "frames_per_clip": 4,
            "pred_hidden_size": 32,
            "pred_num_hidden_layers": 1,
            "pred_num_attention_heads": 2,
            "num_pooler_layers": 1,
        },
        {"pixel_values_videos": VIDEO},
        192,
    ),
    "vit": ("ViTForImageClassification", {}, {"pixel_values": IMAGE}, 192),
    "deit": ("DeiTForImageClassificationWithTeacher", {}, {"pixel_values": IMAGE}, 192),
    "beit": (
        "BeitForImageClassification",
        {"use_relative_position_bias": True},
        {"pixel_values": IMAGE},
        192,
    ),
    "ijepa": ("IJepaForImageClassification", {}, {"pixel_values": IMAGE}, 192),
    "dinov2": ("Dinov2ForImageClassification", {}, {"pixel_values": IMAGE}, 192),
    "dinov2_with_registers": ("Dinov2WithRegistersForImageClassification", {}, {"pixel_values": IMAGE}, 192),
    "dinov3_vit": ("DINOv3ViTModel", {}, {"pixel_values": IMAGE}, 192),
    "clip": ("CLIPForImageClassification", VISION, {"pixel_values": IMAGE}, 192),
    "clip_vision_model": ("CLIPVisionModel", {}, {"pixel_values": IMAGE}, 192),
    "siglip": ("SiglipForImageClassification", VISION, {"pixel_values": IMAGE}, 192),
    "siglip_vision_model": ("SiglipVisionModel", {"vision_use_head": False}, {"pixel_values": IMAGE}, 192),
    "siglip2_vision_model": (
        "Siglip2VisionModel",
        {"num_patches": 4, "vision_use_head": False},
        {
            "pixel_values": torch.randn(2, 4, 192),
            "pixel_attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
            "spatial_shapes": torch.tensor([[2, 2], [1, 2]]),
        },
        192,
    ),
    "audio-spectrogram-transformer": (
        "ASTForAudioClassification",
        {"max_length": 24, "num_mel_bins": 16},
        {"input_values": torch.randn(2, 24, 16)},
        192,
    ),
}


def build(kind: str, implementation: str):
    class_name, changes, inputs, _ = MODELS[kind]
    torch.manual_seed(0)
    settings = {k: v for k, v in ({} if "vision_config" in changes else SMALL | changes).items() if v is not None}
    settings = changes if "vision_config" in changes else settings
    config = transformers.AutoConfig.for_model(kind, **settings, attn_implementation=implementation)
    model = getattr(transformers, class_name)(config).double().eval()
    for parameter in model.parameters():  # small random nets hardly attend: make differences show
        torch.nn.init.normal_(parameter, std=0.3)
    model.requires_grad_(False)  # as PEFT leaves it: sdpa takes another kernel where a mask needs a gradient
    return model, {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}


def output(model, inputs) -> torch.Tensor:
    result = model(**inputs)
    return result.logits if hasattr(result, "logits") else result.last_hidden_state


class Reference:
    """Softmax over tokens and prompts, written out, in the place of the model's own attention function."""

    def __init__(self, prompts: list[tuple[torch.Tensor, torch.Tensor]], modules: list) -> None:
        self.prompts = {id(module): pair for module, pair in zip(modules, prompts, strict=True)}

    def __call__(self, module, query, key, value, mask, scaling=None, position_bias=None, **kwargs):
        scores = query @ key.transpose(2, 3) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
        for bias in (mask, position_bias):
            if bias is not None and bias.dtype == torch.bool:
                scores = scores.masked_fill(~bias, float("-inf"))
            elif bias is not None:
                scores = scores + bias
        if id(module) in self.prompts:
            prompt_key, prompt_value = self.prompts[id(module)]
            own = torch.einsum("bhnd,pd->bhnp", query, prompt_key) * (scaling or query.shape[-1] ** -0.5)
            weights = torch.cat([scores, own], -1).softmax(-1)
            tokens = key.shape[2]
            result = weights[..., :tokens] @ value + torch.einsum("bhnp,pd->bhnd", weights[..., tokens:], prompt_value)
        else:
            result = scores.softmax(-1) @ value
        return result.transpose(1, 2), None


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", MODELS)
def test_architecture(kind, implementation, tmp_path):
    model, inputs = build(kind, implementation)
    base = output(model, inputs).detach()
    peft_model = get_peft_model(
        model, AttentionPromptConfig(num_prompt_tokens=3, prompt_dropout=0.0, init_weights=False)
    ).eval()
    layers = prompt_layers(peft_model)
    assert len(layers) == 2
    assert patch_elements(layers[0].real_config) == MODELS[kind][3]
    got = output(peft_model, inputs)

    prompts = [tuple(p.detach().double() for p in layer.active_prompts()) for layer in layers]
    reference, _ = build(kind, implementation)
    modules = [reference.get_submodule(name) for name in peft_model.targeted_module_names]
    transformers.AttentionInterface.register("written_out", Reference(prompts, modules))
    transformers.AttentionMaskInterface.register("written_out", sdpa_mask)
    for module in modules:
        module.config._attn_implementation_internal = "written_out"
    want = output(reference, inputs)
    assert torch.allclose(got, want, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(got, base, rtol=1e-3, atol=1e-3)

    with peft_model.disable_adapter():
        assert torch.equal(output(peft_model, inputs), base)
    got.sum().backward()
    assert all(p.grad is not None for name, p in peft_model.named_parameters() if "attention_prompt_" in name)
    peft_model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build(kind, implementation)[0], tmp_path)
    assert torch.allclose(output(loaded.eval(), inputs), got, atol=1e-6)
    assert torch.equal(output(peft_model.unload(), inputs), base)


def test_the_table_is_covered():
    assert set(FAMILIES) - set(MODELS) == {"siglip2"}  # the two-tower form of siglip2_vision_model


def test_heads_are_found():
    heads = {
        kind: get_peft_model(build(kind, "sdpa")[0], AttentionPromptConfig()).peft_config["default"].modules_to_save
        for kind in ("vjepa2", "deit", "vivit", "dinov3_vit")
    }
    assert heads == {
        "vjepa2": ["pooler", "classifier"],
        "deit": ["cls_classifier", "distillation_classifier"],
        "vivit": ["classifier"],
        "dinov3_vit": [],
    }


def test_the_text_half_of_clip_stays_without_prompts():
    model = transformers.CLIPModel(transformers.CLIPConfig(**VISION))
    names = get_peft_model(model, AttentionPromptConfig(num_prompt_tokens=2)).targeted_module_names
    assert names == [f"vision_model.encoder.layers.{layer}.self_attn" for layer in range(2)]


def test_names_are_folded():
    assert fold_names(["a.0.b", "a.1.b", "c", "0.x", "d2.1"]) == ["a.*.b (2)", "c", "*.x (1)", "d2.* (1)"]
