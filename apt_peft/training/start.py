"""A run that starts from an adapter: its prompts and head, its settings of the prompts, and its labels."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from apt_peft.checkpoints.adapter import load_adapter
from apt_peft.checkpoints.source import AdapterFiles, find_adapter
from apt_peft.errors import CheckpointError, ConfigError
from apt_peft.training.base import weights_fingerprint
from apt_peft.training.record import RUN_FILE, read_run
from apt_peft.training.settings import TrainSettings
from apt_peft.tuner import AttentionPromptConfig

OF_PROMPTS = (
    *("num_prompt_tokens", "prompt_dropout", "reparameterization", "key_gate", "train_norms"),
    "share_prompts_across_heads",
)


def require_prompts(files: AdapterFiles, adapter: str) -> None:
    """See that an adapter has prompts.

    Args:
        files: of the adapter.
        adapter: its name, for messages.

    Raises:
        CheckpointError: it is of another method, or has a head alone.
    """
    of_ours = isinstance(files.config, AttentionPromptConfig)
    if of_ours and any(key.endswith(".attention_prompt_key") for key in files.tensors):
        return
    what = "has a head alone" if of_ours else f"is of the method {getattr(files.config.peft_type, 'value', '?')}"
    raise CheckpointError(
        f"adapter ({adapter}) must have attention prompts, but it {what}. Train one with --method apt."
    )


def follow(settings: TrainSettings) -> TrainSettings:
    """The settings of a run, with those of its prompts as the adapter has them that it starts from.

    Args:
        settings: the run's flags.

    Returns:
        The same without `start_from`.

    Raises:
        CheckpointError: the adapter cannot be read, or has no prompts.
    """
    if settings.start_from is None:
        return settings
    config = _files(settings).config
    changes: dict[str, Any] = {name: getattr(config, name) for name in OF_PROMPTS}
    layers = config.layer_indices
    return replace(settings, **changes, layers_to_transform=None if layers is None else tuple(layers))


def start_config(settings: TrainSettings) -> AttentionPromptConfig:
    """The PEFT settings of the adapter that a run starts from, to be trained."""
    config = copy.deepcopy(_files(settings).config)
    config.inference_mode, config.base_model_name_or_path = False, None  # of the backbone that it is tried on
    return config


def load_start(base: nn.Module, settings: TrainSettings, labels: Sequence[str]) -> PeftModel:
    """Put the adapter that a run starts from onto the backbone, to be trained further.

    Args:
        base: the classifier; changed in place.
        settings: the run's flags.
        labels: of the run's clips.

    Returns:
        The model to train.

    Raises:
        CheckpointError: the adapter cannot be read, or does not fit the backbone.
        ConfigError: it has other labels, or was trained on another backbone.
    """
    files, place = _files(settings), settings.start_from
    own = files.config.id2label
    theirs = [own[index] for index in range(len(own))] if own else list(labels)
    if theirs != list(labels):
        raise ConfigError(
            f"start_from ({place}) must have the labels of the data in their order, but it has {theirs} and the data "
            f"{list(labels)}. Give --labels, or start anew."
        )
    run = read_run(str(place), folder=files.folder)
    trained, found = run.values.get("backbone", {}).get("fingerprint") if run else None, weights_fingerprint(base)
    if trained not in (None, found):
        raise ConfigError(
            f"start_from ({place}) must be of the backbone that is trained on, but its weights have the fingerprint {found}, "
            f"and those of the adapter's had {trained}. Give its own by --model."
        )
    model = load_adapter(base, files, name=settings.model, is_trainable=True)
    model.peft_config["default"].base_model_name_or_path = settings.model  # which may be another place of the same
    return model


def start_record(settings: TrainSettings) -> dict[str, Any] | None:
    """What run.json says of the adapter that a run started from, None where there is none."""
    if settings.start_from is None:
        return None
    files = _files(settings)
    keys = [tensor for key, tensor in files.tensors.items() if key.endswith(".attention_prompt_key")]
    return {"adapter": settings.start_from, "prompts_after": sum(int(tensor.shape[-2]) for tensor in keys)}


def start_fingerprint(settings: TrainSettings) -> str | None:
    """16 hexadecimal digits that change with the weights that a run starts from, None where it starts anew."""
    if settings.start_from is None:
        return None
    return sha256(Path(_files(settings).weights).read_bytes()).hexdigest()[:16]


def _files(settings: TrainSettings) -> AdapterFiles:
    place = str(settings.start_from)
    files = find_adapter(place, companions=(RUN_FILE,))
    require_prompts(files, place)
    return files
