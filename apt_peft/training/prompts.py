"""Prompts or a baseline, and head, on a backbone: tried on an empty model before clips are read, then added to the real one."""

import copy
from functools import partial
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForVideoClassification

from apt_peft.training.base import head_of
from apt_peft.training.conflicts import OWN
from apt_peft.training.data import RunData
from apt_peft.training.datasets import collate
from apt_peft.training.head import initialize_head
from apt_peft.training.settings import TrainSettings
from apt_peft.training.start import load_start, start_config
from apt_peft.tuner import AttentionPromptConfig, initialize_prompts_from_data


def prompt_config(settings: TrainSettings) -> AttentionPromptConfig:
    """The settings of a run's prompts; none at all for the linear probe."""
    apt = settings.method == "apt"
    layers = settings.layers_to_transform
    return AttentionPromptConfig(
        num_prompt_tokens=settings.num_prompt_tokens,
        prompt_dropout=settings.prompt_dropout,
        reparameterization=settings.reparameterization,  # type: ignore[arg-type]
        key_gate=settings.key_gate if apt else 0,
        train_norms=settings.train_norms and apt,
        share_prompts_across_heads=settings.share_prompts_across_heads,
        init_weights="data" if apt and settings.init_weights == "data" else True,
        target_modules=None if apt else [],
        layers_to_transform=list(layers) if apt and layers is not None else None,
    )


def method_config(settings: TrainSettings, base: torch.nn.Module) -> PeftConfig:
    """The PEFT settings of a run: of its prompts, or of its baseline on this backbone."""
    if settings.start_from is not None:
        return start_config(settings)
    if settings.method in OWN:
        return prompt_config(settings)
    from apt_peft.baselines import methods

    return methods.method_config(settings.method, base, settings.method_size)


def check_targets(config: Any, settings: TrainSettings) -> None:
    """See that a backbone has the layers that the method goes to, without memory and before clips are read.

    Args:
        config: the backbone's, of transformers.
        settings: the run's flags.

    Raises:
        TargetError: it has not.
    """
    config = copy.deepcopy(config)
    if hasattr(config, "use_mean_pooling"):
        config.use_mean_pooling = True  # as `open_base` loads it
    with torch.device("meta"):
        empty = AutoModelForVideoClassification.from_config(config)
    get_peft_model(empty, method_config(settings, empty))


def add_prompts(base: torch.nn.Module, settings: TrainSettings, data: RunData) -> PeftModel:
    """Set a backbone's head to the published start, and add what the method trains beside it.

    Args:
        base: the classifier; changed in place.
        settings: the run's flags.
        data: the run's clips, of which one batch starts the prompts with `init_weights` data.

    Returns:
        The model to train.
    """
    initialize_head(head_of(base), seed=settings.seed)
    if settings.start_from is not None:
        return _checkpointed(load_start(base, settings, data.labels), base, settings)
    config = method_config(settings, base)
    model = get_peft_model(base, config)  # type: ignore[arg-type]
    if isinstance(config, AttentionPromptConfig) and config.init_weights == "data":
        dataset = data.training()
        dataset.set_epoch(0)
        generator = torch.Generator().manual_seed(settings.seed)
        loader = DataLoader(
            dataset,
            batch_size=settings.batch_size,
            shuffle=True,
            generator=generator,
            collate_fn=partial(collate, name=base.main_input_name),
        )
        initialize_prompts_from_data(model, loader, seed=settings.seed)
    return _checkpointed(model, base, settings)


def _checkpointed(model: PeftModel, base: Any, settings: TrainSettings) -> PeftModel:
    """Switch gradient checkpointing on where it is wanted."""
    if settings.gradient_checkpointing:
        # The name from transformers 5.23 on, where the older one is deprecated.
        new = hasattr(base, "activation_checkpointing_enable")
        enable = model.activation_checkpointing_enable if new else model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model
