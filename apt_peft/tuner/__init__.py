"""The method as a tuner of PEFT: torch, peft and transformers, nothing else. Importing it registers the method."""

from .calibration import initialize_prompts_from_data
from .config import AttentionPromptConfig
from .hotswap import hotswap_adapter_from_state_dict
from .layer import AttentionPromptLayer
from .mixed import label_counts
from .model import AttentionPromptModel
from .registration import register
from .sharded import gather_adapter_state

register("attention_prompt", AttentionPromptConfig, AttentionPromptModel)

__all__ = [
    "AttentionPromptConfig",
    "AttentionPromptLayer",
    "AttentionPromptModel",
    "gather_adapter_state",
    "hotswap_adapter_from_state_dict",
    "initialize_prompts_from_data",
    "label_counts",
]
