"""Writing shards, killed at random moments: `tests/shard_kills.py`, which does more of them by hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import shard_kills


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_killed_at_random_moments(tmp_path):
    script = Path(shard_kills.__file__)
    words = [sys.executable, str(script), str(tmp_path), "--kills", "5", "--clips", "12"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("5 kills")
    assert done.stdout.endswith("all ends are the same bytes\n")
