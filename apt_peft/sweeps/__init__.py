"""Many runs over a grid of settings: how wide the range of good rates is, and how many prompts are enough."""

from .band import Band, bands
from .claims import Claim
from .prompts import sweep_prompts
from .robustness import robustness
from .settings import PromptSweepSettings, RobustnessSettings

__all__ = ["Band", "Claim", "PromptSweepSettings", "RobustnessSettings", "bands", "robustness", "sweep_prompts"]
