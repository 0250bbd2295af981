"""Where prompts go, and what is refused, with the whole message."""

import pytest
import torch
import torch.nn as nn
from helpers import raises_exactly
from models import clips, prompt_layers, prompted, tiny_videomae, videomae_config
from peft import get_peft_model
from transformers import VideoMAEForPreTraining, VideoMAEModel

from apt_peft import AttentionPromptConfig, TargetError

CANDIDATES = "['videomae.encoder.layer.*.attention.attention (3)']"


def names(model) -> list[str]:
    return model.targeted_module_names


def attention(layer: int) -> str:
    return f"videomae.encoder.layer.{layer}.attention.attention"


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({}, [0, 1, 2]),
        ({"layers_to_transform": 1}, [1]),
        ({"layers_to_transform": [0, 2]}, [0, 2]),
        ({"target_modules": ["attention.attention"]}, [0, 1, 2]),
        ({"target_modules": ["attention.attention"], "layers_to_transform": [2]}, [2]),
        ({"target_modules": ["attention.attention"], "layers_to_transform": [2], "layers_pattern": "layer"}, [2]),
        ({"target_modules": r".*layer\.[01]\.attention\.attention"}, [0, 1]),
        ({"exclude_modules": [attention(1)]}, [0, 2]),
    ],
    ids=str,
)
def test_targets(settings, layers):
    assert names(prompted(**settings)) == [attention(layer) for layer in layers]


def test_no_target_is_the_linear_probe(tmp_path):
    model = prompted(target_modules=[])
    assert names(model) == []
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"base_model.model.{head}.modules_to_save.default.{part}"
        for head in ("fc_norm", "classifier")
        for part in ("weight", "bias")
    }
    assert model.peft_config["default"].target_modules == []
    torch.nn.init.ones_(model.base_model.model.classifier.modules_to_save["default"].weight)
    logits = model(clips()).logits
    model.save_pretrained(tmp_path)
    from peft import PeftModel

    assert torch.equal(PeftModel.from_pretrained(tiny_videomae(), tmp_path).eval()(clips()).logits, logits)


def test_prompts_stay_out_of_the_pretraining_decoder():
    model = get_peft_model(VideoMAEForPreTraining(videomae_config()), AttentionPromptConfig(num_prompt_tokens=2))
    assert names(model) == [attention(layer) for layer in range(3)]
    assert model.peft_config["default"].modules_to_save == []


def test_a_bare_backbone_has_no_head():
    model = get_peft_model(VideoMAEModel(videomae_config()), AttentionPromptConfig(num_prompt_tokens=2))
    assert names(model) == [f"encoder.layer.{layer}.attention.attention" for layer in range(3)]
    assert model.peft_config["default"].modules_to_save == []
    assert model.peft_config["default"].id2label is None


def test_heads_of_a_model_without_mean_pooling():
    with pytest.warns(UserWarning, match="first patch token") as caught:
        model = prompted(model=tiny_videomae(use_mean_pooling=False))
    assert model.peft_config["default"].modules_to_save == ["classifier"]
    assert [str(warning.message) for warning in caught if warning.category is UserWarning] == [
        "use_mean_pooling (False) of the model makes it classify from its first patch token, but attention prompts are "
        "published with the mean of the tokens. Load the model with use_mean_pooling=True."
    ]


def test_a_head_that_mean_pooling_brings():
    with raises_exactly(
        TargetError,
        "modules_to_save ['fc_norm'] must name modules of the model, but VideoMAEForVideoClassification has none of that "
        "name. Its top modules are ['videomae', 'classifier']. Load the model with use_mean_pooling=True.",
    ):
        prompted(model=tiny_videomae(use_mean_pooling=False), modules_to_save=["fc_norm", "classifier"])


def test_task_types_of_text_are_refused():
    with raises_exactly(
        TargetError,
        "task_type ('SEQ_CLS') must be left out, but with it PEFT takes the inputs for text and looks for a text model's "
        "head. The head of a video or image model is found without it.",
    ):
        prompted(task_type="SEQ_CLS")


def test_a_pattern_that_finds_nothing_reads_as_in_peft():
    with raises_exactly(
        TargetError,
        "Target modules ['q_proj'] not found in the base model. Please check the target modules and try again. "
        f"In VideoMAEForVideoClassification these can take prompts: {CANDIDATES}.",
    ):
        prompted(target_modules=["q_proj"])


def test_everything_excluded_is_peft_s_own_error():
    with pytest.raises(
        ValueError, match="This might be caused by a combination of mismatched target modules and excluded"
    ):
        prompted(exclude_modules=["attention.attention"])


@pytest.mark.parametrize(
    ("target", "matched"),
    [
        (
            ["query"],
            "videomae.encoder.layer.0.attention.attention.query, videomae.encoder.layer.1.attention.attention.query, "
            "videomae.encoder.layer.2.attention.attention.query (Linear)",
        ),
        (r".*layer\.0\.attention", "videomae.encoder.layer.0.attention (VideoMAEAttention)"),
        (
            ["dense"],
            "videomae.encoder.layer.0.attention.output.dense, videomae.encoder.layer.0.intermediate.dense, "
            "videomae.encoder.layer.0.output.dense and 6 more (Linear)",
        ),
    ],
    ids=str,
)
def test_modules_that_cannot_take_prompts(target, matched):
    model = tiny_videomae()
    with raises_exactly(
        TargetError,
        f"target_modules matches {matched}, but prompts can only go to an attention that looks its implementation up in "
        f"transformers' attention interface. In VideoMAEForVideoClassification these can: {CANDIDATES}.",
    ):
        prompted(model=model, target_modules=target)
    assert not prompt_layers(model)  # nothing was wrapped


def test_layers_out_of_range():
    with raises_exactly(TargetError, "layers_to_transform [3, 12] is out of range: the model has 3 layers (0-2)."):
        prompted(layers_to_transform=[0, 3, 12])
    with raises_exactly(TargetError, "layers_to_transform [99] is out of range: the model has 3 layers (0-2)."):
        prompted(target_modules=["attention.attention"], layers_to_transform=[1, 99])


def test_modules_to_save_that_are_not_there():
    with raises_exactly(
        TargetError,
        "modules_to_save ['head'] must name modules of the model, but VideoMAEForVideoClassification has none of that "
        "name. Its top modules are ['videomae', 'fc_norm', 'classifier'].",
    ):
        prompted(modules_to_save=["head", "classifier"])


class Custom(nn.Module):
    """A user's model around a backbone: no architecture that apt_peft could know."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = VideoMAEModel(videomae_config())
        self.top = nn.Linear(32, 4)

    def forward(self, pixel_values):
        return self.top(self.backbone(pixel_values).last_hidden_state.mean(1))


def test_an_unknown_model_is_told_its_candidates():
    with raises_exactly(
        TargetError,
        "target_modules must be given for a model of type None, which apt_peft does not know. These modules can take "
        "prompts: ['backbone.encoder.layer.*.attention.attention (3)']. Name them, for example "
        "target_modules=['attention.attention'].",
    ):
        get_peft_model(Custom(), AttentionPromptConfig())
    model = get_peft_model(
        Custom(), AttentionPromptConfig(target_modules=["attention.attention"], modules_to_save=["top"])
    )
    assert len(prompt_layers(model)) == 3
    assert model(clips()).shape == (2, 4)


def test_a_model_without_any_candidate():
    with raises_exactly(
        TargetError,
        "target_modules must be given for a model of type None, which apt_peft does not know. No module in it goes "
        "through transformers' attention interface, so prompts cannot be added to it.",
    ):
        get_peft_model(nn.Sequential(nn.Linear(2, 2)), AttentionPromptConfig())


def attend(layer, **kwargs):
    """Call the registered function as an attention module does."""
    from apt_peft.tuner.interface import attention_prompt_forward

    states = torch.randn(1, 2, 4, 16)
    return attention_prompt_forward(layer.base_layer, states, states, states, kwargs.pop("mask", None), **kwargs)


def test_causal_calls_are_refused():
    layer = prompt_layers(prompted())[0]
    with raises_exactly(
        TargetError,
        "VideoMAESelfAttention (is_causal=True) must attend in both directions, but causal attention hides the prompts, "
        "which come after the tokens. Target only bidirectional attention, such as that of a video or image encoder.",
    ):
        attend(layer, is_causal=True)
    layer.base_layer.is_causal = True
    with pytest.raises(TargetError, match="is_causal=True"):
        attend(layer)


def test_packed_calls_are_refused():
    layer = prompt_layers(prompted())[0]
    with raises_exactly(
        TargetError,
        "VideoMAESelfAttention (cu_seq_lens_q) must get one sequence per sample, but packed sequences have no end of "
        "their own to append prompts to. Pass a padded batch with an attention_mask.",
    ):
        attend(layer, cu_seq_lens_q=torch.tensor([0, 2, 4]), cu_seqlens=None)


def test_block_masks_are_refused():
    from torch.nn.attention.flex_attention import create_block_mask

    layer = prompt_layers(prompted())[0]
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 4, 4, device="cpu")
    with raises_exactly(
        TargetError,
        "attention_mask (BlockMask) must be a tensor or None, but a block mask has a fixed number of keys. "
        'Load the model with attn_implementation="sdpa" or "eager".',
    ):
        attend(layer, mask=mask)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_mask_hides_tokens_and_never_prompts(implementation):
    """Against softmax over concatenated keys, written out."""
    layer = prompt_layers(prompted(model=tiny_videomae(attn_implementation=implementation)))[0]
    query, key, value = torch.randn(3, 1, 2, 4, 16)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = torch.finfo(torch.float32).min
    from apt_peft.tuner.interface import attention_prompt_forward

    got, _ = attention_prompt_forward(layer.base_layer, query, key, value, mask, scaling=0.25)
    prompt_keys, prompt_values = layer.active_prompts()[:2]
    keys = torch.cat([key[:, :, :2], prompt_keys.expand(1, 2, 5, 16)], 2)
    values = torch.cat([value[:, :, :2], prompt_values.expand(1, 2, 5, 16)], 2)
    want = (query @ keys.transpose(2, 3) * 0.25).softmax(-1) @ values
    assert torch.allclose(got, want.transpose(1, 2), atol=1e-5)


def test_flash_attention_sees_the_real_config(monkeypatch):
    """flash reads the implementation's name off the module's config; its 2-D mask grows by ones, before the tokens."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    seen = {}

    def flash(module, query, key, value, attention_mask, **kwargs):
        seen.update(
            name=module.config._attn_implementation, heads=module.num_attention_heads, mask=attention_mask, keys=key
        )
        return query.transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register("recording_flash", flash)
    try:
        layer = prompt_layers(prompted())[0]
        monkeypatch.setattr(layer.real_config, "_attn_implementation_internal", "recording_flash")
        attend(layer, mask=torch.tensor([[1, 1, 1, 0]]))
    finally:
        del ALL_ATTENTION_FUNCTIONS._global_mapping["recording_flash"]
    assert seen["name"] == "recording_flash"
    assert seen["heads"] == 2
    assert seen["mask"].tolist() == [[1, 1, 1, 1, 1, 1, 1, 1, 0]]
    assert seen["keys"].shape == (1, 2, 9, 16)
