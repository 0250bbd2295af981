"""A few of the kills of `tests/kills/run.py`; the fifty are run by hand, see docs/contributing.md."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "kills" / "run.py"


def test_lists_and_shards_are_whole_after_kills():
    words = [sys.executable, str(SCRIPT), "--kills", "2", "--commands", "lists", "shard"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DIFFERENT" not in done.stdout
    assert done.stdout.splitlines()[-1].endswith("0 differ")
