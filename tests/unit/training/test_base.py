"""Backbones that open, and the message for each that does not."""

import json
from pathlib import Path

import pytest
import torch
from helpers import raises_exactly
from huggingface_hub import constants
from models import tiny_videomae
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, BertConfig, VideoMAEForVideoClassification

from apt_peft import CheckpointError
from apt_peft.training.base import (
    frames_and_size,
    head_of,
    open_base,
    quiet,
    read_config,
    threads,
    weights_fingerprint,
)


def first_line_of(call, *args, **kwargs) -> str:
    """The first line of what a library says where a call of it fails."""
    with quiet(), pytest.raises(Exception) as caught:  # noqa: PT011
        call(*args, **kwargs)
    return str(caught.value).strip().split("\n")[0].rstrip(".") + "."


@pytest.fixture
def folder(tmp_path):
    tiny_videomae().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_backbone_gets_a_head_for_the_labels(folder):
    base = open_base(str(folder), labels=["x", "y", "z", "u"])
    assert head_of(base).out_features == 4
    assert base.config.id2label == {0: "x", 1: "y", 2: "z", 3: "u"}
    assert base.config.label2id["u"] == 3
    assert frames_and_size(base.config) == (4, 16)
    own = open_base(str(folder), labels=None)
    assert torch.equal(head_of(own).weight, tiny_videomae().classifier.weight)


def test_the_mean_is_pooled_only_where_it_is_asked_for(tmp_path):
    tiny_videomae(use_mean_pooling=False).save_pretrained(tmp_path)
    assert open_base(str(tmp_path), labels=None).fc_norm is None
    assert open_base(str(tmp_path), labels=None, mean_pooling=True).fc_norm is not None


def test_the_fingerprint_is_of_the_encoder(folder):
    one = weights_fingerprint(tiny_videomae())
    assert one == weights_fingerprint(open_base(str(folder), labels=list("abcd")))
    assert one != weights_fingerprint(tiny_videomae(seed=1))
    late = tiny_videomae()
    with torch.no_grad():
        late.videomae.encoder.layer[0].attention.output.dense.weight[16:] += 1
    assert one != weights_fingerprint(late)


def test_a_folder_that_is_not_there(tmp_path):
    with raises_exactly(
        CheckpointError,
        f"model ({tmp_path / 'no'}) must be a folder or a name on the Hub, but there is no such folder. Check the path.",
    ):
        open_base(str(tmp_path / "no"), labels=None)


def test_frames_that_are_not_square(folder):
    values = json.loads((folder / "config.json").read_text()) | {"image_size": [16, 32]}
    (folder / "config.json").write_text(json.dumps(values))
    with raises_exactly(
        CheckpointError,
        f"model ({folder}) must take square frames, as clips are made, but it takes 16 x 32. Take another backbone.",
    ):
        open_base(str(folder), labels=None)


def test_a_folder_without_a_config(tmp_path):
    said = first_line_of(AutoConfig.from_pretrained, str(tmp_path))
    with raises_exactly(
        CheckpointError,
        f"model ({tmp_path}) must be a folder or a name on the Hub with a transformers config.json, but: {said}",
    ):
        read_config(str(tmp_path))


def test_a_config_with_a_value_of_the_wrong_type(folder):
    values = json.loads((folder / "config.json").read_text()) | {"layer_norm_eps": "small"}
    (folder / "config.json").write_text(json.dumps(values))
    with raises_exactly(
        CheckpointError,
        f"model ({folder}) must have a config.json whose values transformers can take, but: Validation error for field "
        "'layer_norm_eps': TypeError: Field 'layer_norm_eps' expected float, got str (value: 'small'). Correct it, or copy it "
        "again.",
    ):
        read_config(str(folder))


def test_a_name_that_is_neither_a_folder_nor_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with raises_exactly(
        CheckpointError,
        "model (typo) must be a folder or a name on the Hub with a transformers config.json, but there is no such folder, "
        f"and of the Hub: it is not in the cache ({constants.HF_HUB_CACHE}), and the Hub must not be asked (HF_HUB_OFFLINE is "
        "set). Load it once online.",
    ):
        read_config("typo")


def test_another_kind_of_model(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with raises_exactly(
        CheckpointError,
        f"model ({tmp_path}) must be a video classifier of transformers, but its type is bert. Take a VideoMAE, for example.",
    ):
        read_config(str(tmp_path))


def test_weights_that_are_not_there(folder):
    (folder / "model.safetensors").unlink()
    said = first_line_of(VideoMAEForVideoClassification.from_pretrained, str(folder))
    with raises_exactly(CheckpointError, f"model ({folder}) must hold weights that transformers can read, but: {said}"):
        open_base(str(folder), labels=None)


def test_weights_that_are_cut(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    said = first_line_of(VideoMAEForVideoClassification.from_pretrained, str(folder))
    with raises_exactly(CheckpointError, f"model ({folder}) must hold weights that transformers can read, but: {said}"):
        open_base(str(folder), labels=None)


def test_code_of_a_backbone_is_neither_run_nor_offered(tmp_path, monkeypatch):
    """transformers would ask at the terminal whether to run it."""
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    (tmp_path / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}')
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    with raises_exactly(
        CheckpointError,
        f"model ({tmp_path}) must be a folder or a name on the Hub with a transformers config.json, but: The repository "
        f"{tmp_path} contains custom code which must be executed to correctly load the model. You can inspect the repository "
        f"content at {tmp_path} .",
    ):
        open_base(str(tmp_path), labels=None)
    assert not (tmp_path / "ran").exists()


class Trap:
    """A pickle that makes a file when it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_a_pickle_of_a_backbone_is_not_run(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    torch.save({"x": Trap(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with raises_exactly(
        CheckpointError,
        f"model ({folder}) must hold weights and nothing else, but its pytorch_model.bin holds what loading it would run. "
        "Nothing of it was run. Take a model with safetensors.",
    ):
        open_base(str(folder), labels=None)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_that_leads_out_of_the_folder(folder, tmp_path, name):
    (folder / "model.safetensors").rename(tmp_path / "x.safetensors")
    places = ["../x.safetensors", str(tmp_path / "x.safetensors"), "..\\x.safetensors", "inner/x.safetensors"]
    (folder / name).write_text(
        json.dumps({"weight_map": {str(place): place for place in [*places, "own.safetensors"]}})
    )
    with raises_exactly(
        CheckpointError,
        f"model ({folder}) must name files of its own folder in {name}, but it names {', '.join(sorted(places))}. They were "
        "not read.",
    ):
        open_base(str(folder), labels=None)
    (folder / name).write_text("[" * 100_000)
    with raises_exactly(
        CheckpointError, f"model ({folder}) must have a whole {name}, but it is damaged. Copy it again."
    ):
        open_base(str(folder), labels=None)


def test_a_backbone_in_several_files(tmp_path):
    tiny_videomae().save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert weights_fingerprint(open_base(str(tmp_path), labels=None)) == weights_fingerprint(tiny_videomae())


def test_weights_of_the_encoder_that_are_missing_or_of_another_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    name = "videomae.encoder.layer.0.attention.attention.key.weight"
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with raises_exactly(
        CheckpointError,
        f"model ({folder}) must hold every weight of its encoder, but these are missing or of another shape: {name}.",
    ):
        open_base(str(folder), labels=["a", "b"])

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))
    with pytest.raises(CheckpointError, match=r"of another shape: .*, .*, .* and 7 more\.$"):
        open_base(str(folder), labels=["a", "b"])


def test_threads_and_reports_come_back():
    from transformers.utils import logging

    before, level = torch.get_num_threads(), logging.get_verbosity()
    with threads(before + 1), quiet():
        assert torch.get_num_threads() == before + 1
        assert logging.get_verbosity() == logging.ERROR
    assert (torch.get_num_threads(), logging.get_verbosity()) == (before, level)
    with threads(None):
        assert torch.get_num_threads() == before
