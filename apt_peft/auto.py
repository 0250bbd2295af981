"""Loading an adapter together with its base in one call."""

from typing import Any

from peft import PeftModel
from peft.auto import _BaseAutoPeftModel
from transformers import AutoModelForVideoClassification, PreTrainedModel


class _OffloadedAsLoaded:
    """`PeftModel.from_pretrained` for a base that stays offloaded as it was loaded.

    PEFT takes Accelerate's hooks off a base with a device map and dispatches it anew, which fails around an attention.
    Prompts need none of that: they are small, and stay where their layer computes.
    """

    @staticmethod
    def from_pretrained(base: PreTrainedModel, *args: Any, **kwargs: Any) -> PeftModel:
        device_map = base.__dict__.pop("hf_device_map", None)
        model = PeftModel.from_pretrained(base, *args, **kwargs)
        if device_map is not None:
            base.hf_device_map = device_map
        return model


class AutoPeftModelForVideoClassification(_BaseAutoPeftModel):
    """PEFT's auto class for video classification: `from_pretrained(adapter)` brings base, prompts, head and labels.

    A `device_map` and an `offload_folder` go to the base.
    """

    _target_class = AutoModelForVideoClassification
    _target_peft_class = _OffloadedAsLoaded
