"""Prompts on bases whose weights bitsandbytes or torchao have quantized, on the CPU."""

import copy

import pytest
import torch
from helpers import raises_exactly
from models import clips, prompted, tiny_videomae
from peft import PeftModel, get_layer_status, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForVideoClassification, BitsAndBytesConfig, TorchAoConfig

from apt_peft import AttentionPromptConfig, AutoPeftModelForVideoClassification, TargetError, hotswap_adapter

pytest.importorskip("bitsandbytes")
pytest.importorskip("torchao")
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig

HEAD = ["fc_norm", "classifier"]
SETTINGS = {"num_prompt_tokens": 5, "prompt_dropout": 0.0, "init_weights": False}


def bitsandbytes(**settings) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(**({"llm_int8_skip_modules": HEAD} | settings))


def torchao(kind, **settings) -> TorchAoConfig:
    return TorchAoConfig(kind, **({"modules_to_not_convert": HEAD} | settings))


# name -> (its config, the base's dtype, the type of its weights, how far logits are from those of the same weights in float)
TRAINABLE = {
    "bitsandbytes int8": (lambda: bitsandbytes(load_in_8bit=True), torch.float32, "Int8Params", 0.1),
    "bitsandbytes int8, bf16": (lambda: bitsandbytes(load_in_8bit=True), torch.bfloat16, "Int8Params", 0.2),
    "bitsandbytes fp4": (lambda: bitsandbytes(load_in_4bit=True), torch.float32, "Params4bit", 0.1),
    "bitsandbytes nf4, bf16": (
        lambda: bitsandbytes(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_use_double_quant=True,
        ),
        torch.bfloat16,
        "Params4bit",
        0.2,
    ),
    "torchao int8": (lambda: torchao(Int8WeightOnlyConfig()), torch.float32, "Int8Tensor", 1e-4),
    "torchao int8, bf16": (lambda: torchao(Int8WeightOnlyConfig()), torch.bfloat16, "Int8Tensor", 0.2),
}
DYNAMIC = (lambda: torchao(Int8DynamicActivationInt8WeightConfig()), torch.float32, "Int8Tensor", 0.2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A saved base whose widths bitsandbytes' blocks of four bits divide."""
    folder = tmp_path_factory.mktemp("quantized")
    tiny_videomae(hidden_size=64, intermediate_size=128, num_attention_heads=4).save_pretrained(folder / "base")
    prompted(model=plain(folder), **SETTINGS).save_pretrained(folder / "adapter")
    return folder


def plain(folder, **options):
    return AutoModelForVideoClassification.from_pretrained(folder / "base", **options)


def quantized(folder, kind):
    config, dtype, weights, _ = kind
    model = plain(folder, quantization_config=config(), dtype=dtype)
    projection = model.videomae.encoder.layer[0].attention.attention.query
    assert type(projection.weight).__name__ == weights
    return model


def logits_of(model) -> torch.Tensor:
    """In evaluation mode and without gradients: with them bitsandbytes takes another kernel, with other rounding."""
    model.eval()
    with torch.no_grad():
        return model(clips().to(model.dtype)).logits.float()


def in_float(weight: torch.Tensor) -> torch.Tensor:
    """What a quantized weight stands for, by the library that quantized it."""
    if type(weight).__name__ == "Int8Params":
        return (weight.CB if weight.CB is not None else weight.data).float() * weight.SCB[:, None] / 127
    if type(weight).__name__ == "Params4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state).float()
    return weight.dequantize().float()


def same_in_float(folder, quantized_model):
    """A plain float32 model with the weights that the quantized ones stand for."""
    model = plain(folder)
    parts = dict(quantized_model.named_modules())
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name not in HEAD:
                module.weight.copy_(in_float(parts[name].weight).view(module.weight.shape))
    return model


@pytest.mark.parametrize("kind", [*TRAINABLE.values(), DYNAMIC], ids=[*TRAINABLE, "torchao int8, activations too"])
def test_an_adapter_is_loaded(place, kind):
    """Against the same adapter on a float model of the same weights."""
    base = quantized(place, kind)
    expected = logits_of(PeftModel.from_pretrained(same_in_float(place, base), place / "adapter"))
    own = logits_of(quantized(place, kind))
    model = PeftModel.from_pretrained(base, place / "adapter")
    logits = logits_of(model)
    assert torch.allclose(logits, expected, atol=kind[3])
    assert (logits - own).abs().max() > 4 * kind[3]
    prompts = [p for name, p in model.named_parameters() if "attention_prompt_" in name]
    assert {(p.dtype, p.device.type, p.requires_grad) for p in prompts} == {(torch.float32, "cpu", False)}
    with model.disable_adapter():
        assert torch.equal(logits_of(model), own)
    assert torch.equal(logits_of(copy.deepcopy(model)), logits)
    assert torch.equal(logits_of(model.unload()), own)


@pytest.mark.parametrize("kind", TRAINABLE.values(), ids=TRAINABLE)
def test_prompts_are_trained_saved_and_loaded(place, tmp_path, kind):
    model = get_peft_model(quantized(place, kind), AttentionPromptConfig(**SETTINGS))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in before if "attention_prompt_" in name or ".modules_to_save." in name} == set(trained)
    assert {p.dtype for name, p in trained.items() if "attention_prompt_" in name} == {torch.float32}
    optimizer = torch.optim.SGD(trained.values(), lr=0.5)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model(pixel_values=clips().to(model.dtype), labels=torch.tensor([0, 2])).loss.backward()
        optimizer.step()
    assert not any(torch.equal(p, before[name]) for name, p in trained.items())
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad and type(p) is torch.nn.Parameter}
    assert all(torch.equal(p, before[name]) for name, p in frozen.items())
    model.save_pretrained(tmp_path)
    logits = logits_of(model)
    for low_cpu_mem_usage in (False, True):
        base = quantized(place, kind)
        loaded = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
        assert torch.equal(logits_of(loaded), logits)
        assert {type(p.data) for p in loaded.base_model.model.classifier.parameters()} == {torch.Tensor}


@pytest.mark.parametrize("kind", ["bitsandbytes int8", "bitsandbytes nf4, bf16", "torchao int8, bf16"])
def test_prompts_in_the_dtype_of_the_base(place, kind):
    base = quantized(place, TRAINABLE[kind])
    model = PeftModel.from_pretrained(base, place / "adapter", autocast_adapter_dtype=False)
    prompts = [p for name, p in model.named_parameters() if "attention_prompt_" in name]
    assert {p.dtype for p in prompts} == {TRAINABLE[kind][1]}
    assert logits_of(model).isfinite().all()


def test_a_four_bit_attention_without_biases_tells_its_dtype(place):
    base = quantized(place, TRAINABLE["bitsandbytes nf4, bf16"])
    for layer in base.videomae.encoder.layer:
        for name in ("query", "key", "value"):
            getattr(layer.attention.attention, name).bias = None
    model = get_peft_model(base, AttentionPromptConfig(**SETTINGS), autocast_adapter_dtype=False)
    assert {p.dtype for name, p in model.named_parameters() if "attention_prompt_" in name} == {torch.bfloat16}


def test_a_hot_swap(place, tmp_path):
    prompted(seed=3, model=plain(place), **SETTINGS).save_pretrained(tmp_path)
    kind = TRAINABLE["bitsandbytes int8"]
    model = PeftModel.from_pretrained(quantized(place, kind), place / "adapter")
    before = logits_of(model)
    hotswap_adapter(model, tmp_path, "default")
    assert torch.equal(logits_of(model), logits_of(PeftModel.from_pretrained(quantized(place, kind), tmp_path)))
    assert not torch.equal(logits_of(model), before)


def test_the_auto_class_quantizes_the_base(place):
    adapter = PeftModel.from_pretrained(plain(place), place / "adapter")
    adapter.peft_config["default"].base_model_name_or_path = str(place / "base")
    adapter.save_pretrained(place / "named")
    config = bitsandbytes(load_in_8bit=True)
    model = AutoPeftModelForVideoClassification.from_pretrained(place / "named", quantization_config=config)
    expected = PeftModel.from_pretrained(quantized(place, TRAINABLE["bitsandbytes int8"]), place / "adapter")
    assert torch.equal(logits_of(model), logits_of(expected))
    assert len(get_layer_status(model)) == 5


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_peft_prepares_a_model_for_it(place):
    base = quantized(place, TRAINABLE["bitsandbytes int8"])
    base = prepare_model_for_kbit_training(base, gradient_checkpointing_kwargs={"use_reentrant": False})
    model = get_peft_model(base, AttentionPromptConfig(**SETTINGS)).train()
    model(pixel_values=clips(), labels=torch.tensor([0, 2])).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize(
    "config",
    [
        lambda: bitsandbytes(load_in_8bit=True, llm_int8_skip_modules=None),
        lambda: bitsandbytes(load_in_4bit=True, llm_int8_skip_modules=["fc_norm"]),
        lambda: torchao(Int8WeightOnlyConfig(), modules_to_not_convert=None),
    ],
    ids=["bitsandbytes int8", "bitsandbytes fp4", "torchao int8"],
)
def test_a_quantized_head_cannot_be_trained(place, config):
    message = (
        "modules_to_save ['classifier'] must have weights that can be trained, but those of the model are quantized. Load it "
        "with llm_int8_skip_modules=['classifier'] in BitsAndBytesConfig, or modules_to_not_convert=['classifier'] in "
        "TorchAoConfig."
    )
    base = plain(place, quantization_config=config())
    with raises_exactly(TargetError, message):
        get_peft_model(base, AttentionPromptConfig(**SETTINGS))
    with raises_exactly(TargetError, message):
        PeftModel.from_pretrained(base, place / "adapter")
    get_peft_model(base, AttentionPromptConfig(**SETTINGS, modules_to_save=[]))  # prompts alone can


def test_a_base_that_lets_no_gradients_through_is_for_inference(place):
    message = (
        "quantization_config of the model must let gradients through, but it rounds activations, and prompts would never "
        "change. Train on weights quantized alone (Int8WeightOnlyConfig); a trained adapter can be loaded here."
    )
    with raises_exactly(TargetError, message):
        get_peft_model(quantized(place, DYNAMIC), AttentionPromptConfig(**SETTINGS))
    with raises_exactly(TargetError, message):
        PeftModel.from_pretrained(quantized(place, DYNAMIC), place / "adapter", is_trainable=True)
    model = get_peft_model(quantized(place, DYNAMIC), AttentionPromptConfig(**SETTINGS, inference_mode=True))
    assert logits_of(model).isfinite().all()
