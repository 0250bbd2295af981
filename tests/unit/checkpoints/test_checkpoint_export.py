"""An adapter and its base back to one file of the reference's format."""

import json

import pytest
import torch
from checkpoint_files import APT, GOLDEN, PRETRAIN, expected, golden
from helpers import raises_exactly
from models import clips, prompted, tiny_videomae
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForVideoClassification, VivitConfig, VivitForVideoClassification

from apt_peft import AttentionPromptConfig, CheckpointError, TargetError
from apt_peft.checkpoints import CheckpointOptions, convert_adapter, convert_checkpoint, load_checkpoint


def export(model, tmp_path, **changes):
    """Save a tiny prompted model as a user would, change its config, and export it with its base."""
    adapter, base = tmp_path / "adapter", tmp_path / "base"
    model.save_pretrained(adapter, save_embedding_layers=False)
    if changes:
        config = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps(config | changes))
    if not base.exists():
        tiny_videomae().save_pretrained(base)
    return convert_adapter(adapter, tmp_path / "out.pth", base=base)


def same_logits(model, file, **options):
    """The file gives what the model gives, once both have the same eps; the file's format implies 1e-6."""
    got, pixel_values = load_checkpoint(file, options=CheckpointOptions(**options)), clips()
    for name, module in got.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5 if "fc_norm" in name else 1e-12
    with torch.no_grad():
        difference = got(pixel_values=pixel_values).logits - model(pixel_values=pixel_values).logits
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("name", APT)
def test_round_trip_gives_the_same_file(name, tmp_path):
    convert_checkpoint(GOLDEN / f"{name}.pth", tmp_path / "out")
    report = convert_adapter(tmp_path / "out" / "adapter", tmp_path / "back.pth")
    back, original = torch.load(tmp_path / "back.pth", weights_only=True), golden(name)
    assert back["model"].keys() == original["model"].keys()
    assert all(torch.equal(back["model"][key], tensor) for key, tensor in original["model"].items())
    told = vars(original["args"])
    assert {key: back["args"][key] for key in told if key != "model"} == {k: v for k, v in told.items() if k != "model"}
    assert len(report.tensors) == len(original["model"])
    again = load_checkpoint(tmp_path / "back.pth")
    for module in again.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    want = expected(name)
    with torch.no_grad():
        logits = again.double()(pixel_values=want["pixel_values"].double()).logits
    assert (logits - want["logits"]).abs().max() < 2e-7


def test_labels_make_the_round_trip(tmp_path):
    labels = ["wave", "nod", "jump", "sit", "run", "turn", "bow"]
    convert_checkpoint(GOLDEN / "apt_all_layers.pth", tmp_path / "out", options=CheckpointOptions(labels=labels))
    convert_adapter(tmp_path / "out" / "adapter", tmp_path / "back.pth")
    assert load_checkpoint(tmp_path / "back.pth").config.id2label == dict(enumerate(labels))


def test_trained_adapter_keeps_its_logits(tmp_path):
    model = prompted(layers_to_transform=[1, 2])
    report = export(model, tmp_path)
    same_logits(model, tmp_path / "out.pth")
    assert report.written == (
        (str(tmp_path / "out.pth"), "one file of the reference's format: backbone, prompts and head"),
    )
    assert report.notes == (
        "the base was used with a LayerNorm eps of 1e-12, the reference has 1e-06: expect small differences.",
    )


def test_softplus_is_folded_into_the_prompts(tmp_path):
    model = prompted(reparameterization="softplus")
    report = export(model, tmp_path)
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert "prompt_scale" not in content["model"]
    assert content["args"]["prompt_reparam"] is False
    same_logits(model, tmp_path / "out.pth")
    assert report.notes[0] == (
        "the softplus factor was multiplied into the prompts, which stand there without reparameterization."
    )


def test_linear_probe_is_a_file_without_prompts(tmp_path):
    model = prompted(target_modules=[])
    with torch.no_grad():
        model.get_base_model().classifier.modules_to_save["default"].weight.add_(1.0)
    export(model, tmp_path)
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert content["args"]["transfer_type"] == "linear"
    assert not [key for key in content["model"] if key.startswith("prompt_")]
    same_logits(model, tmp_path / "out.pth", num_attention_heads=2)


def test_head_of_another_size_than_the_base_says(tmp_path):
    model = prompted(model=tiny_videomae(num_labels=5))
    export(model, tmp_path)  # on a base of 3 labels
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert content["model"]["head.weight"].shape == (5, 32)
    assert content["args"]["nb_classes"] == 5
    same_logits(model, tmp_path / "out.pth")


def test_published_model_gets_its_name(tmp_path):
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 1, "intermediate_size": 8}
    tiny_videomae(**sizes).save_pretrained(tmp_path / "base")
    export(prompted(model=tiny_videomae(**sizes)), tmp_path)
    assert torch.load(tmp_path / "out.pth", weights_only=True)["args"]["model"] == "vit_small_patch8_16"


def test_head_may_come_from_the_base(tmp_path):
    model = prompted(modules_to_save=[])
    export(model, tmp_path)
    same_logits(model, tmp_path / "out.pth")


def test_norms_of_the_backbone_trained_with_the_prompts(tmp_path):
    config = AttentionPromptConfig(num_prompt_tokens=2, modules_to_save=["fc_norm", "classifier", "layernorm_before"])
    model = get_peft_model(tiny_videomae(num_hidden_layers=1), config)
    tiny_videomae(num_hidden_layers=1).save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        wrapper = model.get_base_model().videomae.encoder.layer[0].layernorm_before
        wrapper.modules_to_save["default"].weight.fill_(3.0)
    export(model, tmp_path)
    assert (torch.load(tmp_path / "out.pth", weights_only=True)["model"]["blocks.0.norm1.weight"] == 3).all()


def test_pretraining_base_serves_an_adapter(tmp_path):
    convert_checkpoint(GOLDEN / "videomae_pretrain.pth", tmp_path / "out", options=CheckpointOptions(**PRETRAIN))
    base = AutoModelForVideoClassification.from_pretrained(tmp_path / "out" / "base", num_labels=3)
    get_peft_model(base, AttentionPromptConfig(num_prompt_tokens=2)).save_pretrained(tmp_path / "adapter")
    convert_adapter(tmp_path / "adapter", tmp_path / "back.pth")
    content = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    want = golden("videomae_pretrain")["model"]["encoder.blocks.0.attn.qkv.weight"]
    assert torch.equal(content["blocks.0.attn.qkv.weight"], want)
    assert not [key for key in content if key.startswith("decoder")]


# ------------------------------------------------------------------------------------------------------------ errors


def refused(adapter, problem):
    return raises_exactly(
        CheckpointError, f"adapter ({adapter}) must be one that the reference's format can hold, but {problem}."
    )


def test_error_prompts_of_each_head(tmp_path):
    with refused(tmp_path / "adapter", "its heads have prompts of their own (share_prompts_across_heads=False)"):
        export(prompted(share_prompts_across_heads=False), tmp_path)
    assert not (tmp_path / "out.pth").exists()


def test_error_layers_with_gaps(tmp_path):
    with refused(tmp_path / "adapter", "its prompts stand in layers [0, 2], which are no unbroken range"):
        export(prompted(layers_to_transform=[0, 2]), tmp_path)


def test_error_prompts_that_differ_by_layer(tmp_path):
    with refused(tmp_path / "adapter", "its layers have different numbers of prompts ([2, 5])"):
        export(prompted(num_prompt_tokens_pattern={r"layer\.0\.attention\.attention": 2}), tmp_path)


def test_one_number_of_prompts_given_by_a_pattern(tmp_path):
    export(prompted(num_prompt_tokens_pattern={"attention": 2}), tmp_path)
    assert torch.load(tmp_path / "out.pth", weights_only=True)["args"]["prompt_num_tokens"] == 2


def test_error_bias_on_scores(tmp_path):
    with refused(tmp_path / "adapter", "its prompts have a bias on their scores (score_bias=True)"):
        export(prompted(score_bias=True), tmp_path)


def test_error_gate_on_keys(tmp_path):
    with refused(tmp_path / "adapter", "its prompts come with a gate on the keys (key_gate)"):
        export(prompted(key_gate=2), tmp_path)


def test_error_trained_norms(tmp_path):
    with refused(tmp_path / "adapter", "norms of the backbone were trained with them (train_norms=True)"):
        export(prompted(train_norms=True), tmp_path)


def test_error_head_nowhere(tmp_path):
    tiny_videomae().videomae.save_pretrained(tmp_path / "base")
    missing = "classifier.bias, classifier.weight, fc_norm.bias, fc_norm.weight"
    with refused(tmp_path / "adapter", f"neither it nor its base holds {missing}"):
        export(prompted(modules_to_save=[]), tmp_path)


def test_error_no_adapter(tmp_path):
    with raises_exactly(
        CheckpointError,
        f"adapter ({tmp_path}) must be a folder or a name on the Hub with an adapter_config.json, but it has none. Give the "
        "folder that training or a conversion wrote.",
    ):
        convert_adapter(tmp_path, tmp_path / "out.pth")


@pytest.mark.parametrize(("content", "found"), [(None, "LORA"), ("[]", "None")])
def test_error_adapter_of_another_method(content, found, tmp_path):
    get_peft_model(tiny_videomae(), LoraConfig(target_modules=["query"])).save_pretrained(tmp_path)
    if content is not None:
        (tmp_path / "adapter_config.json").write_text(content)
    with raises_exactly(
        CheckpointError,
        f"adapter ({tmp_path}) must be of type ATTENTION_PROMPT, but its adapter_config.json says {found!r}. Load adapters "
        "of other methods with PEFT itself.",
    ):
        convert_adapter(tmp_path, tmp_path / "out.pth")


def test_error_no_base_named(tmp_path):
    prompted().save_pretrained(tmp_path)
    with raises_exactly(
        CheckpointError,
        f"adapter ({tmp_path}) must name its backbone, but it names none. Give its folder or Hub name by --base.",
    ):
        convert_adapter(tmp_path, tmp_path / "out.pth")


def test_error_base_gone(tmp_path):
    prompted().save_pretrained(tmp_path)
    with raises_exactly(
        CheckpointError,
        f"base ({tmp_path / 'gone'}) must be a model for video classification in transformers, but it cannot be loaded "
        "as one. Give the folder or the Hub name of the adapter's base.",
    ):
        convert_adapter(tmp_path, tmp_path / "out.pth", base=tmp_path / "gone")


def test_error_base_of_another_architecture(tmp_path):
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "image_size": 16,
    }
    VivitForVideoClassification(VivitConfig(**sizes, num_frames=4, tubelet_size=[2, 8, 8])).save_pretrained(
        tmp_path / "base"
    )
    with raises_exactly(
        CheckpointError,
        f"base ({tmp_path / 'base'}) must be a VideoMAE with use_mean_pooling: true, but it is of type vivit. The "
        "reference's format holds nothing else.",
    ):
        export(prompted(), tmp_path)


def test_error_base_pools_the_first_token(tmp_path):
    tiny_videomae(use_mean_pooling=False).save_pretrained(tmp_path / "base")
    with raises_exactly(
        CheckpointError,
        f"base ({tmp_path / 'base'}) must be a VideoMAE with use_mean_pooling: true, but it is one with "
        "use_mean_pooling: false. The reference's format holds nothing else.",
    ):
        export(prompted(), tmp_path)


def unfit(tmp_path, reason):
    return raises_exactly(
        CheckpointError,
        f"adapter ({tmp_path / 'adapter'}) must be whole and fit its backbone ({tmp_path / 'base'}), but {reason}. "
        "Copy the adapter again, or give the backbone it was trained on.",
    )


def test_error_adapter_of_another_width(tmp_path):
    base = tiny_videomae(hidden_size=64, num_attention_heads=2)
    base.save_pretrained(tmp_path / "base")
    prompted().save_pretrained(tmp_path / "adapter")
    head = "base_model.model.classifier.weight [3, 32], not [3, 64]"
    norm = ", ".join(f"base_model.model.fc_norm.{kind} [32], not [64]" for kind in ("bias", "weight"))
    prompts = ", ".join(
        f"{PROMPTS.format(layer, kind)} [5, 16], not [5, 32]" for layer in range(3) for kind in ("key", "value")
    )
    with unfit(tmp_path, f"it has other shapes: {head}, {norm}, {prompts}"):
        convert_adapter(tmp_path / "adapter", tmp_path / "out.pth", base=tmp_path / "base")


PROMPTS = "base_model.model.videomae.encoder.layer.{}.attention.attention.attention_prompt_{}"


def test_error_adapter_lacks_tensors(tmp_path):
    names = ", ".join(PROMPTS.format(1, kind) for kind in ("key", "scale", "value"))
    with unfit(tmp_path, f"it lacks {names}"):
        export(prompted(layers_to_transform=[0]), tmp_path, layers_to_transform=[0, 1])


@pytest.mark.parametrize(
    ("changes", "layers", "kinds"),
    [
        ({"reparameterization": "none"}, [0, 1, 2], ["scale"]),
        ({"layers_to_transform": [0]}, [1, 2], ["key", "scale", "value"]),
        ({"target_modules": []}, [0, 1, 2], ["key", "scale", "value"]),
    ],
)
def test_error_config_has_no_place_for_prompts(tmp_path, changes, layers, kinds):
    names = ", ".join(PROMPTS.format(layer, kind) for layer in layers for kind in kinds)
    with unfit(tmp_path, f"its adapter_config.json has no place for {names} of its weights"):
        export(prompted(), tmp_path, **changes)


def test_error_adapter_lacks_its_head(tmp_path):
    prompted(modules_to_save=["classifier"]).save_pretrained(tmp_path / "adapter")
    tiny_videomae().save_pretrained(tmp_path / "base")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "classifier" not in name}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "adapter" / "adapter_model.safetensors")
    with unfit(tmp_path, "it lacks base_model.model.classifier.bias, base_model.model.classifier.weight"):
        convert_adapter(tmp_path / "adapter", tmp_path / "out.pth", base=tmp_path / "base")


def test_error_of_the_tuner_passes(tmp_path):
    with raises_exactly(TargetError, "layers_to_transform [7] is out of range: the model has 3 layers (0-2)."):
        export(prompted(layers_to_transform=[0]), tmp_path, layers_to_transform=[7])


def test_error_out_taken(tmp_path):
    (tmp_path / "out.pth").touch()
    with raises_exactly(
        CheckpointError,
        f"out ({tmp_path / 'out.pth'}) must be new or an empty folder, but it is a file. Choose another place.",
    ):
        convert_adapter(tmp_path, tmp_path / "out.pth")
