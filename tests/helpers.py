"""What several test files need."""

import re
from contextlib import contextmanager

import pytest


@contextmanager
def raises_exactly(kind: type[Exception], message: str):
    """Expect an error of this kind whose whole message is this text."""
    with pytest.raises(kind, match=re.escape(message) + r"\Z") as caught:
        yield caught
    assert str(caught.value) == message
