"""Bounds of requests, in several threads that share huggingface_hub's client."""

import threading

import pytest
from huggingface_hub import HfApi, get_session
from server import Fault

from apt_peft.hub import bounds


def test_the_client_is_left_as_it_was(server):
    before = {kind: list(hooks) for kind, hooks in get_session().event_hooks.items()}
    entered, leave = threading.Event(), threading.Event()

    def overlap() -> None:
        with bounds.bounded(60):
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=overlap)
    with bounds.bounded(60):
        thread.start()
        assert entered.wait(60)
    # The other's hooks are still there, ours are not: whoever comes first must not take the other's off, or put them back.
    assert sum(map(len, get_session().event_hooks.values())) == sum(map(len, before.values())) + 2
    leave.set()
    thread.join()
    assert get_session().event_hooks == before


def test_an_error_in_the_block_leaves_it_so_too(server):
    before = {kind: list(hooks) for kind, hooks in get_session().event_hooks.items()}
    with pytest.raises(KeyError), bounds.bounded(60):
        raise KeyError
    assert get_session().event_hooks == before


def test_what_another_thread_began_before_is_not_limited(server):
    """Only whose time is over is stopped."""
    asked, answered = threading.Event(), []

    def other() -> None:
        assert asked.wait(60)
        answered.append(HfApi().whoami()["name"])

    thread = threading.Thread(target=other)
    thread.start()
    with bounds.bounded(-1):
        with pytest.raises(bounds.TooLongError, match=r"was not done in -1 seconds\. Try again later\.$"):
            HfApi().whoami()
        asked.set()
        thread.join()
    assert answered == ["me"]


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {"retry-after": "7"}, 7),
        (503, {"retry-after": " 7 "}, 7),
        (200, {"retry-after": "7"}, 0),
        (429, {}, 0),
        (429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),  # huggingface_hub does not wait for it either
        (429, {"ratelimit": '"api";r=0;t=55'}, 55),
        (429, {"ratelimit": '"api"; r = 0 ; t = 55', "retry-after": "7"}, 55),
        (429, {"ratelimit": '"api";r=3;t=55', "retry-after": "7"}, 7),
        (503, {"ratelimit": '"api";r=0;t=55'}, 0),
    ],
)
def test_the_wait_that_is_asked_for_is_the_one_that_huggingface_hub_waits(server, waits, status, headers, seconds):
    server.faults.append(Fault("GET", "/api/models/me/x/revision/main", status=status, headers=headers))
    response = get_session().get(f"{server.address}/api/models/me/x/revision/main")
    assert bounds._wait_asked_for(response) == seconds
