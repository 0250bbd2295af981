"""Tensors from one set of keys to the other, after every key and shape is accounted for."""

from collections.abc import Mapping

import torch

from ..errors import CheckpointError
from .layout import Entry
from .options import CheckpointOptions
from .reading import WeightFile, listing


def account(file: WeightFile, entries: Mapping[str, Entry], options: CheckpointOptions) -> tuple[str, ...]:
    """Compare what a file holds with what its model needs.

    Args:
        file: the file's content.
        entries: what a file of its dimensions must hold.
        options: `allow_leftover` and `keep_decoder` count here.

    Returns:
        Keys that have no place in the model; empty unless the options allow them.

    Raises:
        CheckpointError: keys are missing, left over or of another shape; all are listed.
    """
    missing = [key for key in entries if key not in file.state]
    leftover = [key for key in file.state if key not in entries]
    if not options.keep_decoder:
        leftover = [key for key in leftover if not is_decoder_key(key)]
    shapes = [
        f"{key} {tuple(file.state[key].shape)} instead of {entry.shape}"
        for key, entry in entries.items()
        if key in file.state and tuple(file.state[key].shape) != entry.shape
    ]
    problems = [
        f"{len(keys)} {what}: {listing(keys)}"
        for keys, what in (
            (missing, "missing"),
            (() if options.allow_leftover else leftover, "left over"),
            (shapes, "of another shape"),
        )
        if keys
    ]
    if problems:
        remedy = " allow_leftover (--allow-leftover) converts without the keys left over." if leftover else ""
        raise CheckpointError(
            f"checkpoint ({file.path}) must hold the {len(entries)} tensors of its model, but {'; '.join(problems)}."
            + remedy
        )
    return tuple(leftover)


def is_decoder_key(key: str) -> bool:
    """Whether a tensor belongs to a pre-training decoder."""
    return key.startswith(("decoder.", "encoder_to_decoder.")) or key == "mask_token"


def to_transformers(state: Mapping[str, torch.Tensor], entries: Mapping[str, Entry]) -> dict[str, torch.Tensor]:
    """The reference's tensors under transformers' keys.

    Args:
        state: canonical key -> tensor.
        entries: shape and transformers keys of each.

    Returns:
        transformers key -> tensor of its own memory.
    """
    result: dict[str, torch.Tensor] = {}
    for key, entry in entries.items():
        tensor = state[key]
        parts = tensor.unbind() if entry.split == "layers" else tensor.chunk(len(entry.targets))
        result.update((target, part.contiguous().clone()) for target, part in zip(entry.targets, parts, strict=True))
    return result


def to_reference(state: Mapping[str, torch.Tensor], entries: Mapping[str, Entry]) -> dict[str, torch.Tensor]:
    """The way back: transformers' tensors under the reference's keys.

    Args:
        state: transformers key -> tensor.
        entries: shape and transformers keys of each reference key.

    Returns:
        reference key -> tensor of its own memory.
    """
    return {
        key: (torch.stack if entry.split == "layers" else torch.cat)(
            [state[target].detach().cpu() for target in entry.targets]
        )
        for key, entry in entries.items()
    }
