"""Adapters to the Hub: in one commit, or not at all."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from ..errors import AptError
from .bounds import bounded
from .reasons import FAILURES, reason

SECONDS = 3600  # of one upload

# A line of a model card's code, which an upload replaces.
CARD, HERE = "README.md", 'adapter = "."  # this folder, or its name on the Hub'

# The adapter and what describes it; never the checkpoints, a cache, or the scores of single clips.
FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    CARD,
    "run.json",
    "preprocessor_config.json",
    "evaluation/*.csv",
    "evaluation/*.json",
    "evaluation/*.png",
)


def check(repository: str) -> None:
    """See, before hours of training, that somebody is logged in at the Hub.

    Args:
        repository: `user/name`.

    Raises:
        AptError: the Hub cannot be reached or knows no user.
    """
    try:
        with bounded(SECONDS):
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
    temporary: bool = False,
) -> str:
    """Upload an adapter folder, its card and its numbers, in one commit.

    Files of an adapter that was there before go where this one has none of that name; others stay.

    Args:
        folder: of the adapter.
        repository: `user/name`; made if it does not exist.
        private: whether a new repository is.
        token: of a user; the one that is logged in by default.
        revision: branch to commit to; made if it does not exist; main by default.
        message: of the commit.
        temporary: the folder goes away afterwards.

    Returns:
        The address of the commit.

    Raises:
        AptError: the Hub refuses or cannot be reached. A commit is made whole or not at all, and the folder stays.
    """
    try:
        with bounded(SECONDS):
            api = HfApi(token=token)
            api.create_repo(repository, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repository, branch=revision, exist_ok=True)
            new = _additions(Path(folder), repository)
            old = _of_an_adapter(api.list_repo_files(repository, revision=revision)) - {add.path_in_repo for add in new}
            # Numbers and settings of an adapter that was there before would be taken for this one's.
            operations: list[Any] = [*new, *(CommitOperationDelete(path) for path in sorted(old))]
            commit = api.create_commit(repository, operations, commit_message=message, revision=revision)
            return str(commit.commit_url)
    except FAILURES as error:
        kept = "" if temporary else f"; the adapter stays in {folder}"
        raise AptError(
            f"push_to_hub ({repository}) must be a repository that you may write to{kept}, but "
            f"{reason(error, repository, revision=revision)}"
        ) from None


def _of_an_adapter(paths: Iterable[str]) -> set[str]:
    """Those of some files that an upload of an adapter may bring."""
    return {
        path
        for path in paths
        if any(path.count("/") == pattern.count("/") and fnmatchcase(path, pattern) for pattern in FILES)
    }


def _additions(folder: Path, repository: str) -> list[CommitOperationAdd]:
    """A folder's files for a commit; a card says there how to load it from where it is going to be."""
    additions = []
    for path in sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()}):
        content: Path | bytes = path
        if path.name == CARD:
            text = path.read_text(encoding="utf-8")
            text = re.sub(
                rf"^{re.escape(HERE)}$|^adapter = \"\.\"$", f'adapter = "{repository}"', text, flags=re.MULTILINE
            )
            content = text.replace("--adapter . ", f"--adapter {repository} ").encode()
        additions.append(CommitOperationAdd(path.relative_to(folder).as_posix(), content))
    return additions
