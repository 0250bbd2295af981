"""Another adapter in the place of a loaded one, against the same adapter loaded in the ordinary way."""

import copy
import json
import re

import pytest
import torch
from helpers import raises_exactly
from models import clips, prompt_layers, prompted, tiny_videomae
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend

from apt_peft import (
    AttentionPromptConfig,
    CheckpointError,
    ConfigError,
    hotswap_adapter,
    hotswap_adapter_from_state_dict,
    initialize_prompts_from_data,
)

NAMES = {0: "jump", 1: "sit", 2: "wave"}
OTHER_NAMES = {0: "cut", 1: "peel", 2: "stir"}
LAYER = "videomae.encoder.layer"
VARIANTS = [
    {},
    {"reparameterization": "softplus"},
    {"reparameterization": "none"},
    {"share_prompts_across_heads": False},
    {"layers_to_transform": [0, 2]},
    {"modules_to_save": []},
    {"modules_to_save": ["classifier"]},
    {"target_modules": []},
    {"score_bias": True},
    {"key_gate": 3},
    {"num_prompt_tokens_pattern": {r"layer\.1\.attention\.attention": 2}},
]


def adapter(seed: int, folder=None, **settings):
    """A model whose prompts and head nobody else has, saved where a folder is given."""
    names = {} if settings.get("modules_to_save") == [] else {"id2label": NAMES if seed == 1 else OTHER_NAMES}
    model = prompted(**(names | settings))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention_prompt_" in name or ".modules_to_save." in name:
                parameter.normal_().add_(0.5)
    if folder is not None:
        model.save_pretrained(folder)
    return model


def own(model) -> dict[str, torch.nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if "attention_prompt_" in n or ".modules_to_save." in n}


def frozen_copy(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def unchanged(model, before) -> bool:
    return all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


# ------------------------------------------------------------------------------------------------------- it is swapped


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_as_if_the_other_had_been_loaded(tmp_path, settings):
    adapter(2, tmp_path, **settings)
    # trainable as ours: where a bias of the scores needs a gradient, sdpa takes another kernel
    expected = PeftModel.from_pretrained(tiny_videomae(), tmp_path, is_trainable=True).eval()
    model = adapter(1, **settings)
    before, tensors = model(clips()).logits, own(model)
    places = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    base = {name: tensor for name, tensor in frozen_copy(model).items() if name not in tensors}

    assert hotswap_adapter(model, tmp_path, "default") is None
    logits = model(clips()).logits
    assert torch.equal(logits, expected(clips()).logits)
    assert not torch.equal(logits, before)
    after = own(model)
    assert all(after[name] is tensor for name, tensor in tensors.items())
    assert places == {name: tensor.data_ptr() for name, tensor in after.items()}
    assert unchanged(model, base | {name: tensor.detach() for name, tensor in own(expected).items()})
    assert model.config.id2label == expected.config.id2label
    assert model.config.label2id == expected.config.label2id
    assert model.peft_config["default"].id2label == expected.peft_config["default"].id2label


def test_what_is_saved_after_it_is_the_other_adapter(tmp_path):
    adapter(2, tmp_path / "other")
    model = adapter(1)
    hotswap_adapter(model, tmp_path / "other", "default")
    model.save_pretrained(tmp_path / "again")
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("other", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    configs = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("other", "again")]
    assert configs[0] == configs[1]


def test_only_the_named_adapter_and_its_labels_change(tmp_path):
    adapter(2, tmp_path)
    expected = PeftModel.from_pretrained(tiny_videomae(), tmp_path)(clips()).logits
    model = adapter(1)
    model.add_adapter("second", AttentionPromptConfig(num_prompt_tokens=5, id2label={0: "a", 1: "b", 2: "c"}))
    active = model(clips()).logits
    hotswap_adapter(model, str(tmp_path), "second")
    assert torch.equal(model(clips()).logits, active)
    assert model.config.id2label == NAMES
    model.set_adapter("second")
    assert torch.equal(model.eval()(clips()).logits, expected)
    assert model.config.id2label == OTHER_NAMES
    with model.disable_adapter():
        hotswap_adapter(model, str(tmp_path), "second")
        assert model.config.id2label == {index: f"LABEL_{index}" for index in range(3)}
    assert model.config.id2label == OTHER_NAMES


def test_layers_keep_their_own_prompts(tmp_path):
    """Swapped by name, not by order: a file whose tensors come in another order."""
    adapter(2, tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    model = adapter(1)
    hotswap_adapter_from_state_dict(model, dict(reversed(state.items())), "default", model.peft_config["default"])
    for index, layer in enumerate(prompt_layers(model)):
        key = state[f"base_model.model.{LAYER}.{index}.attention.attention.attention_prompt_key"]
        assert torch.equal(layer.attention_prompt_key["default"], key)


@pytest.mark.parametrize("named_as_in", ["the file", "the model", "get_peft_model_state_dict"])
def test_from_tensors_in_memory(tmp_path, named_as_in):
    other = adapter(2, tmp_path)
    state = {
        "the file": load_file(tmp_path / "adapter_model.safetensors"),
        "the model": own(other),
        "get_peft_model_state_dict": get_peft_model_state_dict(other),
    }[named_as_in]
    model = adapter(1)
    hotswap_adapter_from_state_dict(model, state, "default", other.peft_config["default"])
    assert torch.equal(model(clips()).logits, other(clips()).logits)
    assert model.config.id2label == OTHER_NAMES


def test_a_model_with_an_injected_adapter(tmp_path):
    other = adapter(2, tmp_path)
    model = inject_adapter_in_model(AttentionPromptConfig(num_prompt_tokens=5, prompt_dropout=0.0), tiny_videomae())
    hotswap_adapter(model.eval(), tmp_path, "default")
    assert torch.equal(model(clips()).logits, other(clips()).logits)
    assert model.config.id2label == OTHER_NAMES


@pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT for a second time")
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
def test_prompts_on_a_model_with_lora(tmp_path):
    def together(seed: int):
        torch.manual_seed(7)
        settings = LoraConfig(target_modules=["query", "value"], init_lora_weights=False)
        low_rank = get_peft_model(tiny_videomae(), settings, adapter_name="low_rank")
        return adapter(seed, model=low_rank.get_base_model())

    other, model = together(2), together(1)
    other.save_pretrained(tmp_path, selected_adapters=["default"])
    assert not torch.equal(model(clips()).logits, other(clips()).logits)
    hotswap_adapter(model, tmp_path, "default")
    assert torch.equal(model(clips()).logits, other(clips()).logits)


def test_there_and_back_again(tmp_path):
    model = adapter(1, tmp_path / "one")
    adapter(2, tmp_path / "two")
    logits = model(clips()).logits
    for _ in range(3):
        hotswap_adapter(model, tmp_path / "two", "default")
        assert not torch.equal(model(clips()).logits, logits)
        hotswap_adapter(model, tmp_path / "one", "default")
        assert torch.equal(model(clips()).logits, logits)


def test_training_goes_on_from_the_other(tmp_path):
    adapter(2, tmp_path)
    model = adapter(1)
    optimizer = torch.optim.SGD(own(model).values(), lr=0.5)
    for step in range(2):
        if step == 1:
            hotswap_adapter(model, tmp_path, "default")
            before = frozen_copy(model)
        optimizer.zero_grad()
        model(pixel_values=clips(), labels=torch.tensor([0, 2])).loss.backward()
        optimizer.step()
    assert {n for n, p in model.named_parameters() if not torch.equal(p, before[n])} == set(own(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_float32_file_in_a_half_precision_model(tmp_path, dtype):
    adapter(2, tmp_path)
    base = tiny_videomae().to(dtype)
    model = PeftModel.from_pretrained(
        copy.deepcopy(base), adapter_folder(tmp_path / "first"), autocast_adapter_dtype=False
    )
    hotswap_adapter(model, tmp_path, "default")
    expected = PeftModel.from_pretrained(base, tmp_path, autocast_adapter_dtype=False)
    assert {p.dtype for p in own(model).values()} == {dtype}
    assert torch.equal(model(clips().to(dtype)).logits, expected(clips().to(dtype)).logits)


def adapter_folder(folder):
    adapter(1, folder)
    return folder


def test_prompts_that_waited_for_data_need_none_any_more(tmp_path):
    adapter(2, tmp_path / "other")
    waiting = prompted(init_weights="data", id2label=NAMES)
    hotswap_adapter(waiting, tmp_path / "other", "default")
    logits = waiting(clips()).logits
    waiting.save_pretrained(tmp_path / "again")
    assert torch.equal(PeftModel.from_pretrained(tiny_videomae(), tmp_path / "again")(clips()).logits, logits)
    started = prompted(init_weights="data")
    initialize_prompts_from_data(started, [clips()])
    hotswap_adapter(started, tmp_path / "other", "default")
    assert torch.equal(started(clips()).logits, logits)


def test_labels_that_the_other_does_not_name(tmp_path):
    adapter(2, tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"id2label": None}))
    model = adapter(1)
    hotswap_adapter(model, tmp_path, "default")
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


# ------------------------------------------------------------------------------------------------------------ compiled


@pytest.mark.parametrize("inner", [False, True])
def test_a_compiled_model_is_not_compiled_again(tmp_path, inner):
    adapter(2, tmp_path / "two")
    adapter(3, tmp_path / "three")
    expected = {name: PeftModel.from_pretrained(tiny_videomae(), tmp_path / name) for name in ("two", "three")}
    model = adapter(1)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    if inner:
        model.base_model.model.compile(fullgraph=True, backend=counter)
        compiled = model
    else:
        compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch.no_grad():
        first = compiled(clips()).logits
        assert counter.frame_count == 1
        with torch.compiler.set_stance("fail_on_recompile"):
            for name in ("two", "three", "two"):
                hotswap_adapter(compiled, tmp_path / name, "default")
                logits = compiled(clips()).logits
                assert torch.allclose(logits, expected[name](clips()).logits, atol=1e-5)
                assert not torch.allclose(logits, first, atol=1e-2)
                assert compiled.config.id2label == OTHER_NAMES
            assert counter.frame_count == 1
            # what it saves: the same adapter under another name is other code
            model.load_adapter(tmp_path / "two", "second")
            model.set_adapter("second")
            with pytest.raises(RuntimeError, match="recompile"):
                compiled(clips())
    torch._dynamo.reset()


# ------------------------------------------------------------------------------------------------------------- refused


def refusal(what, problems: str) -> str:
    return (
        f"{what} must fit adapter 'default' of the model to take its place, but {problems}. The model is as it was. Load it "
        "under a name of its own: model.load_adapter(..., adapter_name=NAME)."
    )


MIDDLE = f"{LAYER}.1.attention.attention.attention_prompt"
FOLDED = f"{LAYER}.*.attention.attention.attention_prompt"
MISFITS = [
    (
        {"num_prompt_tokens": 4},
        f"{FOLDED}_key (3), {FOLDED}_value (3) are (4, 16), not (5, 16); {FOLDED}_scale (3) are (2, 4), not (2, 5)",
    ),
    ({"reparameterization": "softplus"}, "its reparameterization is 'softplus', not 'max'"),
    (
        {"reparameterization": "none"},
        f"its reparameterization is 'none', not 'max'; it lacks {FOLDED}_scale (3)",
    ),
    (
        {"share_prompts_across_heads": False},
        "its prompts are of each head, not shared by the heads (share_prompts_across_heads=False); "
        f"{FOLDED}_key (3), {FOLDED}_value (3) are (2, 5, 16), not (5, 16); {FOLDED}_scale (3) are (2, 2, 5), not (2, 5)",
    ),
    (
        {"layers_to_transform": [0, 2]},
        f"it lacks {MIDDLE}_key, {MIDDLE}_value, {MIDDLE}_scale",
    ),
    (
        {"modules_to_save": []},
        "it lacks fc_norm.weight, fc_norm.bias, classifier.weight, classifier.bias",
    ),
    (
        {"id2label": {index: f"class {index}" for index in range(4)}},
        "it has 4 labels, not 3; classifier.weight is (4, 32), not (3, 32); classifier.bias is (4,), not (3,)",
    ),
]


@pytest.mark.parametrize(("settings", "problems"), MISFITS, ids=lambda value: str(value)[:40])
def test_what_does_not_fit_is_named_and_nothing_has_changed(tmp_path, settings, problems):
    adapter(2, tmp_path, **settings)
    model = adapter(1)
    before = frozen_copy(model)
    with raises_exactly(CheckpointError, refusal(f"adapter ({tmp_path})", problems)):
        hotswap_adapter(model, tmp_path, "default")
    assert unchanged(model, before)
    assert model.config.id2label == NAMES
    assert model.peft_config["default"].id2label == NAMES


def test_layers_that_the_model_has_no_prompts_in(tmp_path):
    adapter(2, tmp_path)
    problems = f"it has {MIDDLE}_key, {MIDDLE}_scale, {MIDDLE}_value, for which the model has no place"
    with raises_exactly(CheckpointError, refusal(f"adapter ({tmp_path})", problems)):
        hotswap_adapter(adapter(1, layers_to_transform=[0, 2]), tmp_path, "default")


def test_all_problems_at_once():
    other, model = adapter(2, num_prompt_tokens=4, reparameterization="softplus"), adapter(1)
    state = get_peft_model_state_dict(other)
    prefix = f"base_model.model.{LAYER}.0.attention.attention.attention_prompt"
    del state[f"{prefix}_scale"]
    state["base_model.model.gate"] = torch.zeros(1)
    state["base_model.model.fc_norm.weight"][3] = float("nan")
    state["base_model.model.fc_norm.bias"] = torch.zeros(32, dtype=torch.int8)
    before = frozen_copy(model)
    with raises_exactly(
        CheckpointError,
        refusal(
            "state_dict",
            "its reparameterization is 'softplus', not 'max'; "
            f"it lacks {LAYER}.0.attention.attention.attention_prompt_scale; it has gate, for which the model has no place; "
            f"{FOLDED}_key (3), {FOLDED}_value (3) are (4, 16), not (5, 16); {FOLDED}_scale (2) are (2, 4), not (2, 5); "
            "fc_norm.weight is not finite in float32; fc_norm.bias is int8, not float32",
        ),
    ):
        hotswap_adapter_from_state_dict(model, state, "default", other.peft_config["default"])
    assert unchanged(model, before)


def test_values_too_large_for_the_model():
    other = adapter(2)
    model = prompted(model=tiny_videomae().half(), id2label=NAMES)
    state = get_peft_model_state_dict(other)
    state["base_model.model.classifier.bias"][0] = 1e6
    with raises_exactly(CheckpointError, refusal("state_dict", "classifier.bias is not finite in float16")):
        hotswap_adapter_from_state_dict(model, state, "default", other.peft_config["default"])


def test_folded_scales_and_learned_ones():
    other, model = adapter(2), adapter(1)
    other.fold_reparameterization()
    problems = f"its reparameterization is 'none', not 'max'; it lacks {FOLDED}_scale (3)"
    folded = get_peft_model_state_dict(other)
    with raises_exactly(CheckpointError, refusal("state_dict", problems)):
        hotswap_adapter_from_state_dict(model, folded, "default", other.peft_config["default"])
    model.fold_reparameterization()
    hotswap_adapter_from_state_dict(model, folded, "default", other.peft_config["default"])
    assert torch.equal(model(clips()).logits, other(clips()).logits)


def test_many_names_are_cut_short():
    other, model = adapter(2), adapter(1)
    state = get_peft_model_state_dict(other) | {f"gate_{letter}": torch.zeros(1) for letter in "abcdefghij"}
    shown = ", ".join(f"gate_{letter}" for letter in "abcdefgh")
    problem = f"it has {shown} and 2 more, for which the model has no place"
    with raises_exactly(CheckpointError, refusal("state_dict", problem)):
        hotswap_adapter_from_state_dict(model, state, "default", other.peft_config["default"])


def test_names_that_the_model_does_not_have(tmp_path):
    adapter(2, tmp_path)
    remedy = "Load one first, by PeftModel.from_pretrained or model.load_adapter."
    must = "must be an adapter of attention prompts, but"
    with raises_exactly(
        ConfigError,
        f"adapter_name ('walk') must be an adapter of attention prompts, but the model has ['default']. {remedy}",
    ):
        hotswap_adapter(adapter(1), tmp_path, "walk")
    with raises_exactly(ConfigError, f"adapter_name ('walk') {must} the model has none. {remedy}"):
        hotswap_adapter(tiny_videomae(), tmp_path, "walk")
    lora = get_peft_model(tiny_videomae(), LoraConfig(target_modules=["query"]))
    with raises_exactly(ConfigError, f"adapter_name ('default') {must} is one of LORA. {remedy}"):
        hotswap_adapter(lora, tmp_path, "default")


def of_lora(folder):
    get_peft_model(tiny_videomae(), LoraConfig(target_modules=["query"])).save_pretrained(folder)
    return f"adapter ({folder}) must be of type ATTENTION_PROMPT, but its adapter_config.json says 'LORA'."


def cut_off(folder):
    adapter(2, folder)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return (
        f"adapter ({folder}) must have its weights whole in adapter_model.safetensors, but its tensors have 2,692 bytes"
    )


def pickled(folder):
    adapter(2).save_pretrained(folder, safe_serialization=False)
    return f"adapter ({folder}) must have its weights in adapter_model.safetensors, but there is only adapter_model.bin"


@pytest.mark.parametrize("make", [of_lora, cut_off, pickled])
def test_files_are_checked_as_everywhere(tmp_path, make):
    """Whole messages are matched where the files are read: tests/hub, tests/unit/checkpoints."""
    message = make(tmp_path)
    model = adapter(1)
    before = frozen_copy(model)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        hotswap_adapter(model, tmp_path, "default")
    assert unchanged(model, before)


def test_an_adapter_that_is_not_there_yet(tmp_path):
    adapter(2, tmp_path)
    with torch.device("meta"):
        model = prompted(model=tiny_videomae())
    with raises_exactly(
        ConfigError,
        "adapter_name ('default') must have its tensors in memory, but 13 of 13 are on the meta device. Load the adapter "
        "first.",
    ):
        hotswap_adapter(model, tmp_path, "default")
