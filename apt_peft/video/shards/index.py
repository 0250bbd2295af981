"""The index of shards, as JSON: which videos lie where. Ours is `index.json`; for other shards one is kept for each."""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..clip import SPLITS
from .scan import Row, Shard, scan

INDEX = "index.json"
FORMAT = "apt-peft shards"
VERSION = 2
# Version 1 did not name the clips.
_READ = (1, VERSION)
# Columns that are there where anything is known of them, in the order of `Row`.
_TOLD = ("names", "groups")
# Raise it when `scan` finds out something else than before.
_SCAN_VERSION = 2


@dataclass
class ShardIndex:
    """What `index.json` holds.

    Args:
        labels: names of the classes, by label.
        made_from: what the shards were made from and how.
        records: by `train`, `val` and `test`, a record of each shard in its order: what `shard_to_json` gives, between which
            places of the order its clips lie (`first`, `next`), and which of these could not be read (`skipped`). One
            without a `file` has nothing but the latter.
        folder: of the shards.

    Raises:
        ValueError: a record is not what it should be; KeyError and TypeError likewise.
    """

    labels: list[str]
    made_from: dict[str, Any]
    records: dict[str, list[dict[str, Any]]]
    folder: Path
    splits: dict[str, list[Shard]] = field(init=False)

    def __post_init__(self) -> None:
        self.splits = {
            split: [shard_from_json(record, self.folder) for record in records if record["file"] is not None]
            for split, records in self.records.items()
        }

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Names of videos that could not be read and were left out, and why."""
        return [
            (str(name), str(reason))
            for records in self.records.values()
            for record in records
            for name, reason in record["skipped"]
        ]

    def counts(self) -> dict[str, dict[str, int]]:
        """Shards, clips, bytes and skipped clips of each split."""
        return {
            split: {
                "shards": len(shards),
                "clips": sum(len(shard.rows) for shard in shards),
                "bytes": sum(shard.size for shard in shards),
                "skipped": sum(len(record["skipped"]) for record in self.records[split]),
            }
            for split, shards in self.splits.items()
        }

    def write(self) -> None:
        """Write `index.json`; a reader sees the old one or the new one."""
        value = {
            "format": FORMAT,
            "version": VERSION,
            "labels": self.labels,
            "made_from": self.made_from,
            "counts": self.counts(),
            "splits": self.records,
        }
        write_json(self.folder / INDEX, value)


def read_index(folder: Path) -> ShardIndex | None:
    """Read `index.json`.

    Args:
        folder: of the shards.

    Returns:
        What it says; None where there is none, or one of something else.

    Raises:
        DataError: it is damaged, or of a newer version.
    """
    path = folder / INDEX
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, _first_line(error)) from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return None
    if value.get("version") not in _READ:
        raise DataError(
            f"index ({path}) must be of version {VERSION}, but it is of version {value.get('version')!r}. "
            "Update apt_peft, or delete the index: the shards are then indexed anew."
        )
    try:
        labels = [str(name) for name in value["labels"]]
        records = {split: records for split, records in value["splits"].items() if split in SPLITS}
        index = ShardIndex(labels, dict(value["made_from"]), records, folder)
        _ = index.counts(), index.skipped
        return index
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {_first_line(error)}") from None


def shard_to_json(shard: Shard) -> dict[str, Any]:
    """A shard by columns, which take less room than rows.

    Args:
        shard: the shard.

    Returns:
        What JSON can hold; its file is named without a folder.
    """
    columns = list(zip(*shard.rows, strict=True)) or [()] * len(Row._fields)
    reasons = {str(place): reason for place, reason in enumerate(columns[4]) if reason is not None}
    return {
        "file": Path(shard.path).name,
        "size": shard.size,
        "sha256": shard.sha256,
        "clips": len(shard.rows),
        "members": list(columns[0]),
        "offsets": list(columns[1]),
        "sizes": list(columns[2]),
        "labels": list(columns[3]),
        **({"reasons": reasons} if reasons else {}),
        **{
            key: list(column)
            for key, column in zip(_TOLD, columns[5:], strict=True)
            if any(text is not None for text in column)
        },
    }


def shard_from_json(value: Mapping[str, Any], folder: Path) -> Shard:
    """What `shard_to_json` made.

    Args:
        value: from JSON.
        folder: of the shard.

    Returns:
        The shard.

    Raises:
        ValueError: it is not what it should be; KeyError and TypeError likewise.
    """
    file = value["file"]
    if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
        raise ValueError(f"{file!r} is no name of a file")
    reasons = {int(place): str(reason) for place, reason in value.get("reasons", {}).items()}
    rows = []
    told = [value.get(key) or [None] * len(value["members"]) for key in _TOLD]
    columns = zip(value["members"], value["offsets"], value["sizes"], value["labels"], *told, strict=True)
    for place, (member, offset, size, label, name, group) in enumerate(columns):
        reason = reasons.get(place)
        numbers = _is_count(offset) and _is_count(size) and (reason is not None or offset >= 512)
        if not isinstance(member, str) or not numbers or isinstance(label, (bool, float, list, dict)):
            raise ValueError(f"row {place} of {file} is no video")
        if not all(text is None or isinstance(text, str) for text in (name, group)):
            raise ValueError(f"row {place} of {file} has no name of a video or its group")
        rows.append(Row(member, offset, size, label, reason, name, group))
    if not _is_count(value["size"]) or value["clips"] != len(rows):
        raise ValueError(f"the counts of {file} do not agree")
    sha256 = value["sha256"]
    return Shard(str(folder / file), value["size"], rows, None if sha256 is None else str(sha256))


def indexed(path: str) -> Shard:
    """A shard that has no index of ours: looked through once, and remembered beside it, or in a cache.

    Args:
        path: of the tar file.

    Returns:
        What is in it.

    Raises:
        OSError: it cannot be opened.
    """
    state = os.stat(path)
    key = {"scan": _SCAN_VERSION, "size": state.st_size, "modified": state.st_mtime_ns}
    place = Path(path)
    hashed = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    places = [place.with_name(f".{place.name}.index.json"), cache_folder() / f"{hashed}.json"]
    for known in places:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            value = json.loads(known.read_bytes())
            if value["of"] == key and value["file"] == place.name:
                return shard_from_json(value, place.parent)
    shard = scan(path)
    for new in places:
        with suppress(OSError):
            new.parent.mkdir(parents=True, exist_ok=True)
            write_json(new, {"of": key, **shard_to_json(shard)})
            break
    return shard


def cache_folder() -> Path:
    """Where indices of shards lie whose own folder is read-only."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "apt_peft" / "shards"


def read_json(path: Path) -> dict[str, Any] | None:
    """Read what `write_json` wrote.

    Args:
        path: of the file.

    Returns:
        The value; None where there is none, or something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside its place and move it there: a reader finds the whole file or none.

    Args:
        path: of the file.
        value: what JSON can hold.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        # A name of a file may be no text: it stands there as JSON's escapes.
        with temporary.open("x", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(value, file, ensure_ascii=False, separators=(",", ":"))
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"index ({path}) must be a whole index of shards, but it is damaged: {why}. Delete it: the shards are then "
        "indexed anew, by one pass over their headers."
    )
