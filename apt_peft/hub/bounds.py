"""Requests that end by themselves, which huggingface_hub does not see to everywhere."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import constants, get_session

# Seconds: of silence in a request, and of a wait that a busy server may ask for.
SILENCE, LONGEST_WAIT = 60, 120
KINDS = ("connect", "read", "write", "pool")  # what httpx limits apart


class TooLongError(RuntimeError):
    """A server asks for more patience than there is."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Let requests of huggingface_hub end by themselves in this block.

    Args:
        seconds: after which none is begun any more.

    A request that is silent for a minute fails, and so does one that is told to wait for more than two.
    """
    deadline = time.monotonic() + seconds

    def limit(request: Any) -> None:
        # Where huggingface_hub passes no limit, or None on purpose, a silent server would be listened to for ever.
        limits = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {kind: limits.get(kind) or SILENCE for kind in KINDS}
        if time.monotonic() > deadline:
            raise TooLongError(
                f"the Hub ({constants.ENDPOINT}) was not done in {seconds:.0f} seconds. Try again later."
            )

    def refuse_long_waits(response: Any) -> None:
        wait = _wait_asked_for(response)
        if wait > LONGEST_WAIT:
            raise TooLongError(
                f"the Hub ({constants.ENDPOINT}) answers {response.status_code} and asks to wait {wait:,} seconds. Try "
                "again then."
            )

    session = get_session()
    hooks = session.event_hooks
    session.event_hooks = {
        "request": [*hooks["request"], limit],
        "response": [*hooks["response"], refuse_long_waits],
    }
    try:
        yield
    finally:
        session.event_hooks = hooks


def _wait_asked_for(response: Any) -> int:
    """Seconds that huggingface_hub is going to wait before it asks again, where a server says how many."""
    if response.status_code not in (408, 429, 500, 502, 503, 504):
        return 0
    limit = re.search(r"\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)", response.headers.get("ratelimit", ""))
    after = response.headers.get("retry-after", "").strip()
    if limit and response.status_code == 429:
        return int(limit[1])
    return int(after) if after.isdecimal() else 0
