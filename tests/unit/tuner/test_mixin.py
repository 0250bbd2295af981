"""transformers' own adapter methods (`model.add_adapter`): prompts, head and labels as by get_peft_model."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from helpers import raises_exactly
from models import clips, prompted, tiny_videomae
from peft import AutoPeftModel, LoraConfig, PeftModel, get_peft_model
from peft.utils.other import ModulesToSaveWrapper
from transformers import AutoModelForVideoClassification

from apt_peft import AttentionPromptConfig, AutoPeftModelForVideoClassification, ConfigError, TargetError

BASE = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
FOUR = {0: "jump", 1: "sit", 2: "stand", 3: "wave"}
TWO = {0: "left", 1: "right"}

# transformers' mixin adds every adapter through a tuner of its own, of which PEFT warns
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")


def config(**settings) -> AttentionPromptConfig:
    return AttentionPromptConfig(**({"num_prompt_tokens": 5, "prompt_dropout": 0.0, "init_weights": False} | settings))


def train(model) -> None:
    """A few steps with what requires a gradient."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(pixel_values=clips(), labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()


def labels(model) -> dict[int, str]:
    assert model.config.num_labels == model.num_labels == len(model.config.id2label) == len(model.config.label2id)
    return model.config.id2label


def trained(model) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.fixture
def two():
    """A model with adapters of four and of two labels, and what it, and they, say of the same clips."""
    model = tiny_videomae()
    logits = {"base": model(clips()).logits}
    for name, names in (("four", FOUR), ("two", TWO)):
        torch.manual_seed(len(names))
        model.add_adapter(config(id2label=names), name)
        train(model)
        logits[name] = model(clips()).logits
    return model, {name: tensor.detach() for name, tensor in logits.items()}


def assert_in_use(model, logits, name: str, names: dict[int, str]) -> None:
    assert torch.equal(model(clips()).logits, logits[name])
    assert labels(model) == names


def test_the_same_as_get_peft_model():
    ours = tiny_videomae()
    torch.manual_seed(8)
    ours.add_adapter(config(id2label=FOUR), "new")
    base = tiny_videomae()
    torch.manual_seed(8)
    peft = get_peft_model(base, config(id2label=FOUR), adapter_name="new").eval()
    assert torch.equal(ours(clips()).logits, peft(clips()).logits)
    assert trained(ours) == [name.removeprefix("base_model.model.") for name in trained(peft)]
    for model in (ours, peft):
        train(model)
    assert torch.equal(ours(clips()).logits, peft(clips()).logits)
    mine, theirs = ours.get_adapter_state_dict("new"), peft.state_dict()
    assert len(mine) == 3 * 3 + 4
    for name, tensor in mine.items():
        where = f"{name}.new" if "attention_prompt" in name else name.replace(".", ".modules_to_save.new.", 1)
        assert torch.equal(tensor, theirs[f"base_model.model.{where}"])


def test_prompts_head_and_labels_follow_every_call(two):
    model, logits = two
    assert model.active_adapters() == ["two"]
    assert_in_use(model, logits, "two", TWO)
    model.set_adapter("four")
    assert_in_use(model, logits, "four", FOUR)
    wanted = trained(model)
    assert any("classifier.modules_to_save.four" in name for name in wanted)
    assert not any(".two" in name for name in wanted)
    model.disable_adapters()
    assert_in_use(model, logits, "base", BASE)
    assert trained(model) == []
    model.enable_adapters()
    assert_in_use(model, logits, "four", FOUR)
    assert trained(model) == wanted
    with pytest.warns(UserWarning, match="Setting active adapter to two"):
        model.delete_adapter("four")
    assert_in_use(model, logits, "two", TWO)
    model.delete_adapter("two")
    assert_in_use(model, logits, "base", BASE)
    model.add_adapter(config(id2label=FOUR), "four")
    assert labels(model) == FOUR
    assert model(clips()).logits.shape == (2, 4)


def test_an_inactive_adapter_is_deleted_without_a_trace(two):
    model, logits = two
    model.delete_adapter("four")
    assert_in_use(model, logits, "two", TWO)
    assert not any("four" in name for name in model.state_dict())


def test_an_adapter_without_a_head_uses_the_base_s(two):
    model, logits = two
    model.add_adapter(config(modules_to_save=[]), "prompts")
    assert model.active_adapters() == ["prompts"]
    assert labels(model) == BASE
    alone = prompted(modules_to_save=[])
    weights = {name: tensor for name, tensor in model.state_dict().items() if name.endswith(".prompts")}
    loaded = alone.load_state_dict(
        {f"base_model.model.{name.replace('.prompts', '.default')}": tensor for name, tensor in weights.items()},
        strict=False,
    )
    assert loaded.unexpected_keys == []
    assert torch.equal(model(clips()).logits, alone(clips()).logits)
    model.set_adapter(["four", "prompts"])  # both act, through the one head
    assert labels(model) == FOUR
    assert not torch.equal(model(clips()).logits, logits["four"])
    model.delete_adapter("two")  # with two adapters active, PEFT's own wrapper fails half-way
    assert labels(model) == FOUR
    model.set_adapter("four")
    assert_in_use(model, logits, "four", FOUR)


def test_two_heads_at_once_are_refused_and_nothing_changes(two):
    model, logits = two
    message = (
        "set_adapter (['four', 'two']) must name one adapter that brings a head, but each of these brings its own, and an "
        "input goes through one. Name one, or train the others with modules_to_save=[]."
    )
    with raises_exactly(ConfigError, message):
        model.set_adapter(["four", "two"])
    assert model.active_adapters() == ["two"]
    assert_in_use(model, logits, "two", TWO)

    peft = prompted()
    peft.add_adapter("second", config())
    own = peft(clips()).logits
    with raises_exactly(ConfigError, message.replace("'four', 'two'", "'default', 'second'")):
        peft.base_model.set_adapter(["default", "second"])
    assert peft.active_adapters == ["default"]
    assert torch.equal(peft(clips()).logits, own)


def test_lora_and_prompts_share_a_model():
    model = tiny_videomae()
    base = model(clips()).logits
    model.add_adapter(LoraConfig(target_modules=["query"], init_lora_weights=False), "lora")
    lora = model(clips()).logits
    model.add_adapter(config(id2label=FOUR), "prompts")
    prompts = model(clips()).logits
    logits = {"base": base, "lora": lora, "prompts": prompts}
    for name, names in [("lora", BASE), ("prompts", FOUR), ("lora", BASE)]:
        model.set_adapter(name)
        assert_in_use(model, logits, name, names)
    model.set_adapter(["lora", "prompts"])
    both = model(clips()).logits
    assert labels(model) == FOUR
    assert not torch.equal(both, prompts)
    model.disable_adapters()
    assert_in_use(model, logits, "base", BASE)
    model.enable_adapters()
    assert torch.equal(model(clips()).logits, both)

    # the same by hand: LoRA's product in the query, and the prompts of an adapter of their own
    alone = prompted(id2label=FOUR)
    weights = {name: tensor for name, tensor in model.state_dict().items() if "prompts" in name.split(".")}
    names = {name: name.replace(".base_layer.", ".").replace(".prompts", ".default") for name in weights}
    found = alone.load_state_dict({f"base_model.model.{names[name]}": weights[name] for name in weights}, strict=False)
    assert found.unexpected_keys == []
    layers = zip(model.videomae.encoder.layer, alone.get_base_model().videomae.encoder.layer, strict=True)
    for with_lora, plain in layers:
        query = with_lora.attention.attention.base_layer.query
        with torch.no_grad():
            plain.attention.attention.base_layer.query.weight += query.get_delta_weight("lora")
    torch.testing.assert_close(alone(clips()).logits, both)


@pytest.mark.parametrize("saved", [[], ["fc_norm"]], ids=["nothing saved", "fc_norm saved"])
def test_names_for_no_head_are_refused(saved):
    with raises_exactly(
        TargetError,
        f"id2label (4 names) must be of a head that is saved, but modules_to_save ({saved}) has none that gives labels. "
        "Leave out id2label for the base's own labels, or modules_to_save for the model's head.",
    ):
        tiny_videomae().add_adapter(config(id2label=FOUR, modules_to_save=saved))
    model = tiny_videomae()
    model.add_adapter(config(id2label=BASE, modules_to_save=saved))  # the base's own names say nothing new
    assert labels(model) == BASE


@pytest.fixture
def saved(two, tmp_path):
    """The two adapters and their base, saved by the mixin; the logits."""
    model, logits = two
    tiny_videomae().save_pretrained(tmp_path / "base")
    for name in ("four", "two"):
        model.set_adapter(name)
        model.peft_config[name].base_model_name_or_path = str(tmp_path / "base")
        model.save_pretrained(tmp_path / name)
    return tmp_path, logits


def test_saved_adapters_load_by_every_road(saved):
    folder, logits = saved
    model = AutoModelForVideoClassification.from_pretrained(folder / "base")
    model.load_adapter(folder / "four", "four")
    assert_in_use(model, logits, "four", FOUR)
    model.load_adapter(folder / "two", "two")  # becomes active, with its head
    assert_in_use(model, logits, "two", TWO)
    model.set_adapter("four")
    assert_in_use(model, logits, "four", FOUR)
    model.disable_adapters()
    assert_in_use(model, logits, "base", BASE)

    base = AutoModelForVideoClassification.from_pretrained(folder / "base")
    others = [
        AutoModelForVideoClassification.from_pretrained(folder / "four"),
        PeftModel.from_pretrained(base, folder / "four").eval(),
        AutoPeftModelForVideoClassification.from_pretrained(folder / "four").eval(),
        AutoPeftModel.from_pretrained(folder / "four").eval(),
    ]
    for other in others:
        assert torch.equal(other(clips()).logits, logits["four"])
        assert other.config.id2label == FOUR


def test_training_goes_on_after_loading(saved):
    folder, _ = saved
    model = AutoModelForVideoClassification.from_pretrained(folder / "base")
    model.load_adapter(folder / "four", "four", is_trainable=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model)
    moved = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved
    assert sorted(moved) == sorted(trained(model))


COPIERS = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("copier", COPIERS.values(), ids=COPIERS)
def test_a_copy_follows_its_own_calls(two, copier):
    model, logits = two
    other = copier(model)
    other.set_adapter("four")
    assert_in_use(other, logits, "four", FOUR)
    assert_in_use(model, logits, "two", TWO)
    other.disable_adapters()
    other.enable_adapters()
    assert_in_use(other, logits, "four", FOUR)
    model.disable_adapters()
    assert_in_use(model, logits, "base", BASE)
    assert_in_use(other, logits, "four", FOUR)


def test_a_compiled_model_follows(two):
    model, logits = two
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for name, names in [("two", TWO), ("four", FOUR)]:
        model.set_adapter(name)
        torch.testing.assert_close(compiled(clips()).logits, logits[name])
        assert labels(model) == names
    model.disable_adapters()
    torch.testing.assert_close(compiled(clips()).logits, logits["base"])
    model.enable_adapters()
    torch.testing.assert_close(compiled(clips()).logits, logits["four"])


def test_a_copied_part_stays_a_part(two):
    model, logits = two
    head = copy.deepcopy(model.classifier)
    head.set_adapter("four")
    assert head(torch.zeros(1, 32)).shape == (1, 4)
    assert_in_use(model, logits, "two", TWO)


def test_nothing_but_behaviour_is_added(two):
    """Neither a module nor a name in the state dict that PEFT's own wrapper would not have."""
    model, _ = two
    plain = tiny_videomae()
    for name in ("fc_norm", "classifier"):
        wrapper = ModulesToSaveWrapper(getattr(plain, name), "four")
        wrapper.update("two")
        setattr(plain, name, wrapper)
        found = getattr(model, name)
        assert isinstance(found, ModulesToSaveWrapper)
        assert [inner for inner, _ in found.named_modules()] == [inner for inner, _ in wrapper.named_modules()]
    names = [name.replace(".base_layer.", ".") for name in model.state_dict() if "attention_prompt" not in name]
    assert names == list(plain.state_dict())


def test_a_head_keeps_no_model_alive():
    model = tiny_videomae()
    model.add_adapter(config(id2label=FOUR), "four")
    head, gone = model.classifier, weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    head.enable_adapters(False)  # nobody is left to be told
    assert head(torch.zeros(1, 32)).shape == (1, 3)


def test_heads_alone_are_switched_deleted_and_unloaded():
    """A linear probe has no prompts: PEFT asks these alone which adapter is next."""
    model = get_peft_model(tiny_videomae(), config(target_modules=[], id2label=FOUR), adapter_name="four").eval()
    base = model.get_base_model()
    with model.disable_adapter():
        own = model(clips()).logits
        assert labels(base) == BASE
    logits = model(clips()).logits
    model.add_adapter("two", config(target_modules=[], id2label=TWO))
    model.add_adapter("again", config(target_modules=[], id2label=FOUR))
    assert labels(base) == FOUR
    model.delete_adapter("again")
    assert model.active_adapters == ["four"]
    assert torch.equal(model(clips()).logits, logits)
    assert labels(base) == FOUR
    model.delete_adapter("four")
    assert model.active_adapters == ["two"]
    assert labels(base) == TWO
    assert model(clips()).logits.shape == (2, 2)
    plain = model.unload()
    assert labels(plain) == BASE
    assert torch.equal(plain(clips()).logits, own)
