"""Facts of run.json."""

import platform

import pytest

from apt_peft.training.record import percent, versions


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0.0 %"), (66.666, "66.7 %")])
def test_shares_in_per_cent(value, text):
    assert percent(value) == text


def test_versions_are_those_of_this_process():
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["apt-peft"]
    assert all(found[name] for name in ("torch", "transformers", "peft"))
