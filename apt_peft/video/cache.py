"""Prepared frames on disk."""

import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file


class FrameCache:
    """A folder of prepared frames, each entry a file of its own.

    Args:
        folder: made where it is missing.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> dict[str, torch.Tensor]:
        """The tensors of an entry by name; none where it is absent or damaged."""
        try:
            return load_file(self._path(key))
        except (FileNotFoundError, SafetensorError):
            return {}

    def put(self, key: str, tensors: dict[str, torch.Tensor]) -> None:
        """Write an entry beside its place and move it: a reader finds the whole file or none."""
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=key, suffix=".part")
        os.close(handle)
        try:
            save_file(tensors, temporary)
            os.replace(temporary, self._path(key))
        except BaseException:
            os.unlink(temporary)
            raise

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
