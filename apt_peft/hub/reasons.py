"""What went wrong with the Hub, in one line with its remedy."""

import json

from huggingface_hub import constants
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

from .bounds import TooLongError

# Whatever HTTP library this huggingface_hub stands on: what its own error is made of, beside OSError.
HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
# What a call of huggingface_hub can end with where the Hub, the network, the disk or an argument is at fault.
FAILURES: tuple[type[Exception], ...] = (HTTP_ERROR, OSError, ValueError, RuntimeError, KeyError, TypeError)


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
    if isinstance(error, TooLongError):
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
        text = str(error).strip().rstrip(".") or type(error).__name__
        return f"the Hub ({hub}) cannot be reached: {text}. Check the network."
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
