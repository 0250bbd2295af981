"""LoRA and prompts on one model: LoRA first works, the other order is refused."""

import copy
import pickle

import pytest
import torch
from helpers import raises_exactly
from models import clips, prompted, tiny_videomae
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file

from apt_peft import AttentionPromptConfig, ConfigError, TargetError

# PEFT says of every second method that it is one; here that is on purpose
pytestmark = pytest.mark.filterwarnings(
    "ignore:Already found a `peft_config` attribute:UserWarning",
    "ignore:You are trying to modify a model with PEFT for a second time:UserWarning",
)
LORA = {"target_modules": ["query", "value", "dense"], "init_lora_weights": False}


def both():
    lora = get_peft_model(tiny_videomae(), LoraConfig(**LORA), adapter_name="low_rank")
    settings = {"num_prompt_tokens": 5, "init_weights": False, "prompt_dropout": 0.0}
    return get_peft_model(lora.get_base_model(), AttentionPromptConfig(**settings), adapter_name="prompts").eval()


def test_lora_first_then_prompts(tmp_path):
    torch.manual_seed(0)
    lora = get_peft_model(tiny_videomae(), LoraConfig(**LORA), adapter_name="low_rank").eval()
    low_rank = lora(clips()).logits
    torch.manual_seed(0)
    model = both()
    logits = model(clips()).logits
    assert not torch.allclose(logits, low_rank, atol=1e-3)
    with torch.no_grad():
        for layer in model.base_model.prompt_layers().values():  # prompts that nothing looks at, and that add nothing
            layer.attention_prompt_value["prompts"].zero_()
    assert not torch.allclose(model(clips()).logits, logits, atol=1e-3)
    with model.disable_adapter():  # PEFT switches all methods of a model at once
        assert torch.equal(model(clips()).logits, tiny_videomae()(clips()).logits)

    model.train()
    model(pixel_values=clips(), labels=torch.tensor([0, 2])).loss.backward()
    trained = {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    assert {"low_rank", "attention_prompt_key", "attention_prompt_value", "attention_prompt_scale"} <= trained

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1)
    expected = model.eval()(clips()).logits
    again = copy.deepcopy(model)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(clips()).logits, expected)
    model.save_pretrained(tmp_path)  # a folder for each
    names = set(load_file(tmp_path / "low_rank" / "adapter_model.safetensors"))
    assert dict(model.named_parameters()).keys() == model.state_dict().keys()
    assert all(model.get_parameter(name) is parameter for name, parameter in model.named_parameters())
    assert all(model.get_submodule(name) is module for name, module in model.named_modules())
    alone = get_peft_model(tiny_videomae(), LoraConfig(**LORA), adapter_name="low_rank")
    assert names == set(get_peft_model_state_dict(alone, adapter_name="low_rank"))
    loaded = PeftModel.from_pretrained(tiny_videomae(), tmp_path / "low_rank", adapter_name="low_rank")
    again = PeftModel.from_pretrained(loaded.get_base_model(), tmp_path / "prompts", adapter_name="prompts").eval()
    assert torch.allclose(again(clips()).logits, expected, atol=1e-6)


def test_both_by_the_mixin_of_transformers():
    model = tiny_videomae()
    model.add_adapter(LoraConfig(**LORA), "low_rank")
    model.add_adapter(AttentionPromptConfig(num_prompt_tokens=3, init_weights=False), "prompts")
    with_both = model(clips()).logits
    model.disable_adapters()
    assert torch.equal(model(clips()).logits, tiny_videomae()(clips()).logits)
    model.enable_adapters()
    assert not torch.equal(with_both, tiny_videomae()(clips()).logits)


@pytest.mark.parametrize(
    "under", [lambda m: m, lambda m: m.base_model, lambda m: m.get_base_model()], ids=["peft", "tuner", "base"]
)
def test_prompts_first_is_refused(under):
    model = prompted()
    before = model(clips()).logits
    with raises_exactly(
        TargetError,
        "LORA ('low_rank') must be added before attention prompts, but the model has prompts already, and PEFT does not "
        "look inside the attention modules they wrap. Call unload(), add the other method, then the prompts.",
    ):
        get_peft_model(under(model), LoraConfig(**LORA), adapter_name="low_rank")
    assert list(model.peft_config) == ["default"]
    assert torch.equal(model(clips()).logits, before)
    with pytest.raises(TargetError, match="LORA"):
        get_peft_model(under(copy.deepcopy(model)), LoraConfig(**LORA), adapter_name="low_rank")
    with pytest.raises(TargetError, match="LORA"):
        get_peft_model(under(pickle.loads(pickle.dumps(model))), LoraConfig(**LORA), adapter_name="low_rank")


def test_prompts_first_is_refused_by_the_mixin_too():
    model = tiny_videomae()
    model.add_adapter(AttentionPromptConfig(num_prompt_tokens=3), "prompts")
    with pytest.raises(TargetError, match="must be added before attention prompts"):
        model.add_adapter(LoraConfig(**LORA), "low_rank")


def test_the_remedy_works():
    model = prompted()
    base = model.unload()
    lora = get_peft_model(base, LoraConfig(**LORA), adapter_name="low_rank")
    get_peft_model(lora.get_base_model(), AttentionPromptConfig(num_prompt_tokens=2), adapter_name="prompts")(clips())


def test_a_name_that_another_method_has():
    lora = get_peft_model(tiny_videomae(), LoraConfig(**LORA))
    with raises_exactly(
        TargetError,
        "adapter_name ('default') must be new, but an adapter of LORA has it. Pass another adapter_name to get_peft_model.",
    ):
        get_peft_model(lora.get_base_model(), AttentionPromptConfig())
    assert lora.peft_config["default"].peft_type == "LORA"


@pytest.mark.parametrize("name", ["double", "keys", "train", "a.b", "__base__"])
def test_names_that_cannot_be_had(name):
    message = (
        f"adapter_name ({name!r}) must be a name that torch's containers have no use for, without dots, and not "
        "'__base__'. Choose another."
    )
    with raises_exactly(ConfigError, message):
        get_peft_model(tiny_videomae(), AttentionPromptConfig(), adapter_name=name)
    model = prompted()
    before = set(dict(model.named_parameters()))
    with raises_exactly(ConfigError, message):
        model.add_adapter(name, AttentionPromptConfig())
    assert set(dict(model.named_parameters())) == before
    assert list(model.peft_config) == ["default"]


@pytest.mark.parametrize("name", ["0", "weight", "classifier", "encoder", "original_module", "base_layer"])
def test_names_that_stand_in_the_names_of_weights(name):
    """PEFT would save such an adapter without its weights in the modules of that name."""
    with raises_exactly(
        ConfigError,
        f"adapter_name ({name!r}) must not be part of the names of the model's modules and weights, since PEFT finds an "
        "adapter's weights by it. Choose another.",
    ):
        prompted().add_adapter(name, AttentionPromptConfig())


def test_samples_of_a_mixed_batch_above_lora():
    model = both()
    with torch.no_grad():
        mixed = model(clips(), adapter_names=["prompts", "__base__"]).logits
        prompts = model(clips()).logits
        for layer in model.base_model.prompt_layers().values():
            layer.enable_adapters(False)
        low_rank = model(clips()).logits
    assert torch.allclose(mixed[0], prompts[0], atol=1e-6)
    assert torch.allclose(mixed[1], low_rank[1], atol=1e-6)  # LoRA acts on every sample; the heads are equal here
    with raises_exactly(
        ConfigError,
        "adapter_names ['low_rank'] must be adapters of attention prompts, but the model has ['prompts']. Load them first; "
        '"__base__" stands for none.',
    ):
        model(clips(), adapter_names=["prompts", "low_rank"])
    with raises_exactly(ConfigError, "adapters ['low_rank'] must be adapters of the model, but it has ['prompts']."):
        model.add_weighted_adapter(["low_rank"], [1.0], "new")
