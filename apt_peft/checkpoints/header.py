"""What a safetensors file says of its tensors, read and checked without reading them."""

import json
import math
import stat
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError
from .reading import listing

# Bytes of one element of the kinds that weights are saved in; others load, rounded or cut, and mean nothing.
FLOATS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
MAX_HEADER = 8 << 20
MAX_TENSORS = 50_000


class Tensor(NamedTuple):
    """One tensor, as a header describes it."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(path: Path, name: str) -> dict[str, Tensor]:
    """Read the header of a safetensors file.

    Args:
        path: the file.
        name: of the adapter, for messages.

    Returns:
        The tensors by name; each has its bytes in the file, and they are of floating-point numbers.

    Raises:
        CheckpointError: the file is no plain file, is cut or damaged, or holds something else than such tensors.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device read without end
        raise _unusable(name, path, "it is no plain file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise _unusable(name, path, "it is cut, or no safetensors file")
        text = file.read(length)
    problems: list[str] = []
    try:
        entries = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, problems))
    except (ValueError, RecursionError):
        raise _unusable(name, path, "its header is damaged") from None
    if not isinstance(entries, dict) or len(entries) > MAX_TENSORS:
        raise _unusable(name, path, f"its header is no table of at most {MAX_TENSORS:,} tensors")
    entries.pop("__metadata__", None)
    described = {key: _described(entry) for key, entry in entries.items()}
    if wrong := [key[:200] for key, entry in described.items() if entry is None]:
        raise _unusable(name, path, f"its header does not say what these are: {listing(wrong)}")
    tensors: dict[str, Tensor] = {}
    at = 0
    for key, (dtype, shape, (begin, end)) in sorted(described.items(), key=lambda item: item[1][2]):  # type: ignore
        tensor = tensors[key] = Tensor(dtype, tuple(shape))
        size_is_known = dtype in FLOATS  # others are refused below
        if begin != at or end < begin or (size_is_known and end - begin != tensor.numbers * FLOATS[dtype]):
            problems.append(f"{key[:200]} of shape {shape} does not lie in it as it says")
            break
        at = end
    if not problems and at != size - 8 - length:
        problems.append(f"its tensors have {at:,} bytes and the file has {size - 8 - length:,} for them")
    if odd := {key: tensor.dtype for key, tensor in tensors.items() if tensor.dtype not in FLOATS}:
        problems.append(
            f"it has {', '.join(sorted(set(odd.values())))} where floating-point numbers belong: {listing(odd)}"
        )
    if problems:
        raise _unusable(name, path, "; ".join(problems))
    return tensors


def _once(pairs: list[tuple[str, Any]], problems: list[str]) -> dict[str, Any]:
    """A JSON object; of a name that stands there twice, readers take different ones."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        problems.append(f"its header names twice: {listing(key[:200] for key in twice)}")
    return found


def _described(entry: Any) -> tuple[str, list[int], list[int]] | None:
    """Dtype, shape, and first and last byte of a header's entry; None where it has another form."""
    if not isinstance(entry, dict):
        return None
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and isinstance(shape, list) and isinstance(offsets, list)):
        return None
    numbers = [*shape, *offsets]
    fits = len(shape) <= 8 and len(offsets) == 2 and all(type(n) is int and 0 <= n < 1 << 48 for n in numbers)
    return (dtype, shape, offsets) if fits else None


def _unusable(name: str, path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"adapter ({name}) must have its weights whole in {path.name}, but {problem}. Copy the adapter again, or ask whoever "
        "trained it."
    )
