"""One tiny random model of each architecture that apt_peft knows, by model type: the rows of every test that walks them.

for name in AVAILABLE:
    model, inputs = build(name), ARCHITECTURES[name].inputs()
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

Inputs = dict[str, Tensor]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(batch: int = 2, seed: int = 1) -> Inputs:
    return {"pixel_values": random(batch, 3, 16, 16, seed=seed)}


def videos(name: str = "pixel_values", frames: int = 4) -> Callable[..., Inputs]:
    return lambda batch=2, seed=1: {name: random(batch, frames, 3, 16, 16, seed=seed)}


def padded_images(batch: int = 2, seed: int = 1) -> Inputs:
    """SigLIP 2's own format: 2 x 2 patches of each picture, every second picture is half padding."""
    half = torch.arange(batch) % 2 == 1
    return {
        "pixel_values": random(batch, 4, 192, seed=seed),
        "pixel_attention_mask": torch.where(half[:, None], torch.tensor([1, 1, 0, 0]), torch.ones(4, dtype=torch.long)),
        "spatial_shapes": torch.where(half[:, None], torch.tensor([1, 2]), torch.tensor([2, 2])),
    }


def spectrograms(batch: int = 2, seed: int = 1) -> Inputs:
    return {"input_values": random(batch, 24, 16, seed=seed)}


def videos_and_texts(batch: int = 2, seed: int = 1) -> Inputs:
    texts = torch.arange(batch * 5).reshape(batch, 5) % 97 + 2
    return videos("pixel_values_videos", frames=3)(batch, seed) | {"input_ids": texts}


class Architecture(NamedTuple):
    """What a test must know of one architecture."""

    model: str  # class in transformers
    settings: dict[str, Any]  # of its config
    inputs: Callable[..., Inputs]  # (batch=2, seed=1) -> arguments of forward, float32
    attentions: str  # the modules that get prompts by default, as a pattern of fnmatch
    layers: int = 2  # how many modules those are
    heads: tuple[str, ...] = ("classifier",)  # what is trained beside the prompts by default
    labels: bool = True  # whether forward takes labels and gives a loss, over LABELS classes
    video: bool = False  # registered for video classification
    implementations: tuple[str, ...] = ("eager", "sdpa")  # of its attention


LABELS = 3
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 8,
    "num_labels": LABELS,
}
# where frames or places are folded into the batch, 3 frames and 2 x 2 places: a mix-up changes shapes
FOLDED = SMALL | {"num_frames": 3}
TOWER = {k: v for k, v in SMALL.items() if k != "num_labels"}
TEXT = TOWER | {"vocab_size": 99, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
TOWERS = {"vision_config": TOWER, "text_config": TEXT, "num_labels": LABELS}
PRISM = {name: SMALL[name] for name in ("hidden_size", "num_attention_heads", "intermediate_size", "image_size")} | {
    "num_frames": 3,
    "tubelet_size": [1, 8, 8],
    "num_spatial_layers": 2,
    "num_temporal_layers": 1,
    "attn_logit_softcapping": 2.0,  # low, so that it acts
}
TOWERS_2 = {**TOWERS, "vision_config": {k: v for k, v in TOWER.items() if k != "image_size"} | {"num_patches": 4}}


def without(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


ARCHITECTURES: dict[str, Architecture] = {
    # ---------------------------------------------------------------------------------------------------- videos
    "videomae": Architecture(
        "VideoMAEForVideoClassification",
        SMALL | {"num_frames": 4, "use_mean_pooling": True},
        videos(),
        "videomae.encoder.layer.*.attention.attention",
        heads=("fc_norm", "classifier"),
        video=True,
    ),
    "vivit": Architecture(
        "VivitForVideoClassification",
        without(SMALL, "patch_size") | {"num_frames": 4, "tubelet_size": [2, 8, 8]},
        videos(),
        "vivit.layers.*.attention",
        video=True,
    ),
    "vjepa2": Architecture(
        "VJEPA2ForVideoClassification",
        without(SMALL, "image_size", "intermediate_size")
        | {
            "crop_size": 16,
            "frames_per_clip": 4,
            "pred_hidden_size": 32,
            "pred_num_hidden_layers": 1,
            "pred_num_attention_heads": 2,
            "num_pooler_layers": 1,
        },
        videos("pixel_values_videos"),
        "vjepa2.encoder.layer.*.attention",
        heads=("pooler", "classifier"),
        video=True,
    ),
    "timesformer": Architecture(
        "TimesformerForVideoClassification",
        FOLDED,
        videos(frames=3),
        "timesformer.encoder.layer.*.*attention.attention",
        layers=4,
        video=True,
        implementations=("eager",),
    ),
    "videoprism_vision_model": Architecture(
        "VideoPrismForVideoClassification",
        PRISM | {"num_labels": LABELS},
        videos("pixel_values_videos", frames=3),
        "vision_model.*_layers.*.attention",
        layers=3,
        heads=("head", "head_layernorm", "classifier"),
        video=True,
        implementations=("eager",),
    ),
    "videoprism": Architecture(
        "VideoPrismClipModel",
        {"vision_config": PRISM, "text_config": TEXT},
        videos_and_texts,
        "video_model.vision_model.*_layers.*.attention",
        layers=3,
        heads=(),
        labels=False,
        implementations=("eager",),
    ),
    # ---------------------------------------------------------------------------------------------------- images
    "vit": Architecture("ViTForImageClassification", SMALL, images, "vit.layers.*.attention"),
    "deit": Architecture("DeiTForImageClassification", SMALL, images, "deit.layers.*.attention"),
    "beit": Architecture(
        "BeitForImageClassification",
        SMALL | {"use_relative_position_bias": True},
        images,
        "beit.layers.*.attention",
    ),
    "ijepa": Architecture("IJepaForImageClassification", SMALL, images, "ijepa.layers.*.attention"),
    "dinov2": Architecture("Dinov2ForImageClassification", SMALL, images, "dinov2.encoder.layer.*.attention"),
    "dinov2_with_registers": Architecture(
        "Dinov2WithRegistersForImageClassification",
        SMALL,
        images,
        "dinov2_with_registers.encoder.layer.*.attention",
    ),
    "dinov3_vit": Architecture("DINOv3ViTModel", SMALL, images, "model.layer.*.attention", heads=(), labels=False),
    "clip": Architecture("CLIPForImageClassification", TOWERS, images, "vision_model.encoder.layers.*.self_attn"),
    "clip_vision_model": Architecture(
        "CLIPVisionModel", TOWER, images, "encoder.layers.*.self_attn", heads=(), labels=False
    ),
    "siglip": Architecture("SiglipForImageClassification", TOWERS, images, "vision_model.encoder.layers.*.self_attn"),
    "siglip_vision_model": Architecture(
        "SiglipVisionModel",
        TOWER | {"vision_use_head": False},
        images,
        "encoder.layers.*.self_attn",
        heads=(),
        labels=False,
    ),
    "siglip2": Architecture(
        "Siglip2ForImageClassification", TOWERS_2, padded_images, "vision_model.encoder.layers.*.self_attn"
    ),
    "siglip2_vision_model": Architecture(
        "Siglip2VisionModel",
        TOWERS_2["vision_config"] | {"vision_use_head": False},
        padded_images,
        "encoder.layers.*.self_attn",
        heads=(),
        labels=False,
    ),
    # ----------------------------------------------------------------------------------------------------- sound
    "audio-spectrogram-transformer": Architecture(
        "ASTForAudioClassification",
        without(SMALL, "image_size") | {"max_length": 24, "num_mel_bins": 16},
        spectrograms,
        "audio_spectrogram_transformer.layers.*.attention",
    ),
}

# the installed transformers may be older than an architecture
AVAILABLE = [name for name, row in ARCHITECTURES.items() if hasattr(transformers, row.model)]


def build(
    name: str, implementation: str | None = None, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> PreTrainedModel:
    """A tiny model in evaluation mode, the same for the same arguments.

    Its weights are larger than the model would draw them: small random nets hardly attend, and differences would not show.

    Args:
        name: model type, a key of `ARCHITECTURES`.
        implementation: of the attention; the model's own choice by default.
        seed: of the weights.
        dtype: of the weights.
        changes: to the settings of the config.
    """
    row = ARCHITECTURES[name]
    config = transformers.AutoConfig.for_model(name, **(row.settings | changes))
    if implementation is not None:
        config._attn_implementation = implementation
    model = getattr(transformers, row.model)(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def inputs_for(name: str, batch: int = 2, *, seed: int = 1, dtype: torch.dtype = torch.float32) -> Inputs:
    """Arguments of the model's forward, with floating-point ones in a dtype."""
    inputs = ARCHITECTURES[name].inputs(batch, seed)
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}


def output(model: Any, inputs: Inputs) -> Tensor:
    """Logits; the last hidden state of a model without a head; the embeddings of a video beside a text."""
    result = model(**inputs)
    return next(result[name] for name in ("logits", "last_hidden_state", "video_embeds") if name in result)
