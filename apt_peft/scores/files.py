"""Scores on disk: what a model said of each clip, with names and origin, so that every number can be had again from the file."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from apt_peft.errors import ConfigError, DataError, require
from apt_peft.scores.result import EvaluationResult
from apt_peft.scores.whole import whole_file

FORMAT, VERSION = "apt_peft.scores", "1"
SUFFIXES = (".safetensors", ".parquet")
# How far a clip's probabilities may be from one in sum: float32 over a thousand classes is far nearer, half precision is not.
TOLERANCE = 1e-3
SHOWN = 5


@dataclass(frozen=True)
class StoredScores:
    """A file of scores.

    Args:
        path: of the file.
        result: its scores.
        provenance: where they come from: adapter, data, views, versions.
    """

    path: str
    result: EvaluationResult
    provenance: dict[str, Any] = field(default_factory=dict)


def check_path(name: str, path: str | Path) -> str:
    """The kind of a scores file, by its suffix.

    Args:
        name: of the setting, for the message.
        path: of the file.

    Returns:
        `.safetensors` or `.parquet`.

    Raises:
        ConfigError: it has another suffix.
        MissingExtraError: pyarrow is not installed, for Parquet.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{name} ({path}) must end in .safetensors or .parquet, which says how it is written.")
    if suffix == ".parquet":
        require("pyarrow.parquet", "video")
    return suffix


def save_scores(path: str | Path, result: EvaluationResult, provenance: Mapping[str, Any] | None = None) -> None:
    """Write scores to a file, which is whole or not there.

    safetensors: tensors `scores` (clips, labels) and `targets` (clips,), with `logits` (clips, views, labels) where they were
    kept; names and groups are JSON in the metadata. Parquet: a row for each clip with `name`, `label`, `target`, `scores` and
    perhaps `group` and `logits`; the rest is JSON in the schema's metadata.

    Args:
        path: ends in `.safetensors` or `.parquet`; its folder is made.
        result: the scores.
        provenance: where they come from, as JSON can hold it.

    Raises:
        ConfigError: another suffix.
        DataError: scores that `read_scores` would refuse.
        MissingExtraError: pyarrow is not installed, for Parquet.
    """
    suffix = check_path("scores file", path)
    _check(str(path), result)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "labels": _json(result.labels),
        "skipped": _json(result.skipped),
        "provenance": _json(provenance or {}),
        **({} if result.groups is None else {"groups": _json(result.groups)}),
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as begun:
        (_write_parquet if suffix == ".parquet" else _write_safetensors)(begun, result, metadata)


def read_scores(path: str | Path) -> StoredScores:
    """Read a file of scores, and see that it can be counted on.

    Args:
        path: of the file.

    Returns:
        The scores.

    Raises:
        ConfigError: there is no such file, or its suffix is another.
        DataError: it is damaged, of another program, or holds scores that cannot be; all that is wrong is named.
        MissingExtraError: pyarrow is not installed, for Parquet.
    """
    suffix = check_path("scores", path)
    if not Path(path).is_file():
        raise ConfigError(f"scores ({path}) must be a file, but there is none of that name. Check the path.")
    try:
        metadata, names, tensors = (_read_parquet if suffix == ".parquet" else _read_safetensors)(path)
        if metadata.get("format") != FORMAT:
            raise ValueError("it is no file of scores")
        if metadata.get("version") != VERSION:
            raise ValueError(f"its version is {metadata.get('version')!r}, and this program reads {VERSION}")
        labels, skipped = (_texts(name, json.loads(metadata[name])) for name in ("labels", "skipped"))
        provenance = json.loads(metadata["provenance"])
        if not isinstance(provenance, dict):
            raise ValueError("provenance is no table")
        result = EvaluationResult(
            labels,
            _texts("names", names if names is not None else json.loads(metadata["names"])),
            tensors["targets"].long(),
            tensors["scores"].float(),
            skipped,
            None if tensors.get("logits") is None else tensors["logits"].float(),
            _texts("groups", json.loads(metadata["groups"])) if "groups" in metadata else None,
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"scores ({path}) must be a file that apt-peft evaluate --save-scores wrote, but: {reason}. Save them again."
        ) from None
    _check(str(path), result)
    return StoredScores(str(path), result, provenance)


def problems(result: EvaluationResult) -> list[str]:
    """What is wrong with scores, as sentences' ends.

    Args:
        result: the scores.

    Returns:
        Nothing where all is well.
    """
    clips, labels, scores, targets = len(result.names), len(result.labels), result.scores, result.targets
    found = []
    if not clips:
        found.append("there are no clips")
    if labels < 2:
        found.append(f"there are {labels} classes")
    for name, texts in (("clips", result.names), ("classes", result.labels)):
        if twice := [text for text, count in Counter(texts).items() if count > 1]:
            found.append(f"{name} stand there more than once: {shown(twice)}")
    if result.groups is not None and len(result.groups) != clips:
        found.append(f"there are {len(result.groups)} groups of {clips} clips")
    wanted: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "scores": (scores, (clips, labels)),
        "targets": (targets, (clips,)),
    }
    if result.logits is not None:
        views = result.logits.shape[1] if result.logits.dim() == 3 else 1
        wanted["logits"] = (result.logits, (clips, max(views, 1), labels))
    shapes = [
        f"{name} have the shape {list(tensor.shape)}, and {clips} clips of {labels} classes want {list(shape)}"
        for name, (tensor, shape) in wanted.items()
        if tensor is not None and tuple(tensor.shape) != shape
    ]
    if shapes or not clips:
        return found + shapes

    def of(bad: Tensor) -> str:
        return shown([result.names[place] for place in bad.nonzero()[:, 0].tolist()])

    if (bad := (targets < 0) | (targets >= labels)).any():
        found.append(f"{int(bad.sum())} clips have a true label that is none of 0 to {labels - 1}: {of(bad)}")
    infinite = ~scores.isfinite().all(dim=1)
    if result.logits is not None:
        infinite |= ~result.logits.isfinite().all(dim=2).all(dim=1)
    if infinite.any():
        found.append(f"{int(infinite.sum())} clips have scores that are NaN or infinite: {of(infinite)}")
    if (bad := (scores < 0).any(dim=1)).any():
        found.append(f"{int(bad.sum())} clips have probabilities below 0: {of(bad)}")
    if (bad := ~infinite & ((scores.double().sum(dim=1) - 1).abs() > TOLERANCE)).any():
        found.append(f"{int(bad.sum())} clips have probabilities that do not sum to 1: {of(bad)}")
    return found


def shown(names: list[str]) -> str:
    """The first few of some names."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _check(path: str, result: EvaluationResult) -> None:
    if found := problems(result):
        raise DataError(
            f"scores ({path}) must be ones that can be counted on, but {'; '.join(found)}. Save them again."
        )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{name} are no texts")
    return tuple(value)


def _write_safetensors(path: Path, result: EvaluationResult, metadata: dict[str, str]) -> None:
    tensors = {"scores": result.scores, "targets": result.targets}
    if result.logits is not None:
        tensors["logits"] = result.logits
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        str(path),
        metadata | {"names": _json(result.names)},
    )


def _read_safetensors(path: str | Path) -> tuple[dict[str, str], list[str] | None, dict[str, Tensor]]:
    with safe_open(str(path), "pt") as file:
        return file.metadata() or {}, None, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _write_parquet(path: Path, result: EvaluationResult, metadata: dict[str, str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def lists(tensor: Tensor) -> Any:
        found = pa.array(tensor.contiguous().flatten().numpy())
        for size in reversed(tensor.shape[1:]):
            found = pa.FixedSizeListArray.from_arrays(found, size)
        return found

    columns = {
        "name": pa.array(result.names, pa.string()),
        "label": pa.array([result.labels[target] for target in result.targets.tolist()], pa.string()),
        "target": pa.array(result.targets.numpy()),
        "scores": lists(result.scores),
    }
    if result.groups is not None:
        columns["group"] = pa.array(result.groups, pa.string())
    if result.logits is not None:
        columns["logits"] = lists(result.logits)
    metadata = {name: text for name, text in metadata.items() if name != "groups"}
    parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), path)


def _read_parquet(path: str | Path) -> tuple[dict[str, str], list[str] | None, dict[str, Tensor]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        table = file.read()
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if metadata.get("format") != FORMAT:
        return metadata, None, {}
    clips, labels = len(table), len(json.loads(metadata["labels"]))

    def tensor(column: str, *shape: int) -> Tensor:
        values = table[column].combine_chunks()
        while hasattr(values, "flatten") and hasattr(values.type, "value_type"):
            values = values.flatten()
        if values.null_count:
            raise ValueError(f"{column} have empty places")
        return torch.tensor(values.to_numpy(zero_copy_only=False)).reshape(shape)

    tensors = {"targets": tensor("target", clips), "scores": tensor("scores", clips, labels)}
    if "logits" in table.column_names:
        tensors["logits"] = tensor("logits", clips, -1, labels)
    if "group" in table.column_names:
        metadata["groups"] = _json(table["group"].to_pylist())
    return metadata, table["name"].to_pylist(), tensors
