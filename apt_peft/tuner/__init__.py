"""The method as a tuner of PEFT: torch, peft and transformers, nothing else. Importing it registers the method."""

from .calibration import initialize_prompts_from_data
from .config import AttentionPromptConfig
from .hotswap import hotswap_adapter, hotswap_adapter_from_state_dict
from .layer import AttentionPromptLayer
from .mixed import label_counts
from .model import AttentionPromptModel
from .registration import register

register("attention_prompt", AttentionPromptConfig, AttentionPromptModel)

__all__ = [
    "AttentionPromptConfig",
    "AttentionPromptLayer",
    "AttentionPromptModel",
    "hotswap_adapter",
    "hotswap_adapter_from_state_dict",
    "initialize_prompts_from_data",
    "label_counts",
]
