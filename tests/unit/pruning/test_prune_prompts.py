"""Prompts taken out of an adapter, against the same taken out of its file by hand."""

import copy
import pickle

import pytest
import torch
from helpers import raises_exactly
from models import clips, prompt_layers, prompted, tiny_videomae
from peft import PeftModel
from safetensors.torch import load_file
from written_out import SavedPrompts, write_out

from apt_peft import AttentionPromptConfig, ConfigError
from apt_peft.pruning import choose_prompts, only_prompts, prompt_scores, prune_prompts

NAMES = [f"videomae.encoder.layer.{index}.attention.attention" for index in range(3)]
KEPT = dict(zip(NAMES, ([0, 3], [1, 2], [2, 4]), strict=True))
UNEVEN = dict(zip(NAMES, ([4], [0, 1, 3], [0, 1, 2, 3, 4]), strict=True))
WITHOUT_A_LAYER = dict(zip(NAMES, ([1, 3], [], [2]), strict=True))
SETTINGS = {
    "max": {},
    "softplus": {"reparameterization": "softplus", "share_prompts_across_heads": False},
    "bias and gate": {"reparameterization": "none", "score_bias": True, "key_gate": 3},
    "pattern": {"num_prompt_tokens_pattern": {r"layer\.1\.attention\.attention": 7}},
}


def with_biases(model):
    with torch.no_grad():
        for layer in prompt_layers(model):
            for bias in layer.attention_prompt_bias.values():
                bias.normal_()
    return model


def removed_by_hand(folder, kept):
    """Logits in plain operations with the prompts of a file, of which only some are taken."""
    saved = SavedPrompts(folder)
    prompts = {}
    for key, (keys, values, *bias) in saved.prompts().items():
        if kept[key]:
            index = torch.tensor(sorted(kept[key]))
            prompts[key] = (keys[..., index, :], values[..., index, :], *(part[index] for part in bias))
    base = tiny_videomae(id2label={0: "a", 1: "b", 2: "c"})
    head = PeftModel.from_pretrained(base, folder).unload()  # the head stayed the base's
    with torch.no_grad():
        return write_out(head, prompts, saved.gates())(clips()).logits


@pytest.mark.parametrize("kept", [KEPT, UNEVEN, WITHOUT_A_LAYER], ids=["even", "uneven", "layer"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_pruned_is_removed_by_hand(settings, kept, tmp_path):
    if "key_gate" in settings and [] in kept.values():
        kept = kept | {NAMES[1]: [0]}
    if settings.get("reparameterization") == "softplus":
        settings = settings | {"reparameterization": "max"}  # what SavedPrompts knows
    model = with_biases(prompted(**settings))
    model.save_pretrained(tmp_path / "before")
    prune_prompts(model, kept)
    with torch.no_grad():
        got = model(clips()).logits
    torch.testing.assert_close(got, removed_by_hand(tmp_path / "before", kept), rtol=1e-5, atol=1e-5)

    model.save_pretrained(tmp_path / "after")
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("before", "after"))
    for key, tensor in after.items():
        module, _, kind = key.removeprefix("base_model.model.").rpartition(".attention_prompt_")
        if kind in ("key", "value"):
            assert torch.equal(tensor, before[key][..., kept[module], :])
        elif kind in ("scale", "bias"):
            assert torch.equal(tensor, before[key][..., kept[module]])
        else:
            assert torch.equal(tensor, before[key])
    loaded = PeftModel.from_pretrained(tiny_videomae(), tmp_path / "after").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(clips()).logits, got, rtol=1e-5, atol=1e-6)  # sdpa has two kernels
    config = loaded.peft_config["default"]
    layers = loaded.base_model.prompt_layers()
    assert {key: layer.num_prompt_tokens("default") for key, layer in layers.items()} == {
        key: len(indices) for key, indices in kept.items() if indices
    }
    additions = config.num_prompt_tokens_pattern or config.score_bias
    assert config.format_version == (3 if config.key_gate else 2 if additions else 1)


@pytest.mark.parametrize("kind", ["max", "softplus"])
def test_folding_before_and_after_is_the_same(kind):
    one, other = prompted(reparameterization=kind), prompted(reparameterization=kind)
    one.fold_reparameterization()
    prune_prompts(one, UNEVEN)
    prune_prompts(other, UNEVEN)
    with torch.no_grad():
        torch.testing.assert_close(one(clips()).logits, other(clips()).logits, rtol=1e-5, atol=1e-6)
        other.fold_reparameterization()
        assert torch.equal(one(clips()).logits, other(clips()).logits)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_all_kept_is_the_same_adapter(settings, tmp_path):
    model = with_biases(prompted(**settings))
    config = copy.deepcopy(model.peft_config["default"].to_dict())
    with torch.no_grad():
        before = model(clips()).logits
        kept = choose_prompts(prompt_scores(model, [clips()]), 1.0)
        with only_prompts(model, kept):
            assert torch.equal(model(clips()).logits, before)
        prune_prompts(model, kept)
        assert torch.equal(model(clips()).logits, before)
    now = model.peft_config["default"].to_dict()
    if not settings.get("num_prompt_tokens_pattern"):
        assert now == config
    assert now["num_prompt_tokens"] == 5


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_as_if_pruned_is_pruned(implementation):
    model = with_biases(prompted(model=tiny_videomae(attn_implementation=implementation), score_bias=True))
    with torch.no_grad():
        with only_prompts(model, WITHOUT_A_LAYER):
            want = model(clips()).logits
        prune_prompts(model, WITHOUT_A_LAYER)
        torch.testing.assert_close(model(clips()).logits, want, rtol=1e-5, atol=1e-6)


def test_one_of_several_adapters():
    model = prompted(modules_to_save=[])
    model.add_adapter("b", AttentionPromptConfig(num_prompt_tokens=4, init_weights=False, modules_to_save=[]))
    model.set_adapter("b")
    model.eval()
    with torch.no_grad():
        of_b = model(clips()).logits
        model.set_adapter("default")
        prune_prompts(model, WITHOUT_A_LAYER)
        pruned = model(clips()).logits
        model.set_adapter("b")
        assert torch.equal(model(clips()).logits, of_b)
        both = model(clips(), adapter_names=["default", "b"]).logits
    torch.testing.assert_close(both[0], pruned[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(both[1], of_b[1], rtol=1e-5, atol=1e-6)
    assert [model.peft_config[name].num_prompt_tokens for name in ("default", "b")] == [2, 4]
    model.delete_adapter("default")
    with torch.no_grad():
        torch.testing.assert_close(model(clips()).logits, of_b)


def test_a_pruned_adapter_trains_on_and_can_be_copied():
    model = prompted(prompt_dropout=0.3).train()
    model(pixel_values=clips(), labels=torch.tensor([0, 2])).loss.backward()
    prune_prompts(model, WITHOUT_A_LAYER)
    model(pixel_values=clips(), labels=torch.tensor([0, 2])).loss.backward()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert moved == trained
    assert sum("attention_prompt_" in name for name in trained) == 3 * 2
    other = pickle.loads(pickle.dumps(copy.deepcopy(model))).eval()
    with torch.no_grad():
        assert torch.equal(other(clips()).logits, model.eval()(clips()).logits)


def test_half_precision():
    model = prompted().to(torch.bfloat16)
    prune_prompts(model, KEPT)
    assert prompt_layers(model)[0].attention_prompt_key["default"].dtype == torch.bfloat16
    with torch.no_grad():
        assert model(clips().to(torch.bfloat16)).logits.isfinite().all()


def test_pruning_twice():
    model = prompted()
    prune_prompts(model, UNEVEN)
    counts = {key: layer.num_prompt_tokens("default") for key, layer in model.base_model.prompt_layers().items()}
    assert list(counts.values()) == [1, 3, 5]
    prune_prompts(model, {key: [0] for key in counts})
    config = model.peft_config["default"]
    assert (config.num_prompt_tokens, config.num_prompt_tokens_pattern, config.format_version) == (1, {}, 1)


def test_what_cannot_be_pruned():
    model = prompted(key_gate=2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    first = NAMES[0]
    with raises_exactly(
        ConfigError,
        f"kept must name each layer of adapter 'default' and no other, but {NAMES[1]} is in one of them alone.",
    ):
        prune_prompts(model, {first: [0]})
    with raises_exactly(
        ConfigError,
        f"kept[{first!r}] must be indices from 0 to 4, each once, but it is [0, 5]. kept[{NAMES[1]!r}] must be indices from 0 "
        f"to 4, each once, but it is [1, 1]. kept[{NAMES[2]!r}] must keep a prompt, for the layer's key_gate has a place "
        "beside prompts alone.",
    ):
        prune_prompts(model, {first: [0, 5], NAMES[1]: [1, 1], NAMES[2]: []})
    with raises_exactly(
        ConfigError,
        "kept must keep a prompt in one layer at least. For the head alone, train with target_modules=[].",
    ):
        prune_prompts(prompted(), {key: [] for key in NAMES})
    model.add_adapter("b", AttentionPromptConfig(num_prompt_tokens=2, modules_to_save=[]))
    with raises_exactly(
        ConfigError,
        "adapter_name ('b') must be the only active adapter for pruning, but the active ones are ['default']. "
        "Call model.set_adapter('b').",
    ):
        prune_prompts(model, KEPT, adapter_name="b")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


def test_prompts_that_are_spread_over_processes():
    model = prompted()
    prompt_layers(model)[1].attention_prompt_key["default"].full_tensor = None  # by which FSDP2's tensors are known
    with raises_exactly(
        ConfigError,
        "model must hold the prompts of adapter 'default' whole, but they are sharded over processes. Prune it before "
        "fully_shard, or from its folder: apt-peft prune.",
    ):
        prune_prompts(model, KEPT)
