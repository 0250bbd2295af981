"""A tar file of anybody's making -> the videos in it: one pass over its headers, no video is read."""

import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from ..clip import VIDEO_SUFFIXES
from .source import BLOCK

# As the webdataset library and `datasets` take names apart: all before the first dot of the last part is the key.
_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
# Of a label or its JSON: a larger one is not what it says.
_MOST = 1 << 20
# Of a name or a number that is a group: longer ones are something else.
_LONGEST, _LARGEST = 4096, 10**18
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Row(NamedTuple):
    """A video of a shard, or one that should be there.

    Args:
        member: its name; empty where it is the shard itself that cannot be read.
        offset: of its first byte in the tar file.
        size: in bytes.
        label: number or name of its class, None where it has none.
        reason: why it cannot be read, as the end of a sentence; None where it can.
        name: what it was called before; None where nothing tells.
        group: what it was cut from; None where nothing tells.
    """

    member: str
    offset: int
    size: int
    label: int | str | None
    reason: str | None = None
    name: str | None = None
    group: str | None = None


@dataclass
class Shard:
    """A tar file and the videos in it.

    Args:
        path: of the file.
        size: in bytes.
        rows: one a video, in their order.
        sha256: of the file; None where nobody wrote it down.
    """

    path: str
    size: int
    rows: list[Row] = field(default_factory=list)
    sha256: str | None = None


def scan(path: str) -> Shard:
    """List the videos of a tar file.

    Args:
        path: of the file, uncompressed.

    Returns:
        What is in it; what is wrong with it is a row with a reason.

    Raises:
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        shard = Shard(path, os.fstat(file.fileno()).st_size)
        start = file.read(6)
        for magic, name in _COMPRESSED.items():
            if start.startswith(magic):
                shard.rows.append(_lost(f"it is compressed by {name}, and nothing can be read by its place: unpack it"))
                return shard
        file.seek(0)
        seen: set[str] = set()
        for key, members in _samples(file, shard):
            shard.rows += _rows(key, members, seen)
            seen.add(key)
    shard.rows.sort(key=lambda row: row.member == "")  # what is said of the whole shard comes last
    return shard


def _samples(file: BinaryIO, shard: Shard) -> Iterator[tuple[str, list[tuple[str, tarfile.TarInfo, Any]]]]:
    """Keys, and what stands under each in a row: suffix, header, and the content of what may be a label."""
    end, current = 0, ""
    members: list[tuple[str, tarfile.TarInfo, Any]] = []
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115, the file is closed by who opened it
        for info in tar:
            end = info.offset_data + (-(-info.size // BLOCK) * BLOCK if info.isreg() else 0)
            tar.members.clear()  # type: ignore[attr-defined]  # else the list of all headers would grow with the shard
            match = _KEY.fullmatch(info.name)
            if match is None or info.isdir():
                continue
            if match[1] != current:
                if members:
                    yield current, members
                current, members = match[1], []
            suffix = match[2].lower()
            small = info.isreg() and suffix in ("cls", "json") and info.size <= _MOST
            held = tar.extractfile(info).read() if small else None  # type: ignore[union-attr]
            members.append((suffix, info, held))
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        # At a damaged header in the middle tarfile just stops, which is found out below.
        whole = os.fstat(file.fileno()).st_size
        cut = end > whole
        text = "it ends in the middle of a file" if cut else f"it is no tar file, or a damaged one: {error}"
        shard.rows.append(_lost(text))
    else:
        file.seek(end)
        mark = file.read(BLOCK)
        if end > shard.size:
            shard.rows.append(_lost("it ends in the middle of a file"))
        elif len(mark) < BLOCK:
            shard.rows.append(_lost("it was cut short: the mark at the end of a tar file is missing"))
        elif any(mark):
            shard.rows.append(_lost(f"it is damaged at byte {end:,}, and what follows cannot be found"))
    if members:
        yield current, members


def _rows(key: str, members: list[tuple[str, tarfile.TarInfo, Any]], seen: set[str]) -> list[Row]:
    """The video of a sample; nothing for what is no sample."""
    videos = [(suffix, info) for suffix, info, _ in members if "." + suffix.rpartition(".")[2] in VIDEO_SUFFIXES]
    held = {suffix: content for suffix, _, content in members if suffix in ("cls", "json")}
    if not videos:
        # A sample without its video; anything else is a file that somebody put beside the samples.
        return [Row(key, 0, 0, None, "there is a label and no video under this key")] if held else []
    info = videos[0][1]
    told = _told(held.get("json"))
    label, reason = _label(held, told)
    suffixes = [suffix for suffix, _, _ in members]
    if twice := sorted({suffix for suffix in suffixes if suffixes.count(suffix) > 1}):
        reason = f"its key {key} has {', '.join(twice)} twice"
    elif len(videos) > 1:
        reason = f"its key {key} has several videos: {', '.join(suffix for suffix, _ in videos)}"
    elif key in seen:
        reason = f"its key {key} stands in the shard before it too"
    elif PurePosixPath(info.name).is_absolute() or ".." in PurePosixPath(info.name).parts:
        reason = "its name leads out of the shard"
    elif not info.isreg() or info.issparse():
        reason = "it is a link or something else that holds no bytes of its own"
    name, group = (_text(told.get(key)) if isinstance(told, dict) else None for key in ("name", "group"))
    return [Row(info.name, info.offset_data, info.size, label, reason, name, group)]


def _told(content: bytes | None) -> Any:
    """What the JSON of a sample says; None where there is none, or nothing can be read in it."""
    try:
        return json.loads(content or b"")
    except (ValueError, RecursionError):
        return None


def _text(value: Any) -> str | None:
    """A name or a number as text; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if -_LARGEST < value < _LARGEST else None
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST else None


def _label(held: dict[str, bytes | None], told: Any) -> tuple[int | str | None, str | None]:
    """Label of a sample, and what is wrong with it."""
    if "cls" in held:
        text = (held["cls"] or b"").decode("utf-8", "replace").strip()
        if not text:
            return None, "its label (cls) is empty"
        return (int(text) if re.fullmatch(r"-?\d{1,18}", text) else text), None
    if "json" in held:
        if told is None:
            return None, "its JSON cannot be read"
        value = told.get("label") if isinstance(told, dict) else None
        if value is None or (isinstance(value, (int, str)) and not isinstance(value, bool)):
            return value, None
        return None, f"its label ({value!r}) is neither a number nor a name"[:200]
    return None, None


def _lost(reason: str) -> Row:
    return Row("", 0, 0, None, reason)
