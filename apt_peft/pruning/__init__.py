"""Fewer prompts: scored on calibration clips, the best kept."""

from apt_peft.tuner.pruning import prune_prompts

from .scores import choose_prompts, only_prompts, prompt_scores

__all__ = ["choose_prompts", "only_prompts", "prompt_scores", "prune_prompts"]
