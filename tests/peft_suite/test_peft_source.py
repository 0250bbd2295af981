"""Where PEFT's tests come from, and what happens when they can't be had."""

import adapt
import pytest
import theirs


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache, and a pip that asks nobody."""
    monkeypatch.setattr(theirs, "CACHE", tmp_path)
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


def test_a_release_that_cannot_be_had_is_named(offline, tmp_path):
    with pytest.raises(
        theirs.Unavailable, match=r"pip download of peft 0\.0\.1 failed: ERROR: No matching distribution"
    ):
        theirs.fetch("0.0.1")
    assert not (tmp_path / "0.0.1" / theirs.PACKAGE).exists()


def test_without_a_network_the_tests_are_skipped_but_never_in_ci(offline, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(
        pytest.skip.Exception, match=r"PEFT's tests are not in its wheel: pip download of peft .* failed"
    ):
        adapt.load("test_config")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(theirs.Unavailable):
        adapt.load("test_config")


def test_only_their_python_files_are_kept():
    folder = theirs.fetch(theirs.version("peft")) / theirs.PACKAGE
    assert {path.suffix for path in folder.iterdir()} <= {".py", ""}
    assert (folder / "test_custom_models.py").is_file()
