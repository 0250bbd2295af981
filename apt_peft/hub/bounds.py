"""Requests that end by themselves, which huggingface_hub does not see to everywhere."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import constants, get_session

# Seconds: of silence in a request, and of a wait that a busy server may ask for.
SILENCE, LONGEST_WAIT = 60, 120
_HOOKING = threading.Lock()
KINDS = ("connect", "read", "write", "pool")  # what httpx limits apart


class TooLongError(RuntimeError):
    """A server asks for more patience than there is."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Let requests of huggingface_hub end by themselves in this block.

    Args:
        seconds: after which none is begun any more.

    A request that is silent for a minute fails, and so does one that is told to wait for more than two. Those of other
    threads, which share huggingface_hub's client, are left alone, except of threads that the block starts.
    """
    deadline = time.monotonic() + seconds
    owner, others = threading.get_ident(), {thread.ident for thread in threading.enumerate()}

    def is_ours() -> bool:
        return threading.get_ident() == owner or threading.get_ident() not in others

    def limit(request: Any) -> None:
        if not is_ours():
            return
        # Where huggingface_hub passes no limit, or None on purpose, a silent server would be listened to for ever.
        limits = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {kind: limits.get(kind) or SILENCE for kind in KINDS}
        if time.monotonic() > deadline:
            raise TooLongError(
                f"the Hub ({constants.ENDPOINT}) was not done in {seconds:.0f} seconds. Try again later."
            )

    def refuse_long_waits(response: Any) -> None:
        wait = _wait_asked_for(response)
        if is_ours() and wait > LONGEST_WAIT:
            raise TooLongError(
                f"the Hub ({constants.ENDPOINT}) answers {response.status_code} and asks to wait {wait:,} seconds. Try "
                "again then."
            )

    session = get_session()
    _hook(session, {"request": [limit], "response": [refuse_long_waits]}, [])
    try:
        yield
    finally:
        _hook(session, {}, [limit, refuse_long_waits])


def _hook(session: Any, more: dict[str, list[Any]], fewer: list[Any]) -> None:
    """Add hooks to a client, and take others off, whoever else does so meanwhile."""
    with _HOOKING:
        session.event_hooks = {
            kind: [hook for hook in hooks if hook not in fewer] + more.get(kind, [])
            for kind, hooks in session.event_hooks.items()
        }


def _wait_asked_for(response: Any) -> int:
    """Seconds that huggingface_hub is going to wait before it asks again, where a server says how many."""
    if response.status_code not in (408, 429, 500, 502, 503, 504):
        return 0
    limit = re.search(r"\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)", response.headers.get("ratelimit", ""))
    after = response.headers.get("retry-after", "").strip()
    if limit and response.status_code == 429:
        return int(limit[1])
    return int(after) if after.isdecimal() else 0
