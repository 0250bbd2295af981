"""Attention Prompt Tuning for video transformers, as a plugin for Hugging Face PEFT.

Importing this package makes `AttentionPromptConfig` known to PEFT:

    import apt_peft
    model = get_peft_model(videomae, apt_peft.AttentionPromptConfig(num_prompt_tokens=100))
"""

from .auto import AutoPeftModelForVideoClassification
from .errors import AptError, CheckpointError, ConfigError, DataError, MissingExtraError, TargetError
from .hotswap import hotswap_adapter
from .processor import ClipProcessor
from .training.optimizer import prompt_parameter_groups
from .tuner import (
    AttentionPromptConfig,
    AttentionPromptModel,
    gather_adapter_state,
    hotswap_adapter_from_state_dict,
    initialize_prompts_from_data,
    label_counts,
)
from .version import __version__

__all__ = [
    "AptError",
    "AttentionPromptConfig",
    "AttentionPromptModel",
    "AutoPeftModelForVideoClassification",
    "CheckpointError",
    "ClipProcessor",
    "ConfigError",
    "DataError",
    "MissingExtraError",
    "TargetError",
    "__version__",
    "gather_adapter_state",
    "hotswap_adapter",
    "hotswap_adapter_from_state_dict",
    "initialize_prompts_from_data",
    "label_counts",
    "prompt_parameter_groups",
]
