"""Shards compared with what their index says: sizes, checksums, and which video a damage has hit."""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable

from .read import find_shards
from .scan import Shard

_PART = 1 << 20


def is_whole(shard: Shard, *, sha256: bool = False) -> bool:
    """Whether a shard is as its index says.

    Args:
        shard: as in the index.
        sha256: read it all and compare the checksum, not its size alone.

    Returns:
        False also where it is gone.
    """
    try:
        if os.stat(shard.path).st_size != shard.size:
            return False
        return not sha256 or shard.sha256 is None or digest_of(shard.path) == shard.sha256
    except OSError:
        return False


def digest_of(path: str) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return digest.hexdigest()


def verify_shards(data: str | os.PathLike, *, progress: Callable[[int], object] | None = None) -> list[str]:
    """Read shards from end to end and compare their checksums.

    Args:
        data: as for `read_data`.
        progress: called with the bytes of each shard.

    Returns:
        A sentence for each shard or video that is damaged, with both named. Shards that have no checksum have none.

    Raises:
        DataError: there are no such shards.
    """
    damaged = []
    by_split, _ = find_shards(data)
    for shard in (shard for of_split in by_split.values() for shard in of_split):
        if shard.sha256 is not None and not any(row.reason for row in shard.rows):
            try:
                if digest_of(shard.path) != shard.sha256:
                    damaged.append(f"{shard.path} is damaged: {_where(shard)}.")
            except OSError as error:
                damaged.append(f"{shard.path} cannot be read: {(error.strerror or str(error)).lower()}.")
        if progress is not None:
            progress(shard.size)
    return damaged


def _where(shard: Shard) -> str:
    """Which videos of a shard are not as they were written; each one's checksum stands in the JSON after it."""
    found, unknown = [], []
    wanted = _checksums(shard.path)
    with open(shard.path, "rb") as file:
        for row in shard.rows:
            key = row.member.partition(".")[0]
            if key not in wanted:
                unknown.append(row.member)
                continue
            file.seek(row.offset)
            if hashlib.sha256(file.read(row.size)).hexdigest() != wanted[key]:
                found.append(row.member)
    parts = []
    if found:
        parts.append(f"its checksum differs, and that of {_few(found)}")
    if unknown:
        parts.append(f"no checksum can be read in it of {_few(unknown)}")
    return " and ".join(parts) or "its checksum differs, and its videos are as they were"


def _checksums(path: str) -> dict[str, str]:
    """Key -> checksum of the video, as far as the headers can be followed."""
    found = {}
    try:
        with tarfile.open(path, mode="r:") as tar:
            for info in tar:
                key, _, suffix = info.name.partition(".")
                if suffix == "json" and info.isreg() and (file := tar.extractfile(info)) is not None:
                    try:
                        found[key] = str(json.loads(file.read())["sha256"])
                    except (ValueError, KeyError, TypeError):
                        continue
    except (tarfile.TarError, OSError, EOFError):
        pass
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
