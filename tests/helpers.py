"""What several test files need."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress

import pytest


@contextmanager
def raises_exactly(kind: type[Exception], message: str):
    """Expect an error of this kind whose whole message is this text."""
    with pytest.raises(kind, match=re.escape(message) + r"\Z") as caught:
        yield caught
    assert str(caught.value) == message


def flags_of(given: Mapping[str, object]) -> list[str]:
    """Settings as words of a command line.

    Args:
        given: values by name; a tuple has several, a switch none.
    """
    words = []
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def killed_when(happened: Callable[[], bool], *words: object, seconds: float = 300) -> None:
    """Run Python with these words, and kill it with all that it started as soon as something has happened.

    Args:
        happened: asked all the time.
        words: as after `python`.
        seconds: to wait for it.
    """
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # sums are those of as many threads as in the tests
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=one_thread,
        )
        end = time.monotonic() + seconds
        try:
            while process.poll() is None and not happened():
                assert time.monotonic() < end, "waited in vain"
                time.sleep(0.001)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        printed.seek(0)
        assert process.returncode == -signal.SIGKILL, f"over before it could be killed: {printed.read().decode()}"
