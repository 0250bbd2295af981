"""Backbones that open, and the message for each that does not."""

import json

import pytest
import torch
from helpers import raises_exactly
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
    return str(caught.value).strip().split("\n")[0]


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


def test_a_folder_without_a_config(tmp_path):
    said = first_line_of(AutoConfig.from_pretrained, str(tmp_path))
    with raises_exactly(
        CheckpointError,
        f"model ({tmp_path}) must be a folder or a name on the Hub with a transformers config.json, but: {said}",
    ):
        read_config(str(tmp_path))


def test_a_name_that_is_neither_a_folder_nor_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = first_line_of(AutoConfig.from_pretrained, "typo")
    with raises_exactly(
        CheckpointError,
        "model (typo) must be a folder or a name on the Hub with a transformers config.json, but there is no such folder, "
        f"and of the Hub: {said}",
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
