"""`apt-peft convert`, as a user calls it."""

import argparse
import dataclasses

import pytest
import torch
from checkpoint_files import GOLDEN, PRETRAIN, finetuned, golden, save
from helpers import raises_exactly
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification

from apt_peft import CheckpointError
from apt_peft.checkpoints import CheckpointOptions, command, load_checkpoint

LABELS = ["wave", "nod", "jump", "sit", "run", "turn", "bow"]


def call(*words):
    parser = argparse.ArgumentParser("apt-peft convert")
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def flags(options):
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]


def test_there_and_back(tmp_path, capsys):
    assert call(GOLDEN / "apt_all_layers.pth", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "tensors: 61 of the reference's layout are 78 of transformers', every shape as it must be\n" in printed
    assert f"wrote {tmp_path / 'out' / 'base'}: VideoMAEModel, config and image processor\n" in printed
    assert "blocks.0.attn.qkv.weight" not in printed
    assert call(tmp_path / "out" / "adapter", tmp_path / "back.pth") == 0
    printed = capsys.readouterr().out
    assert f"wrote {tmp_path / 'back.pth'}: one file of the reference's format: backbone, prompts and head\n" in printed
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert all(torch.equal(back[key], tensor) for key, tensor in golden()["model"].items())


def test_moved_base_is_named(tmp_path):
    call(GOLDEN / "apt_all_layers.pth", tmp_path / "out")
    (tmp_path / "out" / "base").rename(tmp_path / "moved")
    call(tmp_path / "out" / "adapter", tmp_path / "back.pth", "--base", tmp_path / "moved")
    assert (tmp_path / "back.pth").is_file()


def test_every_tensor(tmp_path, capsys):
    call(GOLDEN / "apt_all_layers.pth", tmp_path / "out", "--every-tensor")
    assert capsys.readouterr().out.count("\n  ") == 61


def test_sizes(tmp_path):
    call(GOLDEN / "videomae_pretrain.pth", tmp_path / "out", *flags(PRETRAIN | {"tubelet_size": 2}))
    config = VideoMAEForPreTraining.from_pretrained(tmp_path / "out" / "base", use_mean_pooling=False).config
    assert {name: getattr(config, name) for name in PRETRAIN} == PRETRAIN


def test_every_option_has_its_flag():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    defaults = vars(parser.parse_args(["file", "out"]))
    names = {field.name for field in dataclasses.fields(CheckpointOptions)}
    assert names - {"keep_decoder"} | {"no_decoder"} <= defaults.keys()


def test_switches(tmp_path, capsys):
    state = golden("videomae_pretrain")["model"] | {"extra": torch.zeros(1)}
    path = save(tmp_path / "file.pth", state)
    sizes = {"image_size": 32, "num_frames": 4, "num_attention_heads": 4}
    call(path, tmp_path / "out", *flags(sizes), "--no-decoder", "--allow-leftover")
    assert "left over: extra\n" in capsys.readouterr().out


def test_prompt_start_and_base_name(tmp_path):
    path = save(tmp_path / "file.pth", golden("apt_middle_layers")["model"], input_size=32, num_frames=4)
    call(path, tmp_path / "out", "--prompt-start", 0, "--base-name", "me/base")
    config = (tmp_path / "out" / "adapter" / "adapter_config.json").read_text()
    assert '"base_model_name_or_path": "me/base"' in config
    assert load_checkpoint(path, options=CheckpointOptions(prompt_start=0)).peft_config[
        "default"
    ].layers_to_transform == [0, 1]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(LABELS) + "\n\n",
        "\ufeff" + "\r\n".join(LABELS),
        '["wave", "nod", "jump", "sit", "run", "turn", "bow"]',
        '{"1": "nod", "0": "wave", "2": "jump", "3": "sit", "4": "run", "5": "turn", "6": "bow"}',
    ],
)
def test_labels(text, tmp_path):
    (tmp_path / "labels").write_text(text, encoding="utf-8", newline="")
    path = save(tmp_path / "file.pth", finetuned())
    sizes = {"image_size": 32, "num_frames": 4, "num_attention_heads": 4}
    call(path, tmp_path / "out", *flags(sizes), "--labels", tmp_path / "labels")
    model = VideoMAEForVideoClassification.from_pretrained(tmp_path / "out" / "base")
    assert model.config.id2label == dict(enumerate(LABELS))


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        call("--help")
    assert "  apt-peft convert OUT/adapter back.pth " in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("text", ['["wave", 3]', '{"0": "wave", "2": "nod"}', '["wave"', '{"wave": 0}', '["wave", ""]'])
def test_error_labels_of_another_form(text, tmp_path):
    (tmp_path / "labels").write_text(text)
    with raises_exactly(
        CheckpointError,
        f'labels ({tmp_path / "labels"}) must be JSON like ["wave", "nod"] or {{"0": "wave", "1": "nod"}} without gaps, or '
        "text with one name a line, but is neither.",
    ):
        call(save(tmp_path / "file.pth"), tmp_path / "out", "--labels", tmp_path / "labels")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_error_labels_unreadable(content, tmp_path):
    if content is not None:
        (tmp_path / "labels").write_bytes(content)
    with raises_exactly(
        CheckpointError,
        f"labels ({tmp_path / 'labels'}) must be a text file, but cannot be read as one. Check the path.",
    ):
        call(save(tmp_path / "file.pth"), tmp_path / "out", "--labels", tmp_path / "labels")


def test_error_flags_of_the_way_there(tmp_path):
    with raises_exactly(
        CheckpointError,
        f"--num-frames, --no-decoder, --base-name must go with a weight file, but SOURCE ({tmp_path}) is a folder. Leave "
        "them out, or give another SOURCE.",
    ):
        call(tmp_path, tmp_path / "out", "--num-frames", 4, "--no-decoder", "--base-name", "me/base")


def test_error_flag_of_the_way_back(tmp_path):
    path = save(tmp_path / "file.pth")
    with raises_exactly(
        CheckpointError,
        f"--base must go with an adapter's folder, but SOURCE ({path}) is no folder. Leave it out, or give another SOURCE.",
    ):
        call(path, tmp_path / "out", "--base", "me/base")
