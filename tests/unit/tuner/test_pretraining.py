"""Masked autoencoding with prompts: they learn in the encoder, the decoder stays as it is."""

import pytest
import torch
from models import clips, prompt_layers, videomae_config
from peft import PeftModel, get_peft_model
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification
from written_out import SavedPrompts, write_out

from apt_peft import AttentionPromptConfig

DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
# of 8 tubelets each sample hides five, others in each: (B, N), True where hidden
HIDDEN = torch.tensor([[1, 1, 0, 1, 0, 1, 1, 0], [0, 1, 1, 0, 1, 1, 0, 1]], dtype=torch.bool)


def autoencoder(seed: int = 0) -> VideoMAEForPreTraining:
    torch.manual_seed(seed)
    return VideoMAEForPreTraining(videomae_config(**DECODER)).double().eval()


def prompted(**settings) -> PeftModel:
    model = autoencoder()
    settings = {"num_prompt_tokens": 4, "prompt_dropout": 0.0, "init_weights": False} | settings
    return get_peft_model(model, AttentionPromptConfig(**settings))


def step(model, video) -> float:
    result = model(video, bool_masked_pos=HIDDEN)
    result.loss.backward()
    return result.loss.item()


@pytest.mark.parametrize("saved", [[], ["encoder_to_decoder"]], ids=str)
def test_steps_of_masked_autoencoding(saved):
    model, video = prompted(modules_to_save=saved).train(), clips().double()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".modules_to_save")[0].split(".attention_prompt")[0] for name in trainable} == {
        f"base_model.model.videomae.encoder.layer.{layer}.attention.attention" for layer in range(3)
    } | {f"base_model.model.{name}" for name in saved}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        losses.append(step(model, video))
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.99 * losses[0]
    assert {
        name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])
    } == trainable
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trainable)
    for layer in prompt_layers(model):  # every prompt, in every layer
        assert (layer.attention_prompt_key["default"].grad.abs().amax(-1) > 0).all()
        assert (layer.attention_prompt_value["default"].grad.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_against_attention_written_out(implementation, tmp_path):
    model, video = prompted().eval(), clips().double()
    model.set_attn_implementation(implementation)
    model.save_pretrained(tmp_path)
    saved = SavedPrompts(tmp_path)
    assert not any("decoder" in name for name in saved.modules)
    reference = write_out(autoencoder().requires_grad_(False), saved.prompts())
    got, want = (m(video, bool_masked_pos=HIDDEN) for m in (model, reference))
    torch.testing.assert_close(got.loss, want.loss, rtol=1e-9, atol=0)
    torch.testing.assert_close(got.logits, want.logits, rtol=1e-9, atol=1e-9)
    got.loss.backward()
    want.loss.backward()
    for name, gradient in saved.gradients().items():
        torch.testing.assert_close(model.get_parameter(f"{name}.default").grad, gradient, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(got.logits, autoencoder()(video, bool_masked_pos=HIDDEN).logits, atol=1e-3)


def test_prompts_of_an_autoencoder_go_on_in_a_classifier(tmp_path):
    prompted().save_pretrained(tmp_path)
    torch.manual_seed(4)
    classifier = VideoMAEForVideoClassification(videomae_config()).double().eval()
    loaded = PeftModel.from_pretrained(classifier, tmp_path, is_trainable=True).eval()
    reference = VideoMAEForVideoClassification(videomae_config()).double().eval()
    reference.load_state_dict(
        {k.replace(".base_layer", ""): v for k, v in classifier.state_dict().items() if "prompt" not in k}
    )
    want = write_out(reference, SavedPrompts(tmp_path).prompts())(clips().double()).logits
    torch.testing.assert_close(loaded(clips().double()).logits, want, rtol=1e-9, atol=1e-9)
