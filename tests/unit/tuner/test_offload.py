"""Accelerate's hooks, which keep weights on the CPU's memory or on a disk, around prompted attentions."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from architectures import ARCHITECTURES, AVAILABLE, build, output
from helpers import raises_exactly
from models import clips, prompt_layers, prompted, tiny_videomae
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification

from apt_peft import (
    AttentionPromptConfig,
    AutoPeftModelForVideoClassification,
    TargetError,
    hotswap_adapter,
    initialize_prompts_from_data,
)

# of transformers' from_pretrained; layer 0 and the norm stay, the rest is read from the disk in each forward
DEVICE_MAP = {
    "videomae.embeddings": "cpu",
    "videomae.encoder.layer.0": "cpu",
    "videomae.encoder.layer.1": "disk",
    "videomae.encoder.layer.2": "disk",
    "fc_norm": "cpu",
    "classifier": "disk",
}


SECOND = {"num_prompt_tokens": 7, "reparameterization": "none"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A saved base, adapters, and the logits that each gives."""
    folder = tmp_path_factory.mktemp("offload")
    tiny_videomae().save_pretrained(folder / "base")
    logits = {}
    for name, settings in (("first", {}), ("second", SECOND), ("third", {"reparameterization": "none"})):
        model = prompted(model=AutoModelForVideoClassification.from_pretrained(folder / "base"), **settings)
        with torch.no_grad():
            for head in (p for n, p in model.named_parameters() if ".modules_to_save." in n):
                head.add_(0.1)
        model.save_pretrained(folder / name)
        logits[name] = model(clips()).logits.detach()
    return folder, logits


def devices(model) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"base": set(), "prompts": set(), "head": set()}
    for name, parameter in model.named_parameters():
        kind = "prompts" if "attention_prompt_" in name else "head" if ".modules_to_save." in name else "base"
        found[kind].add(parameter.device.type)
    return found


def loaded(place, name="first", base=None, **options):
    return PeftModel.from_pretrained(tiny_videomae() if base is None else base, place[0] / name, **options)


def offload_to_cpu(model, folder):
    return cpu_offload(model, execution_device=torch.device("cpu"))


def offload_to_disk(model, folder):
    return disk_offload(model, folder, execution_device=torch.device("cpu"))


OFFLOADS = [offload_to_cpu, offload_to_disk]


def dispatched(place, folder):
    """The first adapter, everything of layers 1 and 2 and of the classifier on the disk, prompts and head included."""
    model = loaded(place)
    device_map = {f"base_model.model.{name}": device for name, device in DEVICE_MAP.items()}
    return dispatch_model(model, device_map, main_device="cpu", offload_dir=folder)


# ------------------------------------------------------------------------------------------ wrapped, then offloaded


@pytest.mark.parametrize("offload", OFFLOADS)
def test_a_prompted_model_is_offloaded(place, tmp_path, offload):
    model = offload(loaded(place), tmp_path)
    assert devices(model) == {"base": {"meta"}, "prompts": {"meta"}, "head": {"meta"}}
    for _ in range(2):
        assert torch.equal(model(clips()).logits, place[1]["first"])
    assert devices(model)["prompts"] == {"meta"}, "they are put away again"
    with model.disable_adapter():
        assert torch.equal(model(clips()).logits, tiny_videomae()(clips()).logits)
    assert torch.equal(copy.deepcopy(model)(clips()).logits, place[1]["first"])


def test_a_prompted_model_is_dispatched_to_cpu_and_disk(place, tmp_path):
    model = dispatched(place, tmp_path)
    assert {p.is_meta for n, p in model.named_parameters() if "layer.1." in n} == {True}
    assert {p.is_meta for n, p in model.named_parameters() if "layer.0." in n} == {False}
    assert (tmp_path / "index.json").is_file()
    assert torch.equal(model(clips()).logits, place[1]["first"])


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_further_adapter_for_an_offloaded_model(place, tmp_path, offload, low_cpu_mem_usage):
    model = offload(loaded(place), tmp_path)
    model.load_adapter(place[0] / "second", "second", low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(model(clips()).logits, place[1]["first"])
    model.set_adapter("second")
    assert torch.equal(model(clips()).logits, place[1]["second"])
    model.set_adapter("default")
    assert torch.equal(model(clips()).logits, place[1]["first"])
    model.delete_adapter("second")
    assert torch.equal(model(clips()).logits, place[1]["first"])


def test_unloading_an_offloaded_model_leaves_the_base_offloaded(place, tmp_path):
    base = offload_to_cpu(loaded(place), tmp_path).unload()
    assert not prompt_layers(base)
    assert torch.equal(base(clips()).logits, tiny_videomae()(clips()).logits)


def two_adapters(place):
    """The second without a head, so that both can act at once."""
    model = loaded(place)
    settings = {"num_prompt_tokens": 5, "prompt_dropout": 0.0, "init_weights": False, "modules_to_save": []}
    torch.manual_seed(3)
    model.add_adapter("second", AttentionPromptConfig(**settings))
    return model.eval()


def swap(model, place):
    model.fold_reparameterization("default")
    hotswap_adapter(model, place[0] / "third", "default")


CHANGES = {
    "a mixed batch": lambda model, place: None,
    "folded": lambda model, place: model.fold_reparameterization(),
    "combined": lambda model, place: model.add_weighted_adapter(
        ["default", "second"], [1.0, 2.0], "both", "cat", head_from="default"
    ),
    "started from data": lambda model, place: initialize_prompts_from_data(model, [clips()]),
    "swapped": swap,
}


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("change", CHANGES)
def test_what_reads_or_writes_prompts_finds_them(place, tmp_path, change, offload):
    """On the whole model offloaded as on one that is not."""
    logits = []
    for model in (two_adapters(place), offload(two_adapters(place), tmp_path)):
        CHANGES[change](model, place)
        if "both" in model.peft_config:
            model.set_adapter("both")
        with torch.no_grad():
            names = ["default", "second"] if change == "a mixed batch" else None
            logits.append(model(clips(), adapter_names=names).logits)
    assert torch.equal(*logits)
    assert torch.equal(logits[1], place[1]["first"]) == (change == "folded")


@pytest.mark.parametrize("offload", OFFLOADS)
def test_a_start_from_data_on_an_offloaded_base(tmp_path, offload):
    settings = {"num_prompt_tokens": 5, "prompt_dropout": 0.0, "init_weights": "data"}
    logits = []
    for base in (tiny_videomae(), offload(tiny_videomae(), tmp_path)):
        model = get_peft_model(base, AttentionPromptConfig(**settings)).eval()
        initialize_prompts_from_data(model, [clips()])
        logits.append(model(clips()).logits)
    assert torch.equal(*logits)


# ------------------------------------------------------------------------------------------ offloaded, then wrapped


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_an_adapter_is_loaded_onto_an_offloaded_base(place, tmp_path, offload, low_cpu_mem_usage):
    model = loaded(place, base=offload(tiny_videomae(), tmp_path), low_cpu_mem_usage=low_cpu_mem_usage)
    assert devices(model) == {"base": {"meta"}, "prompts": {"cpu"}, "head": {"cpu"}}
    assert torch.equal(model(clips()).logits, place[1]["first"])
    base = model.unload()
    assert torch.equal(base(clips()).logits, tiny_videomae()(clips()).logits)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_training_on_an_offloaded_base(place, tmp_path, offload):
    """Prompts and head are trained as on a base that is not offloaded, and saved."""
    after = []
    for base in (tiny_videomae(), offload(tiny_videomae(), tmp_path / "weights")):
        model = loaded(place, base=base, is_trainable=True)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
        for _ in range(2):
            optimizer.zero_grad()
            model(pixel_values=clips(), labels=torch.tensor([0, 2])).loss.backward()
            optimizer.step()
        model.save_pretrained(tmp_path / "adapter")
        after.append(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    before = load_file(place[0] / "first" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, after[1][name]) for name, tensor in after[0].items())
    assert not any(torch.equal(tensor, before[name]) for name, tensor in after[0].items())


# --------------------------------------------------------------------------------- transformers' and PEFT's device maps


def test_a_device_map_without_a_disk(place):
    for device_map in ("auto", {"": "cpu"}):
        base = AutoModelForVideoClassification.from_pretrained(place[0] / "base", device_map=device_map)
        assert torch.equal(loaded(place, base=base)(clips()).logits, place[1]["first"])


def on_disk(place, folder):
    return AutoModelForVideoClassification.from_pretrained(
        place[0] / "base", device_map=DEVICE_MAP, offload_folder=folder
    )


def test_the_auto_class_takes_a_device_map(place, tmp_path):
    model = AutoPeftModelForVideoClassification.from_pretrained(
        place[0] / "first", device_map=DEVICE_MAP, offload_folder=tmp_path
    )
    assert devices(model) == {"base": {"cpu", "meta"}, "prompts": {"cpu"}, "head": {"cpu"}}
    assert model.hf_device_map == DEVICE_MAP
    assert torch.equal(model(clips()).logits, place[1]["first"])
    model.load_adapter(place[0] / "second", "second")
    model.set_adapter("second")
    assert torch.equal(model(clips()).logits, place[1]["second"])


def test_new_prompts_for_a_base_on_the_disk(place, tmp_path):
    settings = {"num_prompt_tokens": 5, "prompt_dropout": 0.0}
    model = get_peft_model(on_disk(place, tmp_path), AttentionPromptConfig(**settings)).eval()
    state = load_file(place[0] / "first" / "adapter_model.safetensors")
    assert set_peft_model_state_dict(model, state).unexpected_keys == []
    assert torch.equal(model(clips()).logits, place[1]["first"])


def test_what_peft_cannot_dispatch_again_is_refused_with_the_way_that_works(place, tmp_path):
    with raises_exactly(
        TargetError,
        "hf_device_map of the model must not name the disk here, but PEFT has taken off the hooks that read its weights "
        "from there, and cannot put them back around an attention. Load the model again, and use "
        "AutoPeftModelForVideoClassification, or `del model.hf_device_map` before PeftModel.from_pretrained.",
    ):
        loaded(place, base=on_disk(place, tmp_path), offload_folder=tmp_path)
    base = on_disk(place, tmp_path)
    del base.hf_device_map
    assert torch.equal(loaded(place, base=base)(clips()).logits, place[1]["first"])


# ------------------------------------------------------------------------------------------------ other architectures

# Without prompts, too: their pooler, or their embeddings, use weights of a module whose forward they do not call
NOT_OFFLOADED = {"siglip", "siglip2", "siglip2_vision_model"}


@torch.no_grad()
def logits_of(model, name: str) -> torch.Tensor:
    return output(model, ARCHITECTURES[name].inputs())


@pytest.mark.parametrize("name", AVAILABLE)
def test_every_architecture_is_swapped_and_offloaded(tmp_path, name):
    def adapter(seed: int):
        settings = {"num_prompt_tokens": 3, "prompt_dropout": 0.0, "init_weights": False}
        base = build(name)
        torch.manual_seed(seed)
        return get_peft_model(base, AttentionPromptConfig(**settings)).eval()

    first, second = adapter(1), adapter(2)
    first.save_pretrained(tmp_path)
    expected = logits_of(first, name)
    assert not torch.allclose(logits_of(second, name), expected, atol=1e-4)
    hotswap_adapter(second, tmp_path, "default")
    assert torch.equal(logits_of(second, name), expected)
    if name in NOT_OFFLOADED:
        with pytest.raises(RuntimeError, match="meta"):
            logits_of(offload_to_cpu(build(name), tmp_path), name)
        return
    assert torch.equal(logits_of(offload_to_cpu(second, tmp_path), name), expected)
    base = offload_to_cpu(build(name), tmp_path)
    assert torch.equal(logits_of(PeftModel.from_pretrained(base, tmp_path), name), expected)
