"""Loading knows the head: an adapter's labels win over the base's, by every way of loading."""

import json

import pytest
import torch
from models import clips, prompt_layers, prompted, tiny_videomae, videomae_config
from peft import AutoPeftModel, PeftModel
from transformers import AutoModelForVideoClassification, VideoMAEModel

from apt_peft import AttentionPromptConfig, AutoPeftModelForVideoClassification

NAMES = {0: "jump", 1: "sit", 2: "stand", 3: "turn", 4: "walk", 5: "wave"}


@pytest.fixture
def saved(tmp_path):
    """A bare backbone whose own config says two labels, and an adapter for six trained on it."""
    torch.manual_seed(0)
    VideoMAEModel(videomae_config(num_labels=2)).save_pretrained(tmp_path / "base")
    model = AutoModelForVideoClassification.from_pretrained(
        tmp_path / "base", num_labels=6, id2label=NAMES, label2id={v: k for k, v in NAMES.items()}
    )
    model = prompted(model=model)
    logits = model(clips()).logits
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path, logits.detach()


def check(model, logits):
    assert model.config.num_labels == 6
    assert model.config.id2label == NAMES
    assert model.config.label2id == {name: index for index, name in NAMES.items()}
    model.eval()
    assert torch.equal(model(clips()).logits, logits)
    loss = model(pixel_values=clips(), labels=torch.tensor([5, 0])).loss
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(logits, torch.tensor([5, 0])))


def test_the_config_file_names_the_labels(saved):
    config = json.loads((saved[0] / "adapter" / "adapter_config.json").read_text())
    assert config["id2label"] == {str(k): v for k, v in NAMES.items()}
    assert config["modules_to_save"] == ["fc_norm", "classifier"]


def test_peft_model_from_pretrained(saved):
    folder, logits = saved
    base = AutoModelForVideoClassification.from_pretrained(folder / "base")
    own = base(clips()).logits
    assert own.shape == (2, 2)
    model = PeftModel.from_pretrained(base, folder / "adapter")
    check(model, logits)
    with model.disable_adapter():
        assert torch.equal(model(clips()).logits, own)
        assert model.config.num_labels == 2
    check(model, logits)
    plain = model.unload()
    assert plain.config.num_labels == 2
    assert torch.equal(plain(clips()).logits, own)


@pytest.mark.parametrize("auto", [AutoPeftModelForVideoClassification, AutoPeftModel], ids=lambda auto: auto.__name__)
def test_auto_classes_of_peft(saved, auto):
    check(auto.from_pretrained(str(saved[0] / "adapter")), saved[1])


def test_auto_class_of_transformers(saved):
    check(AutoModelForVideoClassification.from_pretrained(saved[0] / "adapter"), saved[1])


def test_further_training_of_a_loaded_adapter(saved):
    base = AutoModelForVideoClassification.from_pretrained(saved[0] / "base")
    model = PeftModel.from_pretrained(base, saved[0] / "adapter", is_trainable=True)
    head = model.base_model.model.classifier.modules_to_save["default"]
    assert head.weight.shape == (6, 32)
    assert head.weight.requires_grad


def test_labels_follow_the_active_adapter(saved):
    folder, logits = saved
    model = PeftModel.from_pretrained(
        AutoModelForVideoClassification.from_pretrained(folder / "base"), folder / "adapter"
    )
    model.add_adapter("three", AttentionPromptConfig(num_prompt_tokens=2, id2label={0: "a", 1: "b", 2: "c"}))
    check(model, logits)
    model.set_adapter("three")
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model(clips()).logits.shape == (2, 3)
    model.set_adapter("default")
    check(model, logits)
    with pytest.warns(UserWarning, match="Setting active adapter to three"):
        model.delete_adapter("default")
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_same_count_other_names(tmp_path):
    model = prompted(model=tiny_videomae(num_labels=2), id2label={0: "left", 1: "right"})
    assert model.config.id2label == {0: "left", 1: "right"}
    assert model.unload().config.id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_get_peft_model_never_touches_the_head():
    base = tiny_videomae()
    weight = base.classifier.weight.detach().clone()
    model = prompted(model=base)
    assert torch.equal(model.base_model.model.classifier.modules_to_save["default"].weight, weight)


@pytest.mark.parametrize(
    "auto",
    [AutoModelForVideoClassification, AutoPeftModelForVideoClassification, AutoPeftModel],
    ids=lambda auto: auto.__name__,
)
def test_a_base_that_pools_one_token_is_told_to_pool_the_mean(auto, tmp_path):
    tiny_videomae(use_mean_pooling=False).save_pretrained(tmp_path / "base")
    base = AutoModelForVideoClassification.from_pretrained(tmp_path / "base", use_mean_pooling=True)
    model = prompted(model=base)
    model.save_pretrained(tmp_path / "adapter")
    loaded = auto.from_pretrained(str(tmp_path / "adapter"), use_mean_pooling=True).eval()
    assert torch.equal(loaded(clips()).logits, model(clips()).logits)


@pytest.mark.filterwarnings("ignore:Adapter default was active which is now deleted")
@pytest.mark.parametrize("others", [{"b": [0], "c": [1]}, {"b": [1], "c": [1]}, {"b": [1, 2]}, {"h": None}], ids=str)
def test_after_a_deletion_all_layers_and_heads_use_one_adapter(others):
    model = prompted(layers_to_transform=[0, 1])
    for name, layers in others.items():
        targets = {"layers_to_transform": layers} if layers else {"target_modules": []}
        names = {0: f"{name}0", 1: f"{name}1"}
        model.add_adapter(
            name, AttentionPromptConfig(num_prompt_tokens=2, init_weights=False, id2label=names, **targets)
        )
    model.eval().delete_adapter("default")
    first = next(iter(others))
    assert model.active_adapters == [first]
    assert model.active_adapter == first
    assert all(layer.active_adapters == [first] for layer in prompt_layers(model))
    assert model.config.id2label == {0: f"{first}0", 1: f"{first}1"}
    after = model(clips()).logits
    model.set_adapter(first)
    assert torch.equal(model(clips()).logits, after)
