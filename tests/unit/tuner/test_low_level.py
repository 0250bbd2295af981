"""PEFT's lower floors, which other libraries build on: injection, state dicts, meta device, dtypes, status."""

import peft
import pytest
import torch
from helpers import raises_exactly
from models import clips, prompt_layers, prompted, tiny_videomae
from packaging.version import Version
from peft import (
    PeftModel,
    get_layer_status,
    get_model_status,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
)
from peft import set_peft_model_state_dict as _set_peft_model_state_dict
from safetensors.torch import load_file

from apt_peft import AttentionPromptConfig, TargetError

SETTINGS = {"num_prompt_tokens": 5, "prompt_dropout": 0.0, "init_weights": False}
HEAD = {f"{module}.{part}" for module in ("fc_norm", "classifier") for part in ("weight", "bias")}
# PEFT 0.20 freezes the adapter that trains, too, when another one is loaded for use; LoRA's alike
LOADING_LEAVES_OTHERS = Version(peft.__version__) >= Version("0.21")
HALF = [torch.bfloat16, torch.float16]


def set_peft_model_state_dict(model, state_dict: dict, **kwargs):
    """PEFT's function on a copy: PEFT 0.20 takes the heads out of the dictionary that it is given."""
    return _set_peft_model_state_dict(model, dict(state_dict), **kwargs)


def inner(state_dict: dict) -> dict:
    """As a model without PEFT's wrapper names its parts."""
    return {name.removeprefix("base_model.model."): tensor for name, tensor in state_dict.items()}


def prompts_of(model) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if "attention_prompt_" in name}


def heads_of(model) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if ".modules_to_save." in name}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with an adapter, its state dict, and the logits that it gives."""
    folder = tmp_path_factory.mktemp("adapter")
    model = prompted()
    with torch.no_grad():
        for head in heads_of(model).values():
            head.add_(0.1)
    model.save_pretrained(folder)
    return folder, get_peft_model_state_dict(model), model(clips()).logits.detach()


# ------------------------------------------------------------------------------------------ injection, state dicts


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_injected_and_filled(saved, low_cpu_mem_usage):
    _, state, logits = saved
    model = inject_adapter_in_model(
        AttentionPromptConfig(**SETTINGS), tiny_videomae(), low_cpu_mem_usage=low_cpu_mem_usage
    )
    assert type(model) is type(tiny_videomae())
    assert all(prompt.is_meta is low_cpu_mem_usage for prompt in prompts_of(model).values())
    result = set_peft_model_state_dict(model, inner(state), low_cpu_mem_usage=low_cpu_mem_usage)
    assert result.unexpected_keys == []
    assert not any("attention_prompt" in name or "modules_to_save" in name for name in result.missing_keys)
    assert torch.equal(model.eval()(clips()).logits, logits)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(prompts_of(model)) | set(
        heads_of(model)
    )
    assert get_peft_model_state_dict(model).keys() == inner(state).keys()


def test_a_state_dict_tells_the_targets(saved):
    state = {name: tensor for name, tensor in inner(saved[1]).items() if "layer.1" in name or name in HEAD}
    config = AttentionPromptConfig(**SETTINGS)
    with pytest.warns(RuntimeWarning, match="The PEFT config contained these additional target modules"):
        model = inject_adapter_in_model(config, tiny_videomae(), state_dict=state)
    layers = [name for name, module in model.named_modules() if module in prompt_layers(model)]
    assert layers == ["videomae.encoder.layer.1.attention.attention"]
    assert set_peft_model_state_dict(model, state).unexpected_keys == []
    expected = prompted(layers_to_transform=[1])
    set_peft_model_state_dict(expected, {f"base_model.model.{name}": tensor for name, tensor in state.items()})
    assert torch.equal(model.eval()(clips()).logits, expected(clips()).logits)


def test_the_state_dict_that_is_handed_out_is_the_file(saved):
    folder, state, _ = saved
    file = load_file(folder / "adapter_model.safetensors")
    assert file.keys() == state.keys()
    assert all(torch.equal(file[name], state[name]) for name in file)
    assert {name.removeprefix("base_model.model.") for name in state if "attention_prompt" not in name} == HEAD


def test_round_trip_between_adapters_of_other_names(saved):
    _, state, logits = saved
    model = prompted()
    model.add_adapter("walk-1", AttentionPromptConfig(**SETTINGS))
    before = get_peft_model_state_dict(model)
    set_peft_model_state_dict(model, state, adapter_name="walk-1")
    assert all(torch.equal(before[name], tensor) for name, tensor in get_peft_model_state_dict(model).items())
    second = get_peft_model_state_dict(model, adapter_name="walk-1")
    assert second.keys() == state.keys()
    assert all(torch.equal(second[name], state[name]) for name in state)
    model.set_adapter("walk-1")
    assert torch.equal(model.eval()(clips()).logits, logits)


def test_missing_and_unexpected_keys_are_reported(saved):
    state = dict(saved[1])
    layer = "base_model.model.videomae.encoder.layer"
    del state[f"{layer}.1.attention.attention.attention_prompt_value"]
    state[f"{layer}.9.attention.attention.attention_prompt_key"] = torch.zeros(5, 16)
    result = set_peft_model_state_dict(prompted(), state)
    unexpected = [name.removesuffix(".default") for name in result.unexpected_keys]  # as PEFT 0.20 has it
    assert unexpected == [f"{layer}.9.attention.attention.attention_prompt_key"]
    assert [name for name in result.missing_keys if "attention_prompt_" in name] == [
        f"{layer}.1.attention.attention.attention_prompt_value.default"
    ]


def test_missing_prompts_are_warned_of(saved, tmp_path):
    from safetensors.torch import save_file

    folder, state, _ = saved
    lost = "base_model.model.videomae.encoder.layer.2.attention.attention.attention_prompt_scale"
    (tmp_path / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    save_file({name: tensor for name, tensor in state.items() if name != lost}, tmp_path / "adapter_model.safetensors")
    with pytest.warns(UserWarning, match=f"Found missing adapter keys.*{lost}.default"):
        PeftModel.from_pretrained(tiny_videomae(), tmp_path)


# ---------------------------------------------------------------------------------------------- devices and dtypes


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_float32_state_dict_for_an_injected_half_precision_model(saved, low_cpu_mem_usage):
    config, base = AttentionPromptConfig(**SETTINGS), tiny_videomae().bfloat16()
    model = inject_adapter_in_model(config, base, low_cpu_mem_usage=low_cpu_mem_usage)
    set_peft_model_state_dict(model, inner(saved[1]), low_cpu_mem_usage=low_cpu_mem_usage)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}  # PEFT's autocast belongs to PeftModel
    assert torch.allclose(model.eval()(clips().bfloat16()).logits.float(), saved[2], atol=0.1)


@pytest.mark.parametrize("is_trainable", [False, True])
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("autocast_adapter_dtype", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_loading_in_every_way(saved, dtype, autocast_adapter_dtype, low_cpu_mem_usage, is_trainable):
    folder, state, logits = saved
    model = PeftModel.from_pretrained(
        tiny_videomae().to(dtype),
        folder,
        is_trainable=is_trainable,
        autocast_adapter_dtype=autocast_adapter_dtype,
        low_cpu_mem_usage=low_cpu_mem_usage,
        torch_device="cpu",
    )
    wanted = torch.float32 if autocast_adapter_dtype else dtype
    assert {p.dtype for p in prompts_of(model).values()} == {wanted}
    assert {p.dtype for p in heads_of(model).values()} == {dtype}
    for name, tensor in get_peft_model_state_dict(model).items():  # nothing was rounded on the way
        assert torch.equal(tensor, state[name].to(wanted if "attention_prompt" in name else dtype)), name
    own = prompts_of(model) | heads_of(model)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == (set(own) if is_trainable else set())
    assert model.training is is_trainable
    model.eval()
    assert torch.allclose(model(clips().to(dtype)).logits.float(), logits, atol=1e-6 if dtype == torch.float32 else 0.1)
    if is_trainable:
        model(pixel_values=clips().to(dtype), labels=torch.tensor([0, 2])).loss.backward()
        assert all(p.grad is not None and p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in own.values())


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("autocast_adapter_dtype", [False, True])
def test_a_further_adapter_is_loaded_frozen_beside_one_that_trains(saved, dtype, autocast_adapter_dtype):
    folder, _, logits = saved
    model = prompted(model=tiny_videomae().to(dtype), num_prompt_tokens=2)
    model.load_adapter(folder, "second", autocast_adapter_dtype=autocast_adapter_dtype)
    second = {name: p for name, p in (prompts_of(model) | heads_of(model)).items() if ".second" in name}
    assert {p.requires_grad for p in second.values()} == {False}
    wanted = torch.float32 if autocast_adapter_dtype else dtype
    assert {p.dtype for name, p in second.items() if "attention_prompt_" in name} == {wanted}
    first = {name: p for name, p in (prompts_of(model) | heads_of(model)).items() if ".default" in name}
    assert {p.requires_grad for p in first.values()} == {LOADING_LEAVES_OTHERS}
    model.set_adapter("second")
    assert torch.allclose(model.eval()(clips().to(dtype)).logits.float(), logits, atol=0.1)
    assert {p.requires_grad for p in second.values()} == {True}
    assert {p.requires_grad for p in first.values()} == {False}


@pytest.mark.parametrize("autocast_adapter_dtype", [False, True])
def test_new_prompts_in_a_half_precision_base(autocast_adapter_dtype):
    model = get_peft_model(
        tiny_videomae().bfloat16(), AttentionPromptConfig(**SETTINGS), autocast_adapter_dtype=autocast_adapter_dtype
    )
    assert {(p.dtype, p.requires_grad) for p in prompts_of(model).values()} == {
        (torch.float32 if autocast_adapter_dtype else torch.bfloat16, True)
    }


@pytest.mark.parametrize("change", [lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to(torch.float16)])
def test_a_whole_model_is_cast_and_cast_back(change):
    model = prompted()
    logits = model(clips()).logits
    dtype = next(change(model).parameters()).dtype
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert torch.allclose(model(clips().to(dtype)).logits.float(), logits, atol=0.1)
    assert {p.dtype for p in model.float().parameters()} == {torch.float32}
    assert torch.allclose(model(clips()).logits, logits, atol=0.1)
    assert all(layer.base_layer.config.prompt_layer is layer for layer in prompt_layers(model))


def test_prompts_are_never_drawn_in_eight_bits():
    base = tiny_videomae()
    for layer in base.videomae.encoder.layer:
        for name in ("query", "key", "value"):
            projection = getattr(layer.attention.attention, name)
            projection.weight = torch.nn.Parameter(projection.weight.to(torch.float8_e4m3fn), requires_grad=False)
    model = get_peft_model(base, AttentionPromptConfig(**SETTINGS), autocast_adapter_dtype=False)
    assert {p.dtype for p in prompts_of(model).values()} == {torch.float32}


def test_a_base_on_the_meta_device(saved):
    folder, _, logits = saved
    with torch.device("meta"):
        base = tiny_videomae()
    model = get_peft_model(base, AttentionPromptConfig(**SETTINGS))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    full = PeftModel.from_pretrained(tiny_videomae(), folder).state_dict()
    model.load_state_dict(full, assign=True)
    assert torch.equal(model.eval()(clips()).logits, logits)
    assert all(p.requires_grad for p in prompts_of(model).values())


def test_an_adapter_is_kept_while_its_base_is_still_empty(saved):
    folder, _, logits = saved
    with torch.device("meta"):
        base = tiny_videomae()
    model = PeftModel.from_pretrained(base, folder, low_cpu_mem_usage=True)
    assert {p.device.type for p in prompts_of(model).values()} == {"cpu"}
    whole = prompted().state_dict()
    model.load_state_dict({n: t for n, t in whole.items() if "default" not in n}, assign=True, strict=False)
    assert torch.equal(model(clips()).logits, logits)


def test_a_whole_state_dict_keeps_its_dtypes():
    state = prompted().state_dict()
    model = prompted(model=tiny_videomae().bfloat16())
    model.load_state_dict(state, assign=True)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# ------------------------------------------------------------------------------------------------- status, numbers


def statuses(model):
    """The model's status, once PEFT's own list by layer has agreed with it."""
    layers = [layer for layer in get_layer_status(model) if layer.module_type.startswith("attention_prompt")]
    assert [layer.module_type for layer in layers] == ["attention_prompt.AttentionPromptLayer"] * len(layers)
    status = get_model_status(model)
    for layer in layers:
        assert layer.enabled == status.enabled
        assert layer.active_adapters == status.active_adapters
        assert layer.requires_grad.items() <= status.requires_grad.items()
    return status


def test_status_tells_the_truth(saved):
    model = prompted()
    status = statuses(model)
    assert status.base_model_type == "VideoMAEForVideoClassification"
    assert status.adapter_model_type == "AttentionPromptModel"
    assert status.peft_types == {"default": "ATTENTION_PROMPT"}
    assert status.num_adapter_layers == 3 + 2  # attentions and heads
    assert (status.enabled, status.active_adapters, status.merged_adapters) == (True, ["default"], [])
    assert status.requires_grad == {"default": True}
    assert status.devices == {"default": ["cpu"]}

    model.load_adapter(saved[0], "second", low_cpu_mem_usage=True)
    status = statuses(model)
    assert status.available_adapters == ["default", "second"]
    assert status.active_adapters == ["default"]
    assert status.requires_grad == {"default": LOADING_LEAVES_OTHERS, "second": False}
    assert status.devices == {"default": ["cpu"], "second": ["cpu"]}
    assert status.peft_types == {"default": "ATTENTION_PROMPT", "second": "ATTENTION_PROMPT"}

    model.set_adapter("second")
    assert statuses(model).active_adapters == ["second"]
    assert statuses(model).requires_grad == {"default": False, "second": True}
    with model.disable_adapter():
        assert statuses(model).enabled is False
    assert statuses(model).enabled is True
    model.delete_adapter("default")
    assert statuses(model).available_adapters == ["second"]
    model.base_model.set_requires_grad("second", False)
    assert statuses(model).requires_grad == {"second": False}


def test_status_of_an_adapter_on_the_meta_device():
    model = get_peft_model(
        tiny_videomae(), AttentionPromptConfig(**SETTINGS, modules_to_save=[]), low_cpu_mem_usage=True
    )
    assert get_model_status(model).devices == {"default": ["meta"]}


@pytest.mark.parametrize(
    ("settings", "of_a_layer"),
    [
        ({}, 2 * 5 * 16 + 2 * 5),
        ({"reparameterization": "none"}, 2 * 5 * 16),
        ({"share_prompts_across_heads": False}, 2 * 2 * 5 * 16 + 2 * 2 * 5),
        ({"modules_to_save": []}, 2 * 5 * 16 + 2 * 5),
        ({"layers_to_transform": [0, 2]}, 2 * 5 * 16 + 2 * 5),
    ],
    ids=str,
)
def test_numbers_of_parameters(settings, of_a_layer, capsys):
    base = sum(p.numel() for p in tiny_videomae().parameters())
    head = 0 if settings.get("modules_to_save") == [] else 2 * 32 + 32 * 3 + 3
    trainable = of_a_layer * len(settings.get("layers_to_transform", [0, 1, 2])) + head
    model = prompted(**settings)
    assert model.get_nb_trainable_parameters() == (trainable, base + trainable)
    model.print_trainable_parameters()
    assert capsys.readouterr().out == (
        f"trainable params: {trainable:,d} || all params: {base + trainable:,d} || "
        f"trainable%: {100 * trainable / (base + trainable):.4f}\n"
    )


# -------------------------------------------------------------------------------------------------------- refusals


def test_an_injection_that_cannot_work_leaves_the_model_as_it_was():
    model = tiny_videomae()
    before = dict(model.named_modules()).keys()
    with raises_exactly(
        TargetError,
        "modules_to_save ['head'] must name modules of the model, but VideoMAEForVideoClassification has none of that "
        "name. Its top modules are ['videomae', 'fc_norm', 'classifier'].",
    ):
        inject_adapter_in_model(AttentionPromptConfig(**SETTINGS, modules_to_save=["head"]), model)
    assert dict(model.named_modules()).keys() == before


def test_other_shapes_are_refused_unless_they_may_be_left_out(saved):
    _, state, _ = saved
    with pytest.raises(RuntimeError, match=r"size mismatch for .*attention_prompt_key\.default"):
        set_peft_model_state_dict(prompted(num_prompt_tokens=4), state)
    with pytest.warns(UserWarning, match="were not initialized from the model checkpoint"):
        set_peft_model_state_dict(prompted(num_prompt_tokens=4), state, ignore_mismatched_sizes=True)
