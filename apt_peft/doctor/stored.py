"""The weights of a folder, tensor by tensor: what is there is known without reading it, and one is in memory at a time."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from ..checkpoints.reading import listing

# In the order in which transformers looks for them.
LAYOUTS = (
    (SAFE_WEIGHTS_NAME, False),
    (SAFE_WEIGHTS_INDEX_NAME, True),
    (WEIGHTS_NAME, False),
    (WEIGHTS_INDEX_NAME, True),
)
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


class Unusable(Exception):
    """Weights that cannot be opened.

    Args:
        code: of the finding.
        evidence: of it.
    """

    def __init__(self, code: str, evidence: str) -> None:
        super().__init__(evidence)
        self.code, self.evidence = code, evidence


class StoredWeights:
    """The tensors of a folder's weight files.

    Args:
        folder: with weights as transformers lays them out: one file or several with an index, safetensors or pickles.

    Raises:
        Unusable: there are none, one is damaged, or a pickle holds more than tensors.
    """

    def __init__(self, folder: Path) -> None:
        name, indexed = next(((name, indexed) for name, indexed in LAYOUTS if (folder / name).is_file()), (None, False))
        if name is None:
            wanted = f"{SAFE_WEIGHTS_NAME} nor {WEIGHTS_NAME}"
            raise Unusable("weights-missing", f"neither {wanted}, nor an index of several files, is in the folder")
        self.files = _files_of(folder / name) if indexed else (name,)
        self.index = name if indexed else None
        self.pickled = name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
        lost = [file for file in self.files if not (folder / file).is_file()]
        if lost:
            raise Unusable("weights-damaged", f"{name} names files that are not there: {listing(lost)}")
        self._stack = ExitStack()
        self._place: dict[str, Any] = {}
        for file in self.files:
            self._place |= dict.fromkeys(*self._open(folder / file))

    def _open(self, path: Path) -> tuple[list[str], Any]:
        """Names of a file's tensors, and what gives them."""
        if self.pickled:
            tensors = _unpickled(path)
            return list(tensors), tensors
        try:
            handle = self._stack.enter_context(safe_open(path, "pt"))
        except (SafetensorError, OSError, ValueError) as error:
            raise Unusable("weights-damaged", f"{path.name} cannot be read: {str(error).splitlines()[0]}") from None
        return list(handle.keys()), handle

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, name: object) -> bool:
        return name in self._place

    def __getitem__(self, name: str) -> torch.Tensor:
        """Read one tensor, as it is stored."""
        place = self._place[name]
        return place[name] if isinstance(place, dict) else place.get_tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; it is not read."""
        place = self._place[name]
        return tuple(place[name].shape if isinstance(place, dict) else place.get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype | None:
        """Dtype of a tensor, None for one of no floating-point numbers; it is not read."""
        place = self._place[name]
        if isinstance(place, dict):
            return place[name].dtype if place[name].is_floating_point() else None
        return DTYPES.get(place.get_slice(name).get_dtype())

    def close(self) -> None:
        """Close the files."""
        self._stack.close()


def _files_of(index: Path) -> tuple[str, ...]:
    """The files that an index names; `check_backbone` has seen that they lie beside it."""
    return tuple(sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())))


def _unpickled(path: Path) -> dict[str, torch.Tensor]:
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError):  # an old file, which cannot be mapped
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        text = str(error)
        unsafe = text.partition("GLOBAL ")[2].split(" ")[0] or "objects that are no tensors"
        raise Unusable("pickle-unsafe", f"{path.name} would import {unsafe}") from None
    except Exception as error:  # damaged pickles raise nearly any kind
        raise Unusable("weights-damaged", f"{path.name} cannot be read: {type(error).__name__}") from None
    if not isinstance(content, dict):
        raise Unusable("weights-damaged", f"{path.name} holds a {type(content).__name__}, not tensors by name")
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
