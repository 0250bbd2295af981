"""TimeSformer computes its attention without transformers' interface: its seam, in all three kinds of attention."""

import contextlib
import copy
import pickle

import pytest
import torch
from architectures import build, inputs_for, output
from models import prompt_layers
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from transformers.models.timesformer.modeling_timesformer import TimesformerLayer, TimesformerSelfAttention
from written_out import SavedPrompts, write_out

from apt_peft import AttentionPromptConfig, initialize_prompts_from_data

KINDS = ["divided_space_time", "space_only", "joint_space_time"]
BOTH = [
    f"timesformer.encoder.layer.{n}.{kind}.attention" for n in (0, 1) for kind in ("attention", "temporal_attention")
]


def timesformer(**changes):
    return build("timesformer", dtype=torch.float64, **changes).requires_grad_(False)


def clips(batch=2, seed=1):
    return inputs_for("timesformer", batch, seed=seed, dtype=torch.float64)


def prompted(model=None, **settings):
    model = timesformer() if model is None else model
    torch.manual_seed(3)
    settings = {"num_prompt_tokens": 3, "prompt_dropout": 0.0, "init_weights": False} | settings
    return get_peft_model(model, AttentionPromptConfig(**settings)).eval()


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


# ------------------------------------------------------------------------------------------------ where prompts go


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (None, BOTH),
        (["attention.attention"], [name for name in BOTH if ".temporal_" not in name]),
        (["temporal_attention.attention"], [name for name in BOTH if ".temporal_" in name]),
        (["attention.attention", "temporal_attention.attention"], BOTH),
    ],
    ids=str,
)
def test_one_or_both_attentions(targets, names):
    assert prompted(target_modules=targets).targeted_module_names == names


@pytest.mark.parametrize("targets", [None, ["temporal_attention.attention"], ["attention.attention"]], ids=str)
def test_layers_can_be_chosen(targets):
    model = prompted(target_modules=targets, layers_to_transform=[1])
    assert model.targeted_module_names == [
        name for name in prompted(target_modules=targets).targeted_module_names if ".layer.1." in name
    ]


# ------------------------------------------------------------------------------------------------ against written out


@pytest.mark.parametrize("targets", [None, ["temporal_attention.attention"], ["attention.attention"]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_attention(kind, targets, tmp_path):
    divided = kind == "divided_space_time"
    if targets == ["temporal_attention.attention"] and not divided:
        with pytest.raises(ValueError, match=r"In TimesformerForVideoClassification these can take prompts: \["):
            prompted(timesformer(attention_type=kind), target_modules=targets)
        return
    model = prompted(timesformer(attention_type=kind), target_modules=targets)
    assert len(prompt_layers(model)) == (4 if divided and targets is None else 2)
    model.save_pretrained(tmp_path)
    saved = SavedPrompts(tmp_path)
    reference = write_out(timesformer(attention_type=kind), saved.prompts())
    got, want = model(**clips(), output_attentions=True), reference(**clips(), output_attentions=True)
    torch.testing.assert_close(got.logits, want.logits, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(got.attentions, want.attentions, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    got.logits.pow(2).sum().backward()
    want.logits.pow(2).sum().backward()
    for name, gradient in saved.gradients().items():
        ours = model.get_parameter(f"{name}.default").grad
        torch.testing.assert_close(ours, gradient, rtol=1e-9, atol=1e-9)
    plain = timesformer(attention_type=kind)(**clips()).logits
    assert not torch.allclose(got.logits, plain, atol=1e-3)


def test_attention_dropout_acts_in_training_only(tmp_path):
    changes = {"attention_probs_dropout_prob": 0.3}
    model = prompted(timesformer(**changes))
    model.save_pretrained(tmp_path)
    assert torch.equal(output(model, clips()), output(prompted(), clips()))
    reference = write_out(timesformer(**changes), SavedPrompts(tmp_path).prompts()).train()
    model.train()
    torch.manual_seed(5)
    got = output(model, clips())
    torch.manual_seed(5)
    torch.testing.assert_close(got, output(reference, clips()), rtol=1e-9, atol=1e-9)
    assert not torch.equal(output(model, clips()), got)


def test_without_prompts_the_module_s_own_forward_runs(monkeypatch):
    calls = []
    own = TimesformerSelfAttention.forward

    def counting(self, *args, **kwargs):
        calls.append(self)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(TimesformerSelfAttention, "forward", counting)
    model = prompted(layers_to_transform=[1])
    model.add_adapter("other", AttentionPromptConfig(num_prompt_tokens=2, layers_to_transform=[0], modules_to_save=[]))

    def ran() -> list[int]:
        calls.clear()
        output(model, clips())
        layers = model.base_model.model.timesformer.encoder.layer
        inside = [{id(m) for m in layer.modules()} for layer in layers]
        return [index for module in calls for index in (0, 1) if id(module) in inside[index]]

    assert ran() == [0, 0]
    model.set_adapter("other")
    assert ran() == [1, 1]
    with model.disable_adapter():
        assert ran() == [0, 0, 1, 1]


def test_a_start_from_data_takes_keys_of_the_layer():
    model = prompted(init_weights="data")
    initialize_prompts_from_data(model, [clips()])
    layer = model.base_model.model.timesformer.encoder.layer[0].temporal_attention.attention
    seen = []
    layer.base_layer.qkv.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    with model.disable_adapter():
        output(model, clips())
    _, keys, values = seen[0].unflatten(-1, (3, 2, 16)).unbind(2)
    keys, values = keys.reshape(-1, 16), values.reshape(-1, 16)
    for key, value in zip(layer.attention_prompt_key["default"], layer.attention_prompt_value["default"], strict=True):
        match = (keys - key).abs().amax(-1) < 1e-9
        assert match.sum() == 1
        torch.testing.assert_close(values[match][0], value.detach(), rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------- copies, checkpointing, compiling


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_copies_are_equal_and_independent(copier):
    model = prompted()
    logits = output(model, clips())
    other = copier(model)
    assert torch.equal(output(other, clips()), logits)
    with torch.no_grad():
        for layer in prompt_layers(other):
            layer.attention_prompt_value["default"].add_(1)
    assert torch.equal(output(model, clips()), logits)
    assert not torch.allclose(output(other, clips()), logits)
    left = other.unload()
    assert torch.equal(output(left, clips()), output(timesformer(), clips()))
    assert not any("config" in vars(m) for m in left.modules() if isinstance(m, TimesformerSelfAttention))
    assert torch.equal(output(model, clips()), logits)


@pytest.mark.parametrize("prompt_dropout", [0.0, 0.5])
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("first", ["checkpointing", "prompts"])
def test_gradient_checkpointing_changes_nothing(first, use_reentrant, prompt_dropout):
    """transformers and PEFT take the output of the input embedding for a tensor, and TimeSformer's is a tuple."""
    found = []
    for checkpointed in (False, True):
        base = timesformer()
        if checkpointed and first == "checkpointing":
            enable_checkpointing(base, use_reentrant)
        model = prompted(base, prompt_dropout=prompt_dropout)
        if checkpointed and first == "prompts":
            enable_checkpointing(model, use_reentrant)
        model.train()
        torch.manual_seed(7)
        model(**clips(), labels=torch.tensor([0, 2])).loss.backward()
        found.append(gradients(model))
    assert all(gradient is not None for gradient in found[1].values())
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


def enable_checkpointing(model, use_reentrant):
    old, new = "gradient_checkpointing_enable", "activation_checkpointing_enable"
    getattr(model, new if hasattr(timesformer(), new) else old)({"use_reentrant": use_reentrant})


def test_unload_leaves_nothing_behind():
    model = prompted()
    model.add_adapter("other", AttentionPromptConfig(num_prompt_tokens=2, modules_to_save=[]))
    base = model.unload()
    assert not any(module._forward_hooks for module in base.modules())
    assert not any("config" in vars(m) for m in base.modules() if isinstance(m, TimesformerSelfAttention))


@pytest.mark.parametrize("kind", KINDS[:2])  # the third compiles the same code as the second
def test_compiles_without_a_graph_break(kind):
    model = prompted(timesformer(attention_type=kind))
    expected = output(model, clips())
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(output(compiled, clips()), expected, rtol=1e-9, atol=1e-9)
    output(compiled, clips()).pow(2).sum().backward()
    assert all(gradient is not None for gradient in gradients(model).values())


def test_a_layer_by_itself_finds_its_config():
    """PEFT's low-level call on a part of the model: the innermost module with a config tells."""
    encoder = timesformer().timesformer.encoder
    settings = AttentionPromptConfig(num_prompt_tokens=2, target_modules=["attention.attention"])
    layer = inject_adapter_in_model(settings, encoder.layer[0])
    assert isinstance(layer, TimesformerLayer)
    (wrapped,) = prompt_layers(layer)
    assert wrapped.real_config is layer.config
    alone = encoder.layer[1].attention  # nothing around it has a config
    inject_adapter_in_model(AttentionPromptConfig(num_prompt_tokens=2, target_modules=["attention"]), alone)
    states = torch.randn(2, 4, 32, dtype=torch.float64)
    assert alone(states, output_attentions=True)[1].shape == (2, 2, 4, 6)


def test_half_precision():
    model = prompted(timesformer().to(torch.bfloat16))
    inputs = {name: value.to(torch.bfloat16) for name, value in clips().items()}
    logits = model(**inputs, labels=torch.tensor([0, 2]))
    assert logits.logits.dtype == torch.bfloat16
    logits.loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


def test_an_adapter_for_each_sample_where_each_frame_is_classified_by_itself():
    """`space_only` sends the classifier a row for each frame of each sample."""
    model = prompted(timesformer(attention_type="space_only"))
    model.add_adapter("other", AttentionPromptConfig(num_prompt_tokens=5, init_weights=False))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("classifier.modules_to_save.other.weight"):
                parameter.mul_(-2)
    inputs, names = clips(3), ["other", "__base__", "default"]
    mixed = model(**inputs, adapter_names=names).logits.unflatten(0, (3, 3))
    for row, name in enumerate(names):
        model.set_adapter("default" if name == "__base__" else name)
        with model.disable_adapter() if name == "__base__" else contextlib.nullcontext():
            alone = output(model, inputs).unflatten(0, (3, 3))
        torch.testing.assert_close(mixed[row], alone[row], rtol=1e-9, atol=1e-9)


def test_two_adapters_act_together(tmp_path):
    model = prompted()
    model.save_pretrained(tmp_path / "first")
    more = {"num_prompt_tokens": 2, "prompt_dropout": 0.0, "init_weights": False, "modules_to_save": []}
    model.add_adapter("second", AttentionPromptConfig(**more, share_prompts_across_heads=False))
    model.base_model.set_adapter(["default", "second"])
    got = output(model, clips())
    model.save_pretrained(tmp_path, selected_adapters=["second"])
    one, two = (SavedPrompts(folder).prompts() for folder in (tmp_path / "first", tmp_path / "second"))
    joined = {
        name: tuple(torch.cat([a.expand(2, -1, -1), b], 1) for a, b in zip(one[name], two[name], strict=True))
        for name in one
    }
    torch.testing.assert_close(got, output(write_out(timesformer(), joined), clips()), rtol=1e-9, atol=1e-9)
    loaded = PeftModel.from_pretrained(timesformer(), tmp_path / "first").eval()
    model.set_adapter("default")
    assert torch.equal(output(loaded, clips()), output(model, clips()))
