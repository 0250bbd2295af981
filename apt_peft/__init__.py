"""Attention Prompt Tuning for video transformers, as a plugin for Hugging Face PEFT.

Importing this package makes `AttentionPromptConfig` known to PEFT:

    import apt_peft
    model = get_peft_model(videomae, apt_peft.AttentionPromptConfig(num_prompt_tokens=100))
"""

import importlib
from typing import TYPE_CHECKING, Any

from .errors import AptError, CheckpointError, ConfigError, DataError, ExportError, MissingExtraError, TargetError
from .tuner import (
    AttentionPromptConfig,
    AttentionPromptModel,
    gather_adapter_state,
    hotswap_adapter_from_state_dict,
    initialize_prompts_from_data,
    label_counts,
)
from .version import __version__

if TYPE_CHECKING:
    from .auto import AutoPeftModelForVideoClassification
    from .card import write_model_card
    from .hotswap import hotswap_adapter
    from .processor import ClipProcessor
    from .publish import push_to_hub
    from .training.optimizer import prompt_parameter_groups

# Imported when they are asked for: who only loads an adapter through PEFT waits for none of them.
_LATER = {
    "AutoPeftModelForVideoClassification": ".auto",
    "ClipProcessor": ".processor",
    "hotswap_adapter": ".hotswap",
    "prompt_parameter_groups": ".training.optimizer",
    "push_to_hub": ".publish",
    "write_model_card": ".card",
}

__all__ = [
    "AptError",
    "AttentionPromptConfig",
    "AttentionPromptModel",
    "AutoPeftModelForVideoClassification",
    "CheckpointError",
    "ClipProcessor",
    "ConfigError",
    "DataError",
    "ExportError",
    "MissingExtraError",
    "TargetError",
    "__version__",
    "gather_adapter_state",
    "hotswap_adapter",
    "hotswap_adapter_from_state_dict",
    "initialize_prompts_from_data",
    "label_counts",
    "prompt_parameter_groups",
    "push_to_hub",
    "write_model_card",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_LATER[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
