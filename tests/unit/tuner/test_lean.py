"""Attention that keeps little: its numbers against plain operations and torch's own, and where it stands aside."""

import copy

import pytest
import torch
import torch.nn.functional as F
from models import clips, prompt_layers, prompted
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from apt_peft import AttentionPromptConfig
from apt_peft.tuner import lean
from apt_peft.tuner.functional import Prompts, append_prompts

LABELS = torch.tensor([0, 2])


def states(dtype=torch.float64, *, batch=3, heads=2, queries=70, dim=16):
    generator = torch.Generator().manual_seed(0)
    return [
        # as a projection gives them: heads lie beside each other in memory
        torch.randn(batch, queries, heads, dim, generator=generator, dtype=torch.float64).to(dtype).transpose(1, 2)
        for _ in range(4)
    ]


def some_prompts(each_head: bool, dtype=torch.float64, *, count=5, heads=2, dim=16) -> Prompts:
    generator = torch.Generator().manual_seed(1)
    shape = (heads, count, dim) if each_head else (count, dim)
    keys, values = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return Prompts(keys.requires_grad_(), values.requires_grad_())


def plainly(query, key, value, prompts, scaling):
    key, value = append_prompts(key, prompts.keys), append_prompts(value, prompts.values)
    scores = query @ key.transpose(-1, -2) * scaling
    return (scores.softmax(-1) @ value).transpose(1, 2)


def by_torch(query, key, value, prompts, scaling):
    key, value = append_prompts(key, prompts.keys), append_prompts(value, prompts.values)
    return F.scaled_dot_product_attention(query, key, value, scale=scaling).transpose(1, 2)


@pytest.mark.parametrize("each_head", [False, True])
@pytest.mark.parametrize("needs", [(), (0, 1, 2), (0, 2), (1,)], ids=str)
@pytest.mark.parametrize("rows", [lean.ROWS, 64])
def test_output_and_gradients_are_those_of_plain_operations(each_head, needs, rows, monkeypatch):
    monkeypatch.setattr(lean, "ROWS", rows)
    *inputs, towards = states()
    inputs = [tensor.requires_grad_(number in needs) for number, tensor in enumerate(inputs)]
    prompts = some_prompts(each_head)
    trained = [*(inputs[number] for number in needs), prompts.keys, prompts.values]
    results = []
    for function in (plainly, lean.attend):
        output = function(*inputs, prompts, 0.3)
        results.append([output, *torch.autograd.grad(output, trained, towards.transpose(1, 2))])
    for want, got in zip(*results, strict=True):
        assert got.shape == want.shape
        assert torch.allclose(got, want, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_upper_layers_the_numbers_are_torch_s_own(dtype):
    *inputs, towards = states(dtype)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    prompts = some_prompts(False, torch.float32)
    results = []
    for function in (by_torch, lean.attend):
        output = function(*inputs, prompts, 0.25)
        gradients = torch.autograd.grad(output, [*inputs, *prompts[:2]], towards.transpose(1, 2))
        results.append([output, *gradients])
    for want, got in zip(*results, strict=True):
        assert got.dtype == want.dtype
        if want.dim() == 4:
            assert torch.equal(got, want)
        else:  # a sum over clips and heads, whose order differs
            assert torch.allclose(got, want, rtol=2 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_the_first_layer_half_precision_is_no_worse_than_torch_s(dtype):
    *inputs, towards = states(dtype)
    prompts = some_prompts(False, torch.float32)

    def gradients(function, cast=lambda tensor: tensor):
        output = function(*map(cast, inputs), prompts, 0.25)
        return torch.autograd.grad(output, prompts[:2], cast(towards).transpose(1, 2))

    exact = gradients(lambda *given: plainly(*given), torch.Tensor.double)
    for want, ours, theirs in zip(exact, gradients(lean.attend), gradients(by_torch), strict=True):
        assert (ours - want).abs().max() <= 1.2 * (theirs - want).abs().max() + 1e-6


def attentions(model, **settings) -> list[str]:
    """What the graph of a loss has for attention, one for each layer; the names of autograd's nodes."""
    todo = [model.train()(pixel_values=clips(), labels=LABELS).loss.grad_fn]
    seen, names = set(), []
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names += [node.name()] if "ScaledDotProduct" in node.name() or "PromptedAttention" in node.name() else []
            todo += [following for following, _ in node.next_functions]
    return names


OURS, THEIRS = "PromptedAttentionBackward", "ScaledDotProductFlashAttentionForCpuBackward0"


@pytest.mark.parametrize(
    "settings",
    [{}, {"share_prompts_across_heads": False}, {"reparameterization": "none", "prompt_dropout": 0.0}],
    ids=["shared", "each head", "bare parameters"],
)
def test_a_model_trains_by_it(settings):
    model = prompted(**settings)
    assert attentions(model) == [OURS] * len(prompt_layers(model))


def test_it_stands_aside_where_it_cannot_stand_for_the_implementation(monkeypatch):
    assert OURS not in attentions(prompted(score_bias=True))
    assert OURS not in attentions(prompted(key_gate=2))
    model = prompted()
    with sdpa_kernel(SDPBackend.MATH):
        assert OURS not in attentions(model)
    model.base_model.model.config._attn_implementation = "eager"
    assert OURS not in attentions(model)
    model.base_model.model.config._attn_implementation = "sdpa"
    assert attentions(model) == [OURS] * 3

    everything = copy.deepcopy(model)
    for name, parameter in everything.named_parameters():
        parameter.requires_grad_("attention_prompt_" not in name)
    assert attentions(everything) == [THEIRS] * 3  # prompts are frozen, all else is not

    called = []
    monkeypatch.setattr("apt_peft.tuner.interface.attend", lambda *args: called.append(args))
    with torch.no_grad():
        model(clips())
    assert not called


def gradients_of(model, run=None) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = (model if run is None else run)(pixel_values=clips(), labels=LABELS).loss
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def joined(model, monkeypatch) -> dict[str, torch.Tensor]:
    """Gradients by torch's kernel over joined keys and values."""
    with monkeypatch.context() as context:
        context.setattr("apt_peft.tuner.interface.keeps_little", lambda *args: False)
        assert attentions(model) == [THEIRS] * 3
        return gradients_of(model)


def assert_equal(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert torch.allclose(got[name], value, atol=1e-6, rtol=1e-4), name


@pytest.fixture
def model():
    model = prompted(modules_to_save=["classifier"], prompt_dropout=0.0)
    other = AttentionPromptConfig(num_prompt_tokens=2, init_weights=False, modules_to_save=[], prompt_dropout=0.0)
    model.add_adapter("b", other)
    model.base_model.set_adapter(["default", "b"])
    return model.train()


def test_gradients_of_two_adapters_are_those_of_joined_tensors(model, monkeypatch):
    want = joined(model, monkeypatch)
    assert sum("attention_prompt_" in name for name in want) == 2 * 3 * 3
    assert_equal(gradients_of(model), want)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(model, monkeypatch, reentrant):
    want = joined(model, monkeypatch)
    base = model.base_model.model
    old, new = "gradient_checkpointing_enable", "activation_checkpointing_enable"
    getattr(base, new if hasattr(base, new) else old)({"use_reentrant": reentrant})
    if reentrant:
        base.enable_input_require_grads()
    assert_equal(gradients_of(model), want)


def test_checkpointing_a_first_layer_alone(monkeypatch):
    *inputs, towards = states()
    prompts = some_prompts(False)
    run = lambda keys, values: lean.attend(*inputs, Prompts(keys, values), 0.3)  # noqa: E731
    want = torch.autograd.grad(run(*prompts[:2]), prompts[:2], towards.transpose(1, 2))
    got = torch.autograd.grad(checkpoint(run, *prompts[:2], use_reentrant=False), prompts[:2], towards.transpose(1, 2))
    assert all(map(torch.equal, got, want))


def test_autocast(model, monkeypatch):
    with torch.autocast("cpu", torch.bfloat16):
        got, want = gradients_of(model), joined(model, monkeypatch)
    for name, value in want.items():
        assert torch.allclose(got[name], value, atol=0.02 * float(value.abs().max())), name


@pytest.mark.filterwarnings("ignore:.*second time:UserWarning", "ignore:Already found a `peft_config`:UserWarning")
def test_lora_below_the_prompts(model, monkeypatch):
    """Queries and values of the first layer then need gradients, its keys do not."""
    from peft import LoraConfig, get_peft_model

    base = prompted().unload()
    base = get_peft_model(
        base, LoraConfig(target_modules=["query", "value"], init_lora_weights=False), "low_rank"
    ).base_model.model
    both = prompted(model=base).train()
    for name, parameter in both.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or "lora_" in name)
    want = joined(both, monkeypatch)
    assert any("layer.0" in name and "lora_A" in name for name in want)
    assert_equal(gradients_of(both), want)


def test_compiled_and_transformed_models_take_the_ordinary_way(model, monkeypatch):
    want = joined(model, monkeypatch)
    torch._dynamo.reset()
    assert_equal(gradients_of(model, torch.compile(model, backend="aot_eager", fullgraph=True)), want)

    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss(given):
        return torch.func.functional_call(model, given, kwargs={"pixel_values": clips(), "labels": LABELS}).loss

    transformed = torch.func.grad(loss)(parameters)
    for name, value in want.items():
        assert torch.allclose(transformed[name], value, atol=1e-6, rtol=1e-4), name


def test_backward_twice_over_one_graph_and_no_second_derivative(model):
    loss = model(pixel_values=clips(), labels=LABELS).loss
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first = torch.autograd.grad(loss, trained, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, trained, retain_graph=True)))
    gradient = torch.autograd.grad(loss, prompt_layers(model)[0].attention_prompt_key["default"], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):  # torch's own fused kernel has none either
        gradient.sum().backward()


def test_a_prompt_that_changes_before_the_backward_is_told():
    model = prompted(reparameterization="none", prompt_dropout=0.0)
    loss = model(pixel_values=clips(), labels=LABELS).loss
    with torch.no_grad():
        prompt_layers(model)[0].attention_prompt_key["default"].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_probe_sees_every_call(model):
    seen = []

    class Probe:
        change = staticmethod(lambda prompts: prompts)
        see = staticmethod(seen.append)

    for layer in prompt_layers(model):
        layer.probe = Probe()
    model(pixel_values=clips(), labels=LABELS).loss.backward()
    assert [call.num_prompt_tokens for call in seen] == [7] * 3
