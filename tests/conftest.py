"""Settings of the whole test run."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # helpers.py, models.py and clips.py are imported by their names
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that asks the Hub by mistake fails at once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

torch.set_num_threads(1)  # the models are tiny, and the tests run in several processes
