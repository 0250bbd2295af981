"""Tiny random models and inputs for the tests of the tuner."""

import torch
from peft import PeftModel, get_peft_model
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from apt_peft import AttentionPromptConfig

TOKENS = 8  # of the tiny model: 2 x 2 patches, 2 tubelets


def videomae_config(**changes) -> VideoMAEConfig:
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 16,
        "patch_size": 8,
        "num_frames": 4,
        "use_mean_pooling": True,
        "initializer_range": 0.2,  # large, so that differences show
        "num_labels": 3,
    }
    return VideoMAEConfig(**(settings | changes))


def tiny_videomae(seed: int = 0, **changes) -> VideoMAEForVideoClassification:
    torch.manual_seed(seed)
    return VideoMAEForVideoClassification(videomae_config(**changes)).eval()


def clips(batch: int = 2, seed: int = 1) -> torch.Tensor:
    """(B, T, C, height, width)"""
    return torch.randn(batch, 4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def prompted(seed: int = 0, model=None, **settings) -> PeftModel:
    """A tiny model whose prompts make a difference: random at the scale of keys, no dropout, unless told otherwise."""
    model = tiny_videomae(seed) if model is None else model
    config = AttentionPromptConfig(
        **({"num_prompt_tokens": 5, "prompt_dropout": 0.0, "init_weights": False} | settings)
    )
    return get_peft_model(model, config).eval()


def prompt_layers(model) -> list:
    from apt_peft.tuner import AttentionPromptLayer

    return [module for module in model.modules() if isinstance(module, AttentionPromptLayer)]
