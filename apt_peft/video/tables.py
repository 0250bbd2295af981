"""Data sets of the `datasets` library -> clips."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, require
from .clip import SPLIT_NAMES, Clip, DataSplits, unknown_labels

HUB_PREFIX = "hf://datasets/"


@dataclass(frozen=True)
class TableVideo:
    """A video whose bytes lie in a row of a data set; they are fetched when they are read.

    Args:
        table: the data set, with the video column undecoded.
        column: of the video.
        row: counted from 0.
        label: what to call it in messages.
        original: the name of its file, where the row tells.
    """

    table: Any
    column: str
    row: int
    label: str
    original: str | None = None

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self.label

    def read_bytes(self) -> bytes:
        """The whole file."""
        value = self.table[self.row][self.column]
        return value["bytes"] if isinstance(value, dict) else value


def is_table(root: Path) -> bool:
    """Whether `datasets` should read a folder: saved by it, of parquet files, or a videofolder with metadata."""
    names = ["dataset_info.json", "dataset_dict.json", "state.json"]
    metadata = ["metadata.csv", "metadata.jsonl", "metadata.parquet"]
    places = [root, *(root / split for split in SPLIT_NAMES)]
    if any((root / name).is_file() for name in names) or any((p / name).is_file() for p in places for name in metadata):
        return True
    return any(root.glob("*.parquet")) or any(root.glob("data/*.parquet"))


def read_table(data: Any, names: list[str] | None, video_column: str | None, label_column: str | None) -> DataSplits:
    """Read clips from a data set of `datasets`.

    Args:
        data: a Dataset, a DatasetDict, a folder or `hf://datasets/OWNER/NAME`.
        names: of the classes; None takes the data set's own.
        video_column: None takes the only column of videos.
        label_column: None takes the only column of class labels, or `label`.

    Returns:
        The clips; a Dataset without splits is all training clips.

    Raises:
        DataError: it cannot be loaded, or its columns, splits or labels cannot be used.
        MissingExtraError: `datasets` is not installed.
    """
    datasets = require("datasets", "video")
    if isinstance(data, (str, os.PathLike)):
        data = _load(str(data))
    if isinstance(data, datasets.Dataset):
        data = {"train": data}
    if not isinstance(data, dict):
        raise DataError(
            f"data ({type(data).__name__}) must be a folder, a Dataset or a DatasetDict. A streamed data set cannot be "
            "drawn from by index: load it without streaming."
        )
    unknown = [split for split in data if split.lower() not in SPLIT_NAMES]
    if unknown:
        raise DataError(f"splits ({unknown}) must be named train, val or test. Rename them, or leave them out.")
    taken = [SPLIT_NAMES[split.lower()] for split in data]
    if len(set(taken)) < len(taken):
        raise DataError(
            f"splits ({list(data)}) must be one of each kind, but two of them mean the same. Leave one out."
        )
    by_split = {}
    for split, table in data.items():
        video = _video_column(table, video_column)
        label = _label_column(table, label_column)
        by_split[SPLIT_NAMES[split.lower()]] = (_sources(table, video, split), *_labels(table, label))
    texts = {text for _, labels, _ in by_split.values() for text in labels}
    own = next((own for _, _, own in by_split.values() if own), None)
    if names is None:
        names = own or sorted(texts, key=lambda text: (not text.isdigit(), int(text) if text.isdigit() else 0, text))
    number = {name: label for label, name in enumerate(names)}
    if number.keys().isdisjoint(texts) and all(text.isdigit() and int(text) < len(names) for text in texts):
        number = {str(label): label for label in range(len(names))}
    if texts - number.keys():
        raise unknown_labels(texts - number.keys(), names)
    result = DataSplits(labels=names)
    for split, (sources, labels, _) in by_split.items():
        clips = [Clip(source, number[text]) for source, text in zip(sources, labels, strict=True)]
        setattr(result, split, clips)
    return result


def _load(data: str) -> Any:
    datasets = require("datasets", "video")
    root = Path(data)
    try:
        if data.startswith(HUB_PREFIX):
            return datasets.load_dataset(data.removeprefix(HUB_PREFIX))
        if any((root / name).is_file() for name in ("dataset_info.json", "dataset_dict.json", "state.json")):
            return datasets.load_from_disk(data)
        if any(root.glob("*.parquet")) or any(root.glob("data/*.parquet")):
            return datasets.load_dataset(data)
        return datasets.load_dataset("videofolder", data_dir=data)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and "torchcodec" not in str(cause):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise DataError(
                f"data ({data}) must be loaded by `datasets`, but the installed torchcodec cannot load its libraries. It is "
                "not needed here. Run: pip uninstall torchcodec"
            ) from error
        raise DataError(
            f"data ({data}) must be a data set that `datasets` can load, but that failed: {type(error).__name__}: {error}"
        ) from error


def _video_column(table: Any, column: str | None) -> str:
    datasets = require("datasets", "video")
    if column is None:
        found = [name for name, feature in table.features.items() if isinstance(feature, datasets.Video)]
        if len(found) == 1:
            return found[0]
        raise DataError(
            f"video_column (None) must be given, but {len(found)} columns of {list(table.features)} are videos. Name the one."
        )
    feature = table.features.get(column)
    if isinstance(feature, datasets.Video) or getattr(feature, "dtype", None) in ("string", "binary", "large_binary"):
        return column
    raise DataError(
        f"video_column ({column!r}) must be a column of videos, paths or bytes among {list(table.features)}."
    )


def _label_column(table: Any, column: str | None) -> str:
    datasets = require("datasets", "video")
    if column is not None:
        if column in table.features:
            return column
        raise DataError(f"label_column ({column!r}) must be one of {list(table.features)}.")
    found = [name for name, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(found) != 1:
        found = [name for name in ("label", "labels", "cls") if name in table.features]
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"label_column (None) must be given, but none of {list(table.features)} is clearly it. Name the one."
    )


def _sources(table: Any, column: str, split: str) -> list[Any]:
    """Paths where the rows have them, else rows whose bytes are fetched later."""
    datasets = require("datasets", "video")
    if isinstance(table.features[column], datasets.Video):
        table = table.cast_column(column, datasets.Video(decode=False))
    table = table.select_columns([column])
    sources: list[Any] = []
    # By arrow, so that the bytes of a large data set are not all copied into memory.
    for batch in table.with_format("arrow").iter(batch_size=1000):
        values = batch.column(column).combine_chunks()
        if getattr(table.features[column], "dtype", None) == "string":
            sources.extend(values.to_pylist())
            continue
        is_struct = hasattr(values.type, "get_field_index") and values.type.num_fields == 2
        paths = values.field("path").to_pylist() if is_struct else [None] * len(values)
        held = values.field("bytes").is_valid() if is_struct else values.is_valid()
        for path, in_table in zip(paths, held.to_pylist(), strict=True):
            row = len(sources)
            label = f"{split}[{row}]" + (f" {path}" if path else "")
            sources.append(TableVideo(table, column, row, label, path or None) if in_table else path)
    missing = [row for row, source in enumerate(sources) if not source]  # arrow leaves "" in an empty row
    if missing:
        raise DataError(f"rows ({missing[:20]}) of {column!r} in {split} must hold a video, but they are empty.")
    return sources


def _labels(table: Any, column: str) -> tuple[list[str], list[str] | None]:
    """The label of each row as text, and the names that the data set itself gives."""
    datasets = require("datasets", "video")
    feature = table.features[column]
    values = list(table.select_columns([column])[column])
    if isinstance(feature, datasets.ClassLabel):
        missing = [row for row, value in enumerate(values) if value is None or value < 0]
        names = list(feature.names)
        texts = [] if missing else [names[value] for value in values]
    else:
        missing = [row for row, value in enumerate(values) if value is None]
        names, texts = None, [str(value) for value in values]
    if missing:
        raise DataError(f"rows ({missing[:20]}) of {column!r} must have a label, but they have none.")
    return texts, names
