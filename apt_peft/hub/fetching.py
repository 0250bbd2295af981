"""Files from the Hub: whole, of the expected size, and with the content that the Hub names."""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from huggingface_hub.file_download import _CACHED_NO_EXIST

from ..errors import CheckpointError
from .bounds import TooLongError, bounded
from .reasons import FAILURES, reason

SECONDS = 3600  # of one file


def download(
    name: str,
    file: str,
    *,
    most: int,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    optional: bool = False,
    seconds: float = SECONDS,
    repo_type: str | None = None,
) -> Path | None:
    """Get one file of a repository, from the cache where it is there.

    Args:
        name: `user/name`.
        file: its path in the repository.
        most: bytes that it may have; a larger one is not downloaded.
        revision: branch, tag or commit; main by default.
        token: of a user; the one that is logged in by default.
        cache_dir: huggingface_hub's cache by default.
        local_files_only: look into the cache alone, as `HF_HUB_OFFLINE=1` does for all.
        optional: the file may be missing.
        seconds: after which nothing more is asked.
        repo_type: `"dataset"`; a model by default. A file of a data set that is in the cache already is not read through again.

    Returns:
        The file in the cache, its content what the Hub says it is; None for an optional one that the repository lacks.

    Raises:
        CheckpointError: the file cannot be had, is too large, or is not what the Hub says. What came of it is deleted.
    """
    wanted: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir, "repo_type": repo_type}
    place: dict[str, Any] = {"cache_dir": cache_dir, "revision": revision, "repo_type": repo_type}
    known = repo_type is not None and isinstance(try_to_load_from_cache(name, file, **place), str)
    try:
        path, size = _fetch(name, file, most, wanted, local_files_only, seconds)
    except FAILURES as error:
        if optional and _is_known_to_be_missing(error, name, file, place):
            return None
        raise CheckpointError(
            f"{file} of {name} must be on the Hub, but {reason(error, name, file, revision)}"
        ) from None
    if path is None or size > most:
        raise CheckpointError(f"{file} of {name} must have at most {most:,} bytes, but has {size:,}. It was not read.")
    if not known:
        _verify(path, name, file)
    return path


def list_files(name: str, *, revision: str | None = None, repo_type: str | None = None) -> list[str]:
    """The files of a repository.

    Args:
        name: `user/name`.
        revision: branch, tag or commit; main by default.
        repo_type: `"dataset"`; a model by default.

    Returns:
        Their paths in it.

    Raises:
        CheckpointError: the Hub cannot be asked.
    """
    try:
        with bounded(SECONDS):
            return list(HfApi().list_repo_files(name, revision=revision, repo_type=repo_type))
    except FAILURES as error:
        raise CheckpointError(
            f"the files of {name} must be on the Hub, but {reason(error, name, None, revision)}"
        ) from None


def _fetch(
    name: str, file: str, most: int, wanted: dict[str, Any], local_files_only: bool, seconds: float
) -> tuple[Path | None, int]:
    """A file in the cache and its size; None where it is not downloaded, since it is too large."""
    wanted = wanted | {"local_files_only": local_files_only}
    try:
        with bounded(seconds):
            known = hf_hub_download(name, file, dry_run=True, **wanted)
            if (known.file_size or 0) > most:
                return None, known.file_size
            path = Path(hf_hub_download(name, file, **wanted))
            return path, path.stat().st_size
    except TooLongError:
        if not local_files_only:
            # A copy that is there already is as good as it is when the Hub cannot be reached.
            with suppress(LocalEntryNotFoundError):
                return _fetch(name, file, most, wanted, True, seconds)
        raise


def _is_known_to_be_missing(error: Exception, name: str, file: str, place: dict[str, Any]) -> bool:
    if not isinstance(error, EntryNotFoundError):
        return False
    if not isinstance(error, LocalEntryNotFoundError):
        return True
    # The cache remembers what a repository was found to lack.
    return try_to_load_from_cache(name, file, **place) is _CACHED_NO_EXIST


def _verify(path: Path, name: str, file: str) -> None:
    """Compare a file with the hash that the Hub names it by; huggingface_hub compares sizes alone."""
    if not path.is_symlink():  # a cache without links (Windows) does not keep the hash
        return
    blob = Path(os.readlink(path))
    known = blob.name
    if re.fullmatch(r"[0-9a-f]{64}", known):
        digest = hashlib.sha256()
    elif re.fullmatch(r"[0-9a-f]{40}", known):  # of a file that git keeps itself
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:  # another server than the Hub may name files as it likes
        return
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() == known:
        return
    for damaged in (path.parent / blob, path):
        damaged.unlink(missing_ok=True)
    raise CheckpointError(
        f"{file} of {name} must have the content that the Hub names by {known[:16]}, but has another: it was damaged on "
        "its way or in the cache. It was deleted; load it again."
    )
