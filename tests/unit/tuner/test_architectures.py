"""Every architecture of the table: where prompts go and what is trained by default."""

import pytest
from architectures import ARCHITECTURES, AVAILABLE, build
from peft import get_peft_model

from apt_peft import AttentionPromptConfig
from apt_peft.tuner.families import fold_names


@pytest.mark.parametrize("name", AVAILABLE)
def test_defaults(name):
    row = ARCHITECTURES[name]
    model = get_peft_model(build(name), AttentionPromptConfig(num_prompt_tokens=2))
    assert fold_names(model.targeted_module_names) == [f"{row.attentions} ({row.layers})"]
    assert model.peft_config["default"].modules_to_save == list(row.heads)
