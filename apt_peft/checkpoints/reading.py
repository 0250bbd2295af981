"""Opens a weight file without trusting it: only tensors, plain containers and an `argparse.Namespace` come out."""

import argparse
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError

# Where training scripts nest the state dict: the reference and VideoMAE ("model"), DeepSpeed ("module"), others.
NESTS = ("model", "module", "state_dict")

# What is often found where a checkpoint should be, told by its first bytes: (bytes, what it is, remedy).
IMPOSTORS = (
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the file itself with `git lfs pull`."),
    (b"<", "a web page", "Download the file itself; some hosts answer with a page that asks for consent first."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (b"\x89HDF", "an HDF5 file", "Give the PyTorch file (.pth, .pt) instead."),
)

# Prefixes that wrappers and feature extractors put before every key.
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.")

# Scripts nest once or twice; a file may also nest a mapping in itself, without end.
MAX_NESTS = 4

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class WeightFile:
    """What a weight file holds.

    Args:
        path: the file, as the caller named it.
        state: canonical key -> tensor (see `layout.py`).
        settings: the training script's arguments, empty where the file has none.
        other_entries: names of the file's other top-level entries, such as the optimizer's state.
    """

    path: str
    state: dict[str, torch.Tensor]
    settings: dict[str, Any]
    other_entries: tuple[str, ...]


def read_weight_file(path: str | Path) -> WeightFile:
    """Read a PyTorch checkpoint; no code of the file's runs.

    Args:
        path: a file written by `torch.save`.

    Returns:
        Its state dict under canonical keys, its settings, and what else it holds.

    Raises:
        CheckpointError: no file, another kind of file, damaged, unsafe, or without weights.
    """
    content = _load(Path(path))
    state, nests = _find_state(content, path)
    return WeightFile(
        path=str(path),
        state=_canonical_keys(state, path),
        settings=_settings(content),
        other_entries=tuple(sorted(str(key) for key in content if not nests or key not in {nests[0], "args"}))
        if nests
        else (),
    )


def _load(path: Path) -> Any:
    if not path.is_file():
        state = "a folder" if path.is_dir() else "not there"
        raise CheckpointError(f"checkpoint ({path}) must be a file, but it is {state}. Check the path.")
    _refuse_impostors(path)
    try:
        # Namespace is a plain bag of attributes: rebuilding one runs no code of the file's.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # torch warns of what it then fails on; the error below says it
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged pickles raise nearly any kind of error, so no list of kinds would be complete.
        if unsafe := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"checkpoint ({path}) must hold nothing but weights and settings, but loading it would run "
                f"{unsafe[1]}. Nothing of it was run. If you trust whoever made it, save its state dict alone and "
                "convert that."
            ) from None
        raise CheckpointError(_damaged(path)) from error


def _damaged(path: Path) -> str:
    return (
        f"checkpoint ({path}) must be a whole PyTorch checkpoint, but it cannot be read to its end: it is damaged, "
        "truncated or of another kind. Download or copy it again."
    )


def _refuse_impostors(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(32)
    form = f"checkpoint ({path}) must be a PyTorch checkpoint, but it is"
    if not head:
        raise CheckpointError(f"{form} empty. Download or copy it again.")
    for magic, kind, remedy in IMPOSTORS:
        if head.startswith(magic):
            raise CheckpointError(f"{form} {kind}. {remedy}")
    # Safetensors: the length of a JSON header in eight bytes, then the header.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        raise CheckpointError(
            f"{form} a safetensors file. The reference writes .pth files; a Hugging Face folder needs no conversion."
        )
    if head.startswith(b"PK"):
        _refuse_other_zips(path, form)


def _refuse_other_zips(path: Path, form: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(_damaged(path)) from error
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "data.pkl" not in names:
        raise CheckpointError(f"{form} a zip archive of other files. Unpack it and give the checkpoint inside.")
    if "constants.pkl" in names:
        raise CheckpointError(f"{form} a TorchScript archive, which holds code. Give the state dict it was made from.")
    # torch.save stores entries as they are; a compressed one can unpack to any size.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{form} a compressed zip archive, which torch.save never writes. Unpack it first.")
    # torch.load does not compare the checksums that torch.save writes.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(
            f"checkpoint ({path}) must hold what was written, but the checksum of {damaged} in it does not match: it is "
            "damaged. Download or copy it again."
        )


def _find_state(content: Any, path: str | Path) -> tuple[Mapping[Any, Any], list[str]]:
    """The mapping that holds tensors, and the entries that led to it."""
    nests: list[str] = []
    while isinstance(content, Mapping) and not any(isinstance(value, torch.Tensor) for value in content.values()):
        if len(nests) == MAX_NESTS:
            break
        nest = next((name for name in NESTS if isinstance(content.get(name), Mapping)), None)
        if nest is None:
            break
        nests.append(nest)
        content = content[nest]
    if not isinstance(content, Mapping) or not any(isinstance(value, torch.Tensor) for value in content.values()):
        found = listing(map(str, content)) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise CheckpointError(
            f"checkpoint ({path}) must hold tensors, at its top or under {', '.join(map(repr, NESTS))}, but holds "
            f"{found or 'nothing'}. Give a file with a state dict."
        )
    return content, nests


def _canonical_keys(state: Mapping[Any, Any], path: str | Path) -> dict[str, torch.Tensor]:
    """Strip what wrappers put before keys, and give the norm before the head one name."""
    bad = [str(key) for key, value in state.items() if not isinstance(key, str) or not _is_plain(value)]
    if bad:
        raise CheckpointError(
            f"checkpoint ({path}) must hold dense floating-point tensors that are all stored in the file, but "
            f"{listing(bad)} {'is' if len(bad) == 1 else 'are'} not. Save the state dict alone."
        )
    odd = [str(key) for key, value in state.items() if not value.isfinite().all()]
    if odd:
        raise CheckpointError(
            f"checkpoint ({path}) must hold finite weights, but {listing(odd)} "
            f"{'has' if len(odd) == 1 else 'have'} NaN or infinite values: its training diverged, or it is damaged. "
            "Give an earlier file."
        )
    origin: dict[str, str] = {}
    clashes = []
    for key in state:
        name = key
        while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
            name = name[len(prefix) :]
        # VideoMAE calls it fc_norm, the reference head_norm.
        name = re.sub(r"^fc_norm\.", "head_norm.", name)
        if name in origin:
            clashes.append(f"{origin[name]} and {key}")
        origin[name] = key
    if clashes:
        raise CheckpointError(
            f"checkpoint ({path}) must hold one model, but keys name the same tensor twice: {listing(clashes)}. "
            "Save the state dict of one model alone."
        )
    return {name: state[key] for name, key in origin.items()}


def _is_plain(value: Any) -> bool:
    """A dense float tensor; a strided view of one number can claim any size, so the bytes must be there."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in DTYPES
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _settings(content: Any) -> dict[str, Any]:
    settings = content.get("args") if isinstance(content, Mapping) else None
    if isinstance(settings, argparse.Namespace):
        settings = vars(settings)
    return dict(settings) if isinstance(settings, Mapping) else {}


def listing(names: Iterable[str], limit: int = 20) -> str:
    """Names in one line, the first twenty of them."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
