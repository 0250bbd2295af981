"""Settings of the whole test run."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # helpers.py, models.py and clips.py are imported by their names
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that asks the Hub by mistake fails at once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

torch.set_num_threads(1)  # the models are tiny, and the tests run in several processes


@pytest.fixture(scope="session")
def layout_tree(tmp_path_factory):
    """Miniature public data sets by the names of their layouts, of tiny drawn clips; each made once: copy it to change it."""
    from layouts import BUILDERS  # needs PyAV, which the core's tests do without

    made: dict[str, Path] = {}

    def tree(name: str) -> Path:
        if name not in made:
            made[name] = BUILDERS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return tree
