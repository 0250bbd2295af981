"""The Hugging Face Hub: files whole or not at all, requests within bounds, and one clear line where it fails."""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_session, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import _CACHED_NO_EXIST

from .errors import AptError, CheckpointError

# Seconds: of silence in a request, of a wait that a busy server may ask for, of a whole download, of a whole upload.
SILENCE, LONGEST_WAIT = 60, 120
DOWNLOAD, UPLOAD = 3600, 3600

# Whatever HTTP library this huggingface_hub stands on: what its own error is made of, beside OSError.
HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
# What a call of huggingface_hub can end with where the Hub, the network, the disk or an argument is at fault.
FAILURES: tuple[type[Exception], ...] = (HTTP_ERROR, OSError, ValueError, RuntimeError, KeyError, TypeError)

# The adapter and what describes it; never the checkpoints or a cache.
FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "README.md",
    "run.json",
    "preprocessor_config.json",
    "evaluation/*",
)


class _TooLongError(RuntimeError):
    """A server asks for more patience than there is."""


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

    Returns:
        The file in the cache, its content what the Hub says it is; None for an optional one that the repository lacks.

    Raises:
        CheckpointError: the file cannot be had, is too large, or is not what the Hub says. What came of it is deleted.
    """
    wanted: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
    try:
        path, size = _fetch(name, file, most, wanted, local_files_only)
    except FAILURES as error:
        if optional and _is_known_to_be_missing(error, name, file, revision, cache_dir):
            return None
        raise CheckpointError(
            f"{file} of {name} must be on the Hub, but {reason(error, name, file, revision)}"
        ) from None
    if path is None or size > most:
        raise CheckpointError(f"{file} of {name} must have at most {most:,} bytes, but has {size:,}. It was not read.")
    _verify(path, name, file)
    return path


def _fetch(name: str, file: str, most: int, wanted: dict[str, Any], local_files_only: bool) -> tuple[Path | None, int]:
    """A file in the cache and its size; None where it is not downloaded, since it is too large."""
    wanted = wanted | {"local_files_only": local_files_only}
    try:
        with bounded(DOWNLOAD):
            known = hf_hub_download(name, file, dry_run=True, **wanted)
            if (known.file_size or 0) > most:
                return None, known.file_size
            path = Path(hf_hub_download(name, file, **wanted))
            return path, path.stat().st_size
    except _TooLongError:
        if not local_files_only:
            # A copy that is there already is as good as it is when the Hub cannot be reached.
            with suppress(LocalEntryNotFoundError):
                return _fetch(name, file, most, wanted, local_files_only=True)
        raise


def _is_known_to_be_missing(
    error: Exception, name: str, file: str, revision: str | None, cache_dir: str | Path | None
) -> bool:
    if not isinstance(error, EntryNotFoundError):
        return False
    if not isinstance(error, LocalEntryNotFoundError):
        return True
    # The cache remembers what a repository was found to lack.
    return try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=revision) is _CACHED_NO_EXIST


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


def check(repository: str) -> None:
    """See, before hours of training, that somebody is logged in at the Hub.

    Args:
        repository: `user/name`.

    Raises:
        AptError: the Hub cannot be reached or knows no user.
    """
    try:
        with bounded(UPLOAD):
            HfApi().whoami()
    except FAILURES as error:
        raise AptError(
            f"push_to_hub ({repository}) must find the Hub and a user who is logged in, but {reason(error, repository)}"
        ) from None


def push(
    folder: str | Path,
    repository: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    message: str = "Upload adapter",
) -> str:
    """Upload an adapter folder, its card and its numbers, in one commit.

    Args:
        folder: of the adapter.
        repository: `user/name`; made if it does not exist.
        private: whether a new repository is.
        token: of a user; the one that is logged in by default.
        revision: branch to commit to; made if it does not exist; main by default.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        AptError: the Hub refuses or cannot be reached. A commit is made whole or not at all, and the folder stays.
    """
    try:
        with bounded(UPLOAD):
            api = HfApi(token=token)
            api.create_repo(repository, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repository, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                allow_patterns=list(FILES),
                commit_message=message,
                revision=revision,
            )
            return str(commit.commit_url)
    except FAILURES as error:
        raise AptError(
            f"push_to_hub ({repository}) must be a repository that you may write to; the adapter stays in {folder}, but "
            f"{reason(error, repository, revision=revision)}"
        ) from None


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Let requests of huggingface_hub end by themselves in this block, which it does not see to everywhere.

    Args:
        seconds: after which none is begun any more.

    A request that is silent for a minute fails, and so does one that is told to wait for more than two.
    """
    deadline = time.monotonic() + seconds

    def refuse_late(request: Any) -> None:
        if time.monotonic() > deadline:
            raise _TooLongError(
                f"the Hub ({constants.ENDPOINT}) was not done in {seconds:.0f} seconds. Try again later."
            )

    def refuse_long_waits(response: Any) -> None:
        wait = _wait_asked_for(response)
        if wait > LONGEST_WAIT:
            raise _TooLongError(
                f"the Hub ({constants.ENDPOINT}) answers {response.status_code} and asks to wait {wait:,} seconds. Try "
                "again then."
            )

    session = get_session()
    timeout, hooks = session.timeout, session.event_hooks
    session.timeout = SILENCE
    session.event_hooks = {
        "request": [*hooks["request"], refuse_late],
        "response": [*hooks["response"], refuse_long_waits],
    }
    try:
        yield
    finally:
        session.timeout, session.event_hooks = timeout, hooks


def _wait_asked_for(response: Any) -> int:
    """Seconds that huggingface_hub is going to wait before it asks again, where a server says how many."""
    if response.status_code not in (408, 429, 500, 502, 503, 504):
        return 0
    limit = re.search(r"\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)", response.headers.get("ratelimit", ""))
    after = response.headers.get("retry-after", "").strip()
    if limit and response.status_code == 429:
        return int(limit[1])
    return int(after) if after.isdecimal() else 0


def reason(error: BaseException, name: str, file: str | None = None, revision: str | None = None) -> str:
    """Why a call of huggingface_hub, or of a library above it, failed.

    Args:
        error: what it raised.
        name: of the repository.
        file: that was asked for.
        revision: that was asked for.

    Returns:
        What is wrong and what to do, to follow "but".
    """
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    told = (_known_reason(one, name, file, revision) for one in chain)
    first = str(error).strip().split("\n")[0].rstrip(".")
    return next((text for text in told if text), f"{first or type(error).__name__}.")


def _known_reason(error: BaseException, name: str, file: str | None, revision: str | None) -> str | None:
    hub = constants.ENDPOINT
    if isinstance(error, _TooLongError):
        return str(error)
    if isinstance(error, GatedRepoError):
        return f"it is gated: its owner lets people in. Ask for access at {hub}/{name}, then run: hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no repository {name}, or it is private and you are not logged in as somebody who may read it. Check "
            "the name, or run: hf auth login"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision or 'main'}. Give a branch, a tag or a commit that it has."
    if isinstance(error, LocalTokenNotFoundError):
        return "nobody is logged in. Run: hf auth login"
    if isinstance(error, OfflineModeIsEnabled) and file is None:
        return "the Hub must not be asked (HF_HUB_OFFLINE is set). Unset it."
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return None  # what it stands for comes next
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return (
            f"it is not in the cache ({constants.HF_HUB_CACHE}), and the Hub must not be asked (HF_HUB_OFFLINE is set). Load "
            "it once online."
        )
    if isinstance(error, EntryNotFoundError):
        return f"it has no {file}." if file else None
    if isinstance(error, HFValidationError):
        return "that is no name of a repository. Give user/name."
    if isinstance(error, HfHubHTTPError):
        return _status_reason(error)
    if isinstance(error, KeyError | TypeError | json.JSONDecodeError):  # a page of a hotel's network, for example
        return (
            f"what the Hub ({hub}) answers cannot be understood ({type(error).__name__}: {error}). Check the network."
        )
    if isinstance(error, HTTP_ERROR):
        return f"the Hub ({hub}) cannot be reached: {str(error).strip() or type(error).__name__}. Check the network."
    return None


def _status_reason(error: HfHubHTTPError) -> str:
    hub, status = constants.ENDPOINT, error.response.status_code
    told = (error.server_message or "").strip().split("\n")[0].rstrip(".")
    if status == 401:
        return f"the Hub ({hub}) does not take your token. Run: hf auth login"
    if status == 403:
        return f"you may not do this{f' ({told})' if told else ''}. Log in as somebody who may: hf auth login"
    if status == 429 or status >= 500:
        return f"the Hub ({hub}) answers {status}{f' ({told})' if told else ''}. Try again later."
    return f"the Hub ({hub}) answers {status}{f' ({told})' if told else ''}."
