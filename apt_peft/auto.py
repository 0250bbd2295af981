"""Loading an adapter together with its base in one call."""

from peft import PeftModel
from peft.auto import _BaseAutoPeftModel
from transformers import AutoModelForVideoClassification


class AutoPeftModelForVideoClassification(_BaseAutoPeftModel):
    """PEFT's auto class for video classification: `from_pretrained(adapter)` brings base, prompts, head and labels."""

    _target_class = AutoModelForVideoClassification
    _target_peft_class = PeftModel
