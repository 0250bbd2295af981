"""The methods that attention prompts are compared with, as PEFT methods of their own.

Importing this package makes `VisualPromptConfig`, `AdaptFormerConfig` and `BitFitConfig` known to PEFT, so that
`get_peft_model`, `save_pretrained` and `PeftModel.from_pretrained` work with them. `import apt_peft` alone does not.
"""

from apt_peft.tuner.registration import register

from .adaptformer import AdaptFormerConfig, AdaptFormerModel
from .bitfit import BitFitConfig, BitFitModel
from .visual_prompts import VisualPromptConfig, VisualPromptModel

register("visual_prompt", VisualPromptConfig, VisualPromptModel)
register("adaptformer", AdaptFormerConfig, AdaptFormerModel)
register("bitfit", BitFitConfig, BitFitModel)

__all__ = [
    "AdaptFormerConfig",
    "AdaptFormerModel",
    "BitFitConfig",
    "BitFitModel",
    "VisualPromptConfig",
    "VisualPromptModel",
]
