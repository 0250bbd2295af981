"""Where the trained head of a model begins, and models that have no such place."""

import pytest
import torch
from helpers import raises_exactly
from models import clips, tiny_videomae
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import VideoMAEForVideoClassification

from apt_peft import AttentionPromptConfig, ConfigError
from apt_peft.training.seam import find_seam, take_features

MESSAGE = "feature_cache must go with a model that is a frozen part and then trained modules in a row, but {}. {}."


def probe(model=None, **settings):
    model = tiny_videomae() if model is None else model
    return get_peft_model(model, AttentionPromptConfig(target_modules=[], **settings)).train()


def refused(model, reason: str, remedy: str = "Leave it out") -> None:
    with raises_exactly(ConfigError, MESSAGE.format(reason, remedy)):
        find_seam(model, clips())


def test_features_are_the_mean_token_and_the_head_makes_the_same_logits_of_them():
    model = probe()
    state = torch.get_rng_state()
    seam = find_seam(model, clips())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    base = model.get_base_model()
    assert [id(m) for m in seam.modules] == [id(base.fc_norm), id(base.classifier)]
    features = seam.features(model, clips(3))
    assert torch.equal(features, base.videomae(clips(3)).last_hidden_state.mean(1))
    wanted = model(clips(3)).logits
    assert torch.equal(seam.logits(features), wanted)
    take_features(model, seam)
    for inputs in ((features,), {"pixel_values": features}):
        got = model(*inputs).logits if isinstance(inputs, tuple) else model(**inputs).logits
        assert torch.equal(got, wanted)
    got.sum().backward()
    trained = {name.split(".")[2] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"fc_norm", "classifier"}


def test_prompts_and_adapters_inside_the_backbone():
    refused(
        get_peft_model(tiny_videomae(), AttentionPromptConfig(num_prompt_tokens=2, prompt_dropout=0.0)),
        "it trains base_model.model.videomae.encoder.layer.0.attention.attention.attention_prompt_key.default, "
        "base_model.model.videomae.encoder.layer.0.attention.attention.attention_prompt_value.default, "
        "base_model.model.videomae.encoder.layer.0.attention.attention.attention_prompt_scale.default and 6 more",
    )
    refused(get_peft_model(tiny_videomae(), LoraConfig(target_modules=["classifier"])), "it trains base_model.model."
            "classifier.lora_A.default.weight, base_model.model.classifier.lora_B.default.weight")  # fmt: skip


def test_nothing_that_is_trained():
    refused(probe(modules_to_save=[]), "it trains no head")


def test_a_trained_module_in_the_middle_of_the_backbone():
    refused(
        probe(modules_to_save=["videomae.embeddings", "fc_norm", "classifier"]),
        "fc_norm is not fed with what videomae.embeddings gives",
    )


class Odd(VideoMAEForVideoClassification):
    """A head whose parts are not a chain, each test in its own way."""

    way = ""

    def forward(self, pixel_values, **kwargs):
        tokens = self.videomae(pixel_values).last_hidden_state
        if self.way == "parallel":
            output = super().forward(pixel_values)
            output.logits = self.classifier(self.fc_norm(tokens.mean(1))) + self.classifier(tokens.mean(1))
            return output
        output = super().forward(pixel_values)
        if self.way == "after":
            output.logits = output.logits / 2
        return output


def odd(way: str):
    torch.manual_seed(0)
    model = Odd(tiny_videomae().config).eval()
    model.way = way
    return probe(model)


def test_heads_that_are_no_chain():
    refused(odd("after"), "its logits are not what classifier gives")
    refused(
        odd("parallel"),
        "of the trained modules ['classifier', 'fc_norm'] a forward pass calls "
        "['fc_norm', 'classifier', 'fc_norm', 'classifier', 'classifier']",
    )


class Two(nn.Module):
    """A norm that is given two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32))

    def forward(self, tokens, factor=None):
        return tokens * self.weight if factor is None else tokens * factor * self.weight


def test_a_module_that_takes_two_tensors():
    model = tiny_videomae()
    model.fc_norm = Two()
    wrapped = probe(model)
    find_seam(wrapped, clips())
    wrapped.get_base_model().fc_norm.register_forward_pre_hook(lambda _, args: (*args, torch.ones(32)))
    refused(wrapped, "fc_norm takes 2 tensors")


@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_a_backbone_that_draws_at_random(name):
    refused(
        probe(tiny_videomae(**{name: 0.1})),
        "its frozen part draws at random in training (dropout, or paths that are dropped)",
        "Set these to 0 in its config",
    )
