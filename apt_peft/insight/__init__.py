"""What prompts do in a trained model, or in one that trains."""

from .callback import PromptCallback
from .measures import PromptAttention, effective_rank, gradient_norms, prompt_attention, prompt_states
from .report import PromptReport, prompt_report

__all__ = [
    "PromptAttention",
    "PromptCallback",
    "PromptReport",
    "effective_rank",
    "gradient_norms",
    "prompt_attention",
    "prompt_report",
    "prompt_states",
]
