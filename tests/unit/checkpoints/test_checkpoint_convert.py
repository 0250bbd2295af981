"""Reference and VideoMAE files to Hugging Face folders: nothing lost, and the reference's own numbers come out."""

import json
from dataclasses import replace

import pytest
import torch
from checkpoint_files import APT, GOLDEN, PRETRAIN, expected, finetuned, golden, save
from peft import PeftModel
from transformers import (
    AutoImageProcessor,
    AutoModelForVideoClassification,
    VideoMAEForPreTraining,
    VideoMAEModel,
)

import apt_peft
from apt_peft.checkpoints import CheckpointOptions, convert_checkpoint, load_checkpoint

TOLERANCE = 2e-7
HEADS = CheckpointOptions(num_attention_heads=4)
SIZES = {"input_size": 32, "num_frames": 4}


def logits(model, pixel_values):
    with torch.no_grad():
        return model.double().eval()(pixel_values=pixel_values.double()).logits


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """OUT and report of the golden pre-training file."""
    out = tmp_path_factory.mktemp("pretrain") / "out"
    return out, convert_checkpoint(GOLDEN / "videomae_pretrain.pth", out, options=CheckpointOptions(**PRETRAIN))


@pytest.mark.parametrize("name", APT)
def test_folders_reproduce_the_reference(name, tmp_path):
    want = expected(name)
    convert_checkpoint(GOLDEN / f"{name}.pth", tmp_path / "out")
    base = AutoModelForVideoClassification.from_pretrained(tmp_path / "out" / "base")
    base.fc_norm.eps = 1e-6
    model = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")
    assert (logits(model, want["pixel_values"]) - want["logits"]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", APT)
def test_eps_of_transformers_moves_logits_by_the_documented_amount(name, tmp_path):
    want = expected(name)
    convert_checkpoint(GOLDEN / f"{name}.pth", tmp_path / "out")
    model = apt_peft.AutoPeftModelForVideoClassification.from_pretrained(tmp_path / "out" / "adapter")
    drift = (logits(model, want["pixel_values"]) - want["logits"]).abs().max()
    assert 5e-6 < drift < 8e-6  # docs/checkpoints.md quotes 6e-6 to 7e-6


@pytest.mark.parametrize("name", APT)
def test_model_in_memory_reproduces_the_reference(name):
    want = expected(name)
    model = load_checkpoint(GOLDEN / f"{name}.pth")
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    assert not model.training
    assert (logits(model, want["pixel_values"]) - want["logits"]).abs().max() < TOLERANCE


def test_pretraining_folder_reproduces_the_reconstruction(pretrained):
    want = expected("videomae_pretrain")
    model = VideoMAEForPreTraining.from_pretrained(pretrained[0] / "base", use_mean_pooling=False).double().eval()
    model.decoder.norm.eps = 1e-6
    with torch.no_grad():
        got = model(want["pixel_values"].double(), bool_masked_pos=want["bool_masked_pos"]).logits
    assert (got - want["reconstruction"]).abs().max() < TOLERANCE


def test_pretraining_folder_is_a_base_for_prompts(pretrained):
    out, report = pretrained
    model, loading = AutoModelForVideoClassification.from_pretrained(out / "base", output_loading_info=True)
    assert model.config.use_mean_pooling
    assert set(loading["missing_keys"]) == {"fc_norm.weight", "fc_norm.bias", "classifier.weight", "classifier.bias"}
    want = golden("videomae_pretrain")["model"]["encoder.blocks.3.attn.qkv.weight"]
    attention = model.videomae.encoder.layer[3].attention.attention
    assert torch.equal(torch.cat([attention.query.weight, attention.key.weight, attention.value.weight]), want)
    assert not (out / "adapter").exists()
    assert [path for path, _ in report.written] == [str(out / "base")]


def test_decoder_can_be_left_out(tmp_path):
    options = CheckpointOptions(image_size=32, num_frames=4, num_attention_heads=4, keep_decoder=False)
    report = convert_checkpoint(GOLDEN / "videomae_pretrain.pth", tmp_path / "out", options=options)
    model, loading = VideoMAEModel.from_pretrained(
        tmp_path / "out" / "base", use_mean_pooling=False, output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert torch.equal(model.layernorm.weight, golden("videomae_pretrain")["model"]["encoder.norm.weight"])
    decoder = {key for key in golden("videomae_pretrain")["model"] if not key.startswith("encoder.")}
    assert set(report.left_out) == decoder
    assert len(report.tensors) + len(decoder) == len(golden("videomae_pretrain")["model"])


@pytest.mark.parametrize("name", APT)
def test_report_accounts_for_every_key_and_shape(name, tmp_path):
    report = convert_checkpoint(GOLDEN / f"{name}.pth", tmp_path / "out")
    state = golden(name)["model"]
    assert {line.key: line.shape for line in report.tensors} == {
        key: tuple(value.shape) for key, value in state.items()
    }
    assert report.leftover == report.left_out == ()
    assert report.other_entries == ("epoch", "optimizer", "scaler")


def test_report_in_words(tmp_path):
    report = convert_checkpoint(GOLDEN / "apt_middle_layers.pth", tmp_path / "out")
    out = tmp_path / "out"
    assert report.text() == "\n".join(
        [
            f"{GOLDEN / 'apt_middle_layers.pth'}: an APT model: backbone, prompts and head",
            "tensors: 61 of the reference's layout are 72 of transformers', every shape as it must be",
            "missing: none",
            "left over: none",
            "other entries, not carried over: epoch, optimizer, scaler",
            "model: 4 layers, width 48, patch 8, tubelet 2",
            "image_size: 32 (from the file's settings)",
            "num_frames: 4 (from the file's settings)",
            "num_attention_heads: 4 (from the prompts' width)",
            "prompts: 3 in layers 1-2, reparameterization max",
            "note: the reference's LayerNorms have eps 1e-6. The base's config says so, but transformers builds fc_norm "
            "with 1e-5: set model.fc_norm.eps = 1e-6 on the loaded base for the reference's outputs to the last digit.",
            f"wrote {out / 'base'}: VideoMAEModel, config and image processor",
            f"wrote {out / 'adapter'}: PEFT adapter for {out / 'base'}: prompts, fc_norm and classifier",
        ]
    )
    assert (
        "  prompt_scale (2, 2, 3) = videomae.encoder.layer.1.attention.attention.attention_prompt_scale, "
        "videomae.encoder.layer.2.attention.attention.attention_prompt_scale"
    ) in report.text(every_tensor=True).splitlines()


def test_adapter_folder_tells_what_it_is(tmp_path):
    labels = ["wave", "nod", "jump", "sit", "run", "turn", "bow"]
    out = tmp_path / "out"
    convert_checkpoint(GOLDEN / "apt_middle_layers.pth", out, options=CheckpointOptions(labels=labels))
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert config["id2label"] == {str(index): label for index, label in enumerate(labels)}
    assert config["layers_to_transform"] == [1, 2]
    assert config["num_prompt_tokens"] == 3
    assert config["prompt_dropout"] == 0.1
    assert config["reparameterization"] == "max"
    assert config["modules_to_save"] == ["fc_norm", "classifier"]
    assert config["base_model_name_or_path"] == str(out / "base")
    card = (out / "adapter" / "README.md").read_text()
    assert "import apt_peft" in card
    assert str(tmp_path) not in card
    assert "base_model" not in card
    model = apt_peft.AutoPeftModelForVideoClassification.from_pretrained(out / "adapter")
    assert model.config.id2label[2] == "jump"


def test_base_knows_no_labels_of_the_adapter(tmp_path):
    convert_checkpoint(GOLDEN / "apt_all_layers.pth", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "base" / "config.json").read_text())
    assert "id2label" not in config
    assert config["layer_norm_eps"] == 1e-6
    assert config["use_mean_pooling"] is True


def test_no_reparameterization(tmp_path):
    convert_checkpoint(GOLDEN / "apt_no_reparam.pth", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["reparameterization"] == "none"
    assert config["layers_to_transform"] is None


def test_name_of_the_base_may_be_given(tmp_path):
    convert_checkpoint(GOLDEN / "apt_all_layers.pth", tmp_path / "out", base_name="me/videomae-small")
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/videomae-small"
    assert "base_model: me/videomae-small\n" in (tmp_path / "out" / "adapter" / "README.md").read_text()


@pytest.mark.parametrize("folder", ["base", "adapter"])
def test_image_processor_normalises_as_imagenet(folder, tmp_path):
    convert_checkpoint(GOLDEN / "apt_all_layers.pth", tmp_path / "out")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out" / folder)
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]
    assert list(processor.image_std) == [0.229, 0.224, 0.225]
    frames = torch.zeros(4, 3, 50, 40, dtype=torch.uint8)
    pixel_values = processor(list(frames), return_tensors="pt").pixel_values
    assert pixel_values.shape == (1, 4, 3, 32, 32)
    assert torch.allclose(pixel_values[0, 0, :, 0, 0], torch.tensor([-2.1179, -2.0357, -1.8044]), atol=1e-4)


@pytest.mark.parametrize("norm", ["fc_norm", "head_norm"])
@pytest.mark.parametrize(
    ("nest", "prefix"),
    [
        ("model", ""),
        ("module", ""),
        ("state_dict", ""),
        (None, ""),
        ("model", "backbone."),
        ("module", "module.encoder."),
    ],
)
def test_finetuning_layouts_in_the_wild(nest, prefix, norm, tmp_path):
    state = {prefix + key: tensor for key, tensor in finetuned(norm).items()}
    path = save(tmp_path / "file.pth", state, nest)
    options = CheckpointOptions(image_size=32, num_frames=4, num_attention_heads=4, labels=list("abcdefg"))
    report = convert_checkpoint(path, tmp_path / "out", options=options)
    model, loading = AutoModelForVideoClassification.from_pretrained(
        tmp_path / "out" / "base", output_loading_info=True
    )
    assert not any(loading.values())
    assert model.config.id2label[6] == "g"
    assert torch.equal(model.fc_norm.weight, golden()["model"]["head_norm.weight"])
    assert torch.equal(model.classifier.weight, golden()["model"]["head.weight"])
    assert len(report.tensors) == len(state)


def test_deepspeed_file(tmp_path):
    path = tmp_path / "mp_rank_00_model_states.pt"
    torch.save({"module": finetuned(), "buffer_names": [], "ds_version": "0.5.8", "epoch": 1, "optimizer": None}, path)
    options = replace(HEADS, image_size=32, num_frames=4)
    report = convert_checkpoint(path, tmp_path / "out", options=options)
    assert report.other_entries == ("buffer_names", "ds_version", "epoch", "optimizer")


def test_head_on_the_first_token_stays_one(tmp_path):
    path = save(tmp_path / "file.pth", finetuned("norm"), **SIZES)
    report = convert_checkpoint(path, tmp_path / "out", options=HEADS)
    model, loading = AutoModelForVideoClassification.from_pretrained(
        tmp_path / "out" / "base", output_loading_info=True
    )
    assert not any(loading.values())
    assert model.fc_norm is None
    assert torch.equal(model.videomae.layernorm.weight, golden()["model"]["head_norm.weight"])
    assert report.notes == (
        "this head classifies from the first token, so the base's config says use_mean_pooling: false. Prompts want "
        "use_mean_pooling=True and a new head.",
    )


def test_bare_encoder_without_biases(tmp_path):
    state = {key: value for key, value in finetuned().items() if not key.startswith(("head", "fc_norm"))}
    state = {key: value for key, value in state.items() if not key.endswith(("q_bias", "v_bias"))}
    model = load_checkpoint(save(tmp_path / "file.pth", state, **SIZES), options=HEADS)
    assert isinstance(model, VideoMAEModel)
    assert model.config.qv_bias is False
    assert model.config.use_mean_pooling is True


def test_half_precision_is_kept(tmp_path):
    state = {key: tensor.half() for key, tensor in golden()["model"].items()}
    convert_checkpoint(save(tmp_path / "file.pth", state, **SIZES), tmp_path / "out")
    model = apt_peft.AutoPeftModelForVideoClassification.from_pretrained(tmp_path / "out" / "adapter", dtype="auto")
    assert model.get_base_model().videomae.embeddings.patch_embeddings.projection.weight.dtype == torch.float16


def test_mixed_precision_becomes_float32(tmp_path):
    state = finetuned()
    state["head.bias"] = state["head.bias"].double()
    model = load_checkpoint(save(tmp_path / "file.pth", state, **SIZES), options=HEADS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_frames_of_several_segments_are_multiplied(tmp_path):
    path = save(tmp_path / "file.pth", input_size=32, num_frames=4, num_segments=2)
    assert load_checkpoint(path).config.num_frames == 8


def test_options_override_settings(tmp_path):
    path = save(tmp_path / "file.pth", **SIZES)
    config = load_checkpoint(path, options=CheckpointOptions(image_size=64, num_frames=8, tubelet_size=2)).config
    assert (config.image_size, config.num_frames) == (64, 8)


def test_published_sizes_are_assumed_and_reported(tmp_path):
    report = convert_checkpoint(save(tmp_path / "file.pth"), tmp_path / "out")
    assert ("image_size", "224 (assumed, as published: the file does not tell)") in report.settings
    assert ("num_frames", "16 (assumed, as published: the file does not tell)") in report.settings


@pytest.mark.parametrize(("width", "heads"), [(384, 6), (768, 12), (1024, 16), (1280, 16), (1408, 16)])
def test_published_heads_are_assumed(width, heads):
    from apt_peft.checkpoints.dimensions import measure
    from apt_peft.checkpoints.reading import WeightFile

    state = {
        "patch_embed.proj.weight": torch.empty(width, 3, 2, 16, 16, device="meta"),
        "blocks.0.mlp.fc1.weight": torch.empty(4 * width, width, device="meta"),
    }
    dimensions = measure(WeightFile("file", state, {}, ()), CheckpointOptions())
    assert dimensions.num_attention_heads == heads
    assert dict(dimensions.sources)["num_attention_heads"] == "assumed, as published for this width"


def test_prompt_start_overrides_the_file(tmp_path):
    path = save(tmp_path / "file.pth", golden("apt_middle_layers")["model"], prompt_start=1, prompt_end=2, **SIZES)
    model = load_checkpoint(path, options=CheckpointOptions(prompt_start=2))
    assert model.peft_config["default"].layers_to_transform == [2, 3]


def test_all_layers_need_no_range(tmp_path):
    model = load_checkpoint(save(tmp_path / "file.pth", **SIZES))
    assert model.peft_config["default"].layers_to_transform is None


def test_unusable_settings_count_as_untold(tmp_path):
    path = save(tmp_path / "file.pth", input_size="32", num_frames=None, prompt_dropout=7, labels=["a", 3])
    model = load_checkpoint(path, options=CheckpointOptions(image_size=32, num_frames=4))
    assert model.peft_config["default"].prompt_dropout == 0.1
    assert model.config.id2label[0] == "LABEL_0"


def test_leftover_is_listed_when_allowed(tmp_path):
    state = golden()["model"] | {"blocks.0.gamma_1": torch.ones(48)}
    path = save(tmp_path / "file.pth", state, **SIZES)
    report = convert_checkpoint(path, tmp_path / "out", options=CheckpointOptions(allow_leftover=True))
    assert report.leftover == ("blocks.0.gamma_1",)
    assert "left over: blocks.0.gamma_1" in report.text().splitlines()


def test_stored_sinusoids_need_no_place(tmp_path):
    from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

    state = golden()["model"] | {"pos_embed": get_sinusoid_encoding_table(32, 48)}
    report = convert_checkpoint(save(tmp_path / "file.pth", state, **SIZES), tmp_path / "out")
    assert report.left_out == ("pos_embed",)
    assert (
        "left out (an unwanted decoder, positions that transformers computes itself): pos_embed"
        in report.text().splitlines()
    )


def test_out_may_be_an_empty_folder_and_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    convert_checkpoint(GOLDEN / "apt_all_layers.pth", tmp_path / "empty")
    convert_checkpoint(GOLDEN / "apt_all_layers.pth", tmp_path / "new" / "deep")
    for out in (tmp_path / "empty", tmp_path / "new" / "deep"):
        assert sorted(path.name for path in out.iterdir()) == ["adapter", "base"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]
