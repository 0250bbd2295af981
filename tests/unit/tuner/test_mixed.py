"""A batch in which each sample has its own adapter: its prompts and its head, as in a forward of its own."""

import copy

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from architectures import ARCHITECTURES, AVAILABLE, build, output
from helpers import raises_exactly
from models import clips, prompt_layers, prompted, tiny_videomae
from peft import get_peft_model

from apt_peft import AttentionPromptConfig, ConfigError, TargetError, label_counts
from apt_peft.tuner.interface import attention_prompt_forward

BASE = "__base__"


def several(**settings):
    """Three adapters: other P, other heads, one of them without a head; dropout that evaluation must not see."""
    model = prompted(model=tiny_videomae(**settings))
    torch.manual_seed(3)
    for name, changes in {
        "wide": {"num_prompt_tokens": 9, "id2label": {i: f"w{i}" for i in range(5)}, "reparameterization": "softplus"},
        "heads": {"num_prompt_tokens": 2, "share_prompts_across_heads": False, "modules_to_save": []},
        "late": {"num_prompt_tokens": 5, "layers_to_transform": [2], "reparameterization": "none"},
    }.items():
        model.add_adapter(name, AttentionPromptConfig(**({"init_weights": False, "prompt_dropout": 0.5} | changes)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:  # heads and norms that differ from one adapter to the next
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def alone(model, name: str, clip: torch.Tensor) -> torch.Tensor:
    if name == BASE:
        with model.disable_adapter():
            return model(clip[None]).logits[0]
    before = model.active_adapter
    model.set_adapter(name)
    try:
        return model(clip[None]).logits[0]
    finally:
        model.set_adapter(before)


NAMES = ["wide", BASE, "default", "heads", "wide", "late", BASE, "default"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_each_sample_as_in_a_forward_of_its_own(attention):
    model = several()
    model.base_model.model.set_attn_implementation(attention)
    batch = clips(len(NAMES))
    with torch.no_grad():
        logits = model(batch, adapter_names=NAMES).logits
    widths = label_counts(model, NAMES)
    assert widths == [5, 3, 3, 3, 5, 3, 3, 3]
    assert logits.shape == (8, 5)
    for clip, name, row, width in zip(batch, NAMES, logits, widths, strict=True):
        assert torch.allclose(row[:width], alone(model, name, clip), atol=1e-6), name
        assert (row[width:] == -torch.inf).all()


def test_flex_attention_where_no_mask_is_needed():
    model = prompted()
    model.add_adapter("other", AttentionPromptConfig(num_prompt_tokens=5, init_weights=False))
    model.eval().base_model.model.set_attn_implementation("flex_attention")
    with torch.no_grad():
        logits = model(clips(), adapter_names=["other", "default"]).logits
    for clip, name, row in zip(clips(), ["other", "default"], logits, strict=True):
        assert torch.allclose(row, alone(model, name, clip), atol=1e-6)
    with raises_exactly(
        TargetError,
        "attn_implementation ('flex_attention') must mask the prompts that a sample of the batch lacks, but flex attention "
        'does so for none. Load the model with attn_implementation="sdpa" or "eager".',
    ):
        model(clips(), adapter_names=["other", BASE])


def test_nothing_is_left_behind():
    model = several()
    with torch.no_grad():
        before = model(clips()).logits
        model(clips(), adapter_names=["late", BASE])
        assert torch.equal(model(clips()).logits, before)
        with pytest.raises(ValueError, match="not enough values"):  # a forward that fails
            model(torch.zeros(2, 1), adapter_names=["late", BASE])
        assert torch.equal(model(clips()).logits, before)
    assert all(layer.sample_adapters is None for layer in prompt_layers(model))
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_one_adapter_for_all_and_a_batch_of_the_base_alone():
    model = several()
    with torch.no_grad():
        same = model(clips(), adapter_names=["late", "late"]).logits
        base = model(clips(), adapter_names=[BASE, BASE]).logits
        with model.disable_adapter():
            assert torch.equal(model(clips()).logits, base)
            assert torch.equal(model(clips(), adapter_names=["late", "wide"]).logits, base)
        model.set_adapter("late")
        assert torch.allclose(model(clips()).logits, same, atol=1e-6)


def test_copies_and_half_precision():
    model = copy.deepcopy(several()).to(torch.bfloat16)
    batch = clips(3).bfloat16()
    with torch.no_grad():
        logits = model(batch, adapter_names=["wide", "late", BASE]).logits
    assert logits.dtype == torch.bfloat16
    for clip, name, row in zip(batch, ["wide", "late", BASE], logits, strict=True):
        expected = alone(model, name, clip)
        assert torch.allclose(row[: len(expected)].float(), expected.float(), atol=0.1)


def test_no_mask_where_none_is_needed(monkeypatch):
    """Equal P in all samples: the attention gets no mask, and so its fastest kernel."""
    model = prompted()
    model.add_adapter("other", AttentionPromptConfig(num_prompt_tokens=5, init_weights=False))
    masks = []

    def recording(module, query, key, value, attention_mask, **kwargs):
        masks.append(attention_mask)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2), None

    monkeypatch.setattr("apt_peft.tuner.interface._implementation", lambda *_: recording)
    with torch.no_grad():
        model.eval()(clips(), adapter_names=["default", "other"])
        assert masks == [None] * 3
        model(clips(), adapter_names=["default", BASE])
    assert [mask.shape for mask in masks[3:]] == [(2, 1, 8, 13)] * 3
    assert all(mask.stride(2) == 0 for mask in masks[3:])  # no memory for each query


@pytest.mark.parametrize(
    ("name", "implementation"), [(name, kind) for name in AVAILABLE for kind in ARCHITECTURES[name].implementations]
)
def test_every_architecture(name, implementation):
    """Masks, biases and inner batches of all of them: one sample by prompts of 2, one by 3, one by none."""
    settings = {"init_weights": False, "prompt_dropout": 0.0}
    model = get_peft_model(build(name, implementation), AttentionPromptConfig(num_prompt_tokens=2, **settings))
    model.add_adapter("b", AttentionPromptConfig(num_prompt_tokens=3, **settings))
    model.eval()
    inputs = ARCHITECTURES[name].inputs(batch=3)

    def run(**names):
        with torch.no_grad():
            return output(model, inputs | names)

    mixed, expected = run(adapter_names=["b", "default", BASE]), []
    for adapter in ("b", "default"):
        model.set_adapter(adapter)
        expected.append(run())
    with model.disable_adapter():
        expected.append(run())
    for row, whole in enumerate(expected):
        assert torch.allclose(mixed[row], whole[row], atol=1e-5), row
        assert not torch.allclose(mixed[row], expected[row - 1][row], atol=1e-4)


def by_torch(monkeypatch, layer):
    """transformers' own flash attention, padding and all, over kernels written in plain torch."""
    from transformers import modeling_flash_attention_utils as utils

    def kernel(q, k, v, softmax_scale=None, causal=False, **_):
        assert not causal
        scale = softmax_scale or q.shape[-1] ** -0.5
        weights = torch.einsum("...qhd,...khd->...hqk", q, k) * scale
        return torch.einsum("...hqk,...khd->...qhd", weights.softmax(-1), v)

    def varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, **options):
        bounds = zip(cu_seqlens_q[:-1], cu_seqlens_q[1:], cu_seqlens_k[:-1], cu_seqlens_k[1:], strict=True)
        return torch.cat([kernel(q[a:b], k[c:d], v[c:d], **options) for a, b, c, d in bounds])

    def options(softmax_scale=None, is_causal=False, **_):
        return {"softmax_scale": softmax_scale, "causal": is_causal}

    later = hasattr(utils, "_process_with_kvcache_kwargs_fn")  # transformers 5.18 has options of one kind
    functions = ((kernel, varlen, None, utils._pad_input, utils._unpad_input), (options, None) if later else options)
    monkeypatch.setattr(utils, "lazy_import_flash_attention", lambda *_, **__: functions)
    monkeypatch.setattr(layer.real_config, "_attn_implementation_internal", "flash_attention_2")


def attend(layer, states: list[torch.Tensor], mask=None) -> torch.Tensor:
    return attention_prompt_forward(layer.base_layer, *states, mask, scaling=0.25, dropout=0.0, is_causal=False)[0]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("names", [["default", "default", "default"], ["wide", BASE, "default"]])
def test_flash_attention_pads_queries_and_prompts_alike(monkeypatch, padded, names):
    """Tokens missing from a sample, prompts missing from another: as sdpa has it with its own mask."""
    from apt_peft.tuner.samples import SampleAdapters

    layer = prompt_layers(several())[0]
    states = [torch.randn(3, 2, 6, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    there = torch.ones(3, 6, dtype=torch.int64)
    if padded:
        there[0, 4:], there[2, 1:] = 0, 0
    layer.sample_adapters = SampleAdapters.of(names)
    mask = there.bool()[:, None, None].expand(3, 1, 6, 6) if padded else None
    expected = attend(layer, states, mask)
    by_torch(monkeypatch, layer)
    got = attend(layer, states, there if padded else None)
    assert torch.allclose(got[there.bool()], expected[there.bool()], atol=1e-6)


@pytest.mark.parametrize(
    ("names", "inputs", "message"),
    [
        ("late", {}, "adapter_names ('late') must be a list with the name of an adapter for each sample."),
        (
            ["late"],
            {},
            "adapter_names (1 names) must have a name for each sample, but the batch has 2.",
        ),
        (
            ["late", "typo"],
            {},
            "adapter_names ['typo'] must be adapters of attention prompts, but the model has ['default', 'heads', 'late', "
            "'wide']. Load "
            'them first; "__base__" stands for none.',
        ),
        (
            [["late"], "wide"],
            {},
            "adapter_names ([['late'], 'wide']) must be a list with the name of an adapter for each sample.",
        ),
        (
            ["late", "wide"],
            {"labels": torch.tensor([0, 1])},
            "labels must be left out with adapter_names, but samples whose heads differ have no common loss. Compute it "
            "from the logits of each adapter's samples.",
        ),
    ],
)
def test_what_does_not_fit(names, inputs, message):
    with raises_exactly(ConfigError, message):
        several()(clips(), adapter_names=names, **inputs)


def test_labels_by_place():
    with pytest.raises(ConfigError, match="labels must be left out with adapter_names"):
        several()(clips(), torch.tensor([0, 1]), adapter_names=["late", "wide"])


def test_a_compiled_model_and_hooks_on_heads():
    model = several()
    counts = []
    head = model.base_model.model.classifier
    add_hook_to_module(head, counting := CountingHook(counts))
    names = ["wide", BASE, "late"]
    with torch.no_grad():
        expected = model(clips(3), adapter_names=names).logits
        model(clips(3))
        assert len(counts) == 2
        assert head._hf_hook is counting
        remove_hook_from_module(head)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager")
        assert torch.allclose(compiled(clips(3), adapter_names=names).logits, expected, atol=1e-6)


class CountingHook(ModelHook):
    def __init__(self, counts: list) -> None:
        self.counts = counts

    def pre_forward(self, module, *args, **kwargs):
        self.counts.append(module)
        return args, kwargs


def test_a_layer_whose_last_adapter_was_deleted():
    settings = {"num_prompt_tokens": 2, "modules_to_save": [], "init_weights": False, "prompt_dropout": 0.0}
    model = prompted(layers_to_transform=[0], modules_to_save=[])
    model.add_adapter("b", AttentionPromptConfig(layers_to_transform=[1], **settings))
    model.eval().set_adapter("b")
    model.delete_adapter("default")
    with torch.no_grad():
        mixed = model(clips(), adapter_names=["b", BASE]).logits
    assert torch.allclose(mixed[0], alone(model, "b", clips()[0]), atol=1e-6)
    assert torch.allclose(mixed[1], alone(model, BASE, clips()[1]), atol=1e-6)


def test_while_training():
    with raises_exactly(
        ConfigError,
        "adapter_names must be left out while training, but the model is in training mode. Call model.eval(), or "
        "set_adapter(name) to train one adapter.",
    ):
        several().train()(clips(), adapter_names=["late", BASE])


def test_counts_of_labels_name_what_does_not_exist():
    with raises_exactly(
        ConfigError,
        "adapter_names ['typo'] must be adapters of attention prompts, but the model has ['default', 'heads', 'late', "
        "'wide']. Load them "
        'first; "__base__" stands for none.',
    ):
        label_counts(several(), ["typo"])
