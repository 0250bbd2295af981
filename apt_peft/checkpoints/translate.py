"""Tensors from one set of keys to the other, after every key and shape is accounted for."""

from collections.abc import Mapping

import torch
from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

from ..errors import CheckpointError
from .dimensions import Dimensions
from .layout import Entry
from .options import CheckpointOptions
from .reading import WeightFile, listing


def set_aside(file: WeightFile, dimensions: Dimensions, options: CheckpointOptions) -> tuple[str, ...]:
    """Tensors of a file that need no place.

    Args:
        file: the file's content.
        dimensions: of its model.
        options: `keep_decoder` counts here.

    Returns:
        Keys of the decoder where it is not wanted, and of a position table that transformers computes by itself.
    """
    keys = [key for key in file.state if not options.keep_decoder and is_decoder_key(key)]
    positions = file.state.get("pos_embed")
    d = dimensions
    tokens = (d.image_size // d.patch_size) ** 2 * (d.num_frames // d.tubelet_size)
    if positions is not None and positions.shape == (1, tokens, d.hidden_size):
        table = get_sinusoid_encoding_table(tokens, d.hidden_size)
        if torch.allclose(positions.float(), table, rtol=0, atol=1e-3):  # files in half precision, too
            keys.append("pos_embed")
    return tuple(keys)


def account(
    file: WeightFile, entries: Mapping[str, Entry], aside: tuple[str, ...], allow_leftover: bool
) -> tuple[str, ...]:
    """Compare what a file holds with what its model needs.

    Args:
        file: the file's content.
        entries: what a file of its dimensions must hold.
        aside: keys that need no place.
        allow_leftover: whether other keys may have none either.

    Returns:
        Keys that have no place in the model; empty unless they are allowed.

    Raises:
        CheckpointError: keys are missing, left over or of another shape; all are listed.
    """
    missing = [key for key in entries if key not in file.state]
    leftover = [key for key in file.state if key not in entries and key not in aside]
    shapes = [
        f"{key} {tuple(file.state[key].shape)} instead of {entry.shape}"
        for key, entry in entries.items()
        if key in file.state and tuple(file.state[key].shape) != entry.shape
    ]
    refused = [] if allow_leftover else leftover
    problems = [
        f"{len(keys)} {'is' if len(keys) == 1 else 'are'} {what}: {listing(keys)}"
        for keys, what in ((missing, "missing"), (refused, "left over"), (shapes, "of another shape"))
        if keys
    ]
    if problems:
        remedy = " allow_leftover (--allow-leftover) converts without what is left over." if refused else ""
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
