"""The method as a tuner of PEFT: torch, peft and transformers, nothing else. Importing it registers the method."""

from .calibration import initialize_prompts_from_data
from .config import AttentionPromptConfig
from .layer import AttentionPromptLayer
from .model import AttentionPromptModel
from .registration import register

register("attention_prompt", AttentionPromptConfig, AttentionPromptModel)

__all__ = ["AttentionPromptConfig", "AttentionPromptLayer", "AttentionPromptModel", "initialize_prompts_from_data"]
