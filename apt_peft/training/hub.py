"""Uploading an adapter folder, with one clear line where the Hub cannot be used."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from apt_peft.errors import AptError

# Whatever HTTP library this huggingface_hub stands on: the kinds of error that its own is made of.
NETWORK_ERRORS: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, ValueError)  # type: ignore[assignment]
# The adapter and what describes it; never the checkpoints or a cache.
FILES = ("adapter_*", "README.md", "run.json", "preprocessor_config.json", "evaluation/*")


def check(repository: str) -> None:
    """See, before hours of training, that somebody is logged in at the Hub.

    Args:
        repository: `user/name`.

    Raises:
        AptError: the Hub cannot be reached or knows no user.
    """
    with _one_line(f"push_to_hub ({repository}) must find the Hub and a user who is logged in"):
        HfApi().whoami()


def push(out: Path, repository: str) -> str:
    """Upload an adapter folder, its card and its numbers.

    Args:
        out: the adapter folder.
        repository: `user/name`; made if it does not exist.

    Returns:
        The address of the upload.

    Raises:
        AptError: the Hub refuses or cannot be reached; the folder stays.
    """
    with _one_line(f"push_to_hub ({repository}) must be a repository that you may write to; the adapter is in {out}"):
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=out, allow_patterns=list(FILES), commit_message="Upload adapter"
        )
    return str(commit.commit_url)


@contextmanager
def _one_line(rule: str) -> Iterator[None]:
    try:
        yield
    except NETWORK_ERRORS as error:
        reason = str(error).strip().split("\n")[0]
        raise AptError(f"{rule}, but: {reason} Run: hf auth login") from None
