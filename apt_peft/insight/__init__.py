"""What prompts do in a trained model, or in one that trains."""

from .measures import PromptAttention, effective_rank, gradient_norms, prompt_attention, prompt_states

__all__ = ["PromptAttention", "effective_rank", "gradient_norms", "prompt_attention", "prompt_states"]
