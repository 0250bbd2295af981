"""What PEFT's own tests ask of a method, where they themselves are tied to models and methods by name.

Ideas of its `test_vision_models` and `test_mixed`; `tests/peft_suite` runs the tests that are not tied.
"""

import pytest
import torch
import torch.nn as nn
from models import clips, prompt_layers, prompted, tiny_videomae, videomae_config
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import VideoMAEModel

from apt_peft import AttentionPromptConfig


class NormalizedRecognizer(nn.Module):
    """A custom model whose head has buffers that training changes."""

    def __init__(self):
        super().__init__()
        self.backbone = VideoMAEModel(videomae_config())
        self.normalization = nn.BatchNorm1d(32)
        self.classifier = nn.Linear(32, 3)

    def forward(self, pixel_values):
        return self.classifier(self.normalization(self.backbone(pixel_values).last_hidden_state.mean(1)))


def test_a_head_with_batch_norm_is_saved_with_its_buffers(tmp_path):
    """Training in train mode, saving and loading give the same outputs, running means included."""
    torch.manual_seed(0)
    model = get_peft_model(
        NormalizedRecognizer(),
        AttentionPromptConfig(
            num_prompt_tokens=5,
            target_modules=["attention.attention"],
            modules_to_save=["classifier", "normalization"],
        ),
    )
    before = model.eval()(clips())
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(clips()), torch.tensor([1, 1])).backward()
        optimizer.step()
    with torch.no_grad():
        trained = model.eval()(clips())
    assert not torch.allclose(trained, before, atol=1e-4)

    model.save_pretrained(tmp_path)
    assert [name for name in load_file(tmp_path / "adapter_model.safetensors") if "running_mean" in name]
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(NormalizedRecognizer(), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(clips()), trained)


@pytest.mark.parametrize("first", [AttentionPromptConfig(), LoraConfig(target_modules=["query"])])
def test_peft_refuses_prompts_in_a_mixed_model(first):
    """Its tuple of compatible methods is closed; LoRA and prompts go on one after the other instead."""
    with pytest.raises(ValueError, match="'ATTENTION_PROMPT' is not compatible with the `PeftMixedModel`"):
        get_peft_model(tiny_videomae(), first, mixed=True).add_adapter("prompts", AttentionPromptConfig())


def test_layers_tell_their_width():
    for layer in prompt_layers(prompted()):
        assert layer.in_features == layer.out_features == 32


def test_whose_config_object_it_is(tmp_path):
    """The caller's stays as it was; the one that an adapter is loaded with becomes the adapter's."""
    config = AttentionPromptConfig(num_prompt_tokens=5)
    model = get_peft_model(tiny_videomae(), config)
    assert model.peft_config["default"] is not config
    assert config.target_modules is None
    assert config.modules_to_save is None

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_videomae(), tmp_path, config=config)
    assert loaded.peft_config["default"] is config
    trained_on = PeftModel.from_pretrained(tiny_videomae(), tmp_path, is_trainable=True)
    assert not trained_on.peft_config["default"].inference_mode
