"""Weights made to do harm, or damaged: each of our roads says what is wrong, before memory or time is spent."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from helpers import raises_exactly
from hostile import CONFIG, ROADS, WEIGHTS, by_load, change, refused_by_all, unfit, unusable, write, write_adapter
from models import clips, tiny_videomae
from peft import PeftModel
from safetensors.torch import load, load_file, save_file

from apt_peft import AutoPeftModelForVideoClassification, CheckpointError
from apt_peft.checkpoints.adapter import load_adapter

KEY = "base_model.model.videomae.encoder.layer.{}.attention.attention.attention_prompt_{}"


@pytest.fixture
def adapter(tmp_path) -> Path:
    """A good adapter of a backbone beside it; a test makes it bad."""
    return write_adapter(tmp_path)


class Trap:
    """A pickle that makes a file when it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


@pytest.mark.parametrize("trapped", [False, True])
def test_a_pickle_is_never_opened(adapter, tmp_path, trapped):
    weights = load_file(adapter / WEIGHTS)
    torch.save(weights | ({"x": Trap(tmp_path / "ran")} if trapped else {}), adapter / "adapter_model.bin")
    (adapter / WEIGHTS).unlink()
    refused_by_all(
        adapter,
        f"adapter ({adapter}) must have its weights in {WEIGHTS}, but there is only adapter_model.bin, a pickle. Pickles can "
        "hold code and are never opened. Ask whoever trained it to save it anew, which writes that file.",
    )
    # PEFT itself opens it, as torch opens weights: code does not run.
    if trapped:
        with pytest.raises(Exception, match="Weights only load failed"):
            PeftModel.from_pretrained(tiny_videomae(), adapter)
    else:
        PeftModel.from_pretrained(tiny_videomae(), adapter)
    assert not (tmp_path / "ran").exists()


def test_no_weights(adapter):
    (adapter / WEIGHTS).unlink()
    refused_by_all(
        adapter,
        f"adapter ({adapter}) must have its weights in {WEIGHTS}, but it is not there. Ask whoever trained it to save it anew, "
        "which writes that file.",
    )


def test_a_pickle_on_the_hub_is_not_even_downloaded(published, made):
    published.add("me/pickle", {CONFIG: made["first"][CONFIG], "adapter_model.bin": b"x"})
    with raises_exactly(
        CheckpointError,
        f"adapter (me/pickle) must have its weights in {WEIGHTS}, but it is not there; adapter_model.bin, a pickle, is never "
        "opened. Ask whoever trained it to save it anew, which writes that file.",
    ):
        AutoPeftModelForVideoClassification.from_pretrained("me/pickle")
    assert published.requests("GET", "/me/pickle/resolve/.*/adapter_model.bin") == []


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "size", "problem"),
    [
        (
            {"a": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}},
            0,
            "its tensors have 1,099,511,627,776 bytes and the file has 0 for them",
        ),
        ({"a": ONE}, 16, "its tensors have 8 bytes and the file has 16 for them"),
        ({"a": ONE | {"shape": [1 << 40]}}, 8, "a of shape [1099511627776] does not lie in it as it says"),
        ({"a": ONE, "b": ONE}, 8, "b of shape [2] does not lie in it as it says"),
        ({"a": ONE | {"data_offsets": [8, 16]}}, 16, "a of shape [2] does not lie in it as it says"),
        ({"a": ONE | {"data_offsets": [0, 1 << 62]}}, 8, "its header does not say what these are: a"),
        ({"a": ONE | {"shape": [-2]}, "b": 7, "c": {}}, 8, "its header does not say what these are: a, b, c"),
        ({"a": ONE | {"shape": [1] * 9}}, 8, "its header does not say what these are: a"),
        (b'{"a": {}, "b": 1, "a": {}}', 0, "its header does not say what these are: a, b"),
        (
            b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "shape": [2]}}',
            8,
            "its header names twice: shape",
        ),
        (json.dumps({"a": ONE})[:-1].encode() + b"," + json.dumps({"a": ONE})[1:].encode(), 8, "its header names twice: a"),
        ({"a": ONE | {"dtype": "I64", "shape": [1]}}, 8, "it has I64 where floating-point numbers belong: a"),
        ({"a": ONE | {"dtype": "BOOL", "shape": [8]}}, 8, "it has BOOL where floating-point numbers belong: a"),
        ({"a": ONE | {"dtype": "F8_E4M3", "shape": [8]}}, 8, "it has F8_E4M3 where floating-point numbers belong: a"),
        (b"[" * 100_000, 0, "its header is damaged"),
        (b"\xff\xfe", 0, "its header is damaged"),
        (b"[1, 2]", 0, "its header is no table of at most 50,000 tensors"),
        (
            {str(index): ONE | {"shape": [0], "data_offsets": [0, 0]} for index in range(50_001)},
            0,
            "its header is no table of at most 50,000 tensors",
        ),
    ],
    ids=[
        "a tebibyte", "left over", "a shape beyond its bytes", "overlapping", "a gap", "beyond all", "no tensors", "axes",
        "no tensors, twice", "twice in one", "twice", "integers", "booleans", "8 bits", "deep", "no text", "a list", "many",
    ],
)  # fmt: skip
def test_headers(adapter, header, size, problem):
    write(adapter / WEIGHTS, header, size)
    refused_by_all(adapter, unusable(adapter, problem))


@pytest.mark.parametrize(
    "content",
    [b"", b"1234", struct.pack("<Q", 1 << 62) + b"{}", struct.pack("<Q", 100) + b"{}", b"version https://git-lfs"],
)
def test_files_that_are_none(adapter, content):
    (adapter / WEIGHTS).write_bytes(content)
    refused_by_all(adapter, unusable(adapter, "it is cut, or no safetensors file"))


def test_a_file_that_was_cut(adapter):
    content = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(content[:-100])
    size = sum(tensor.nbytes for tensor in load(content).values())
    refused_by_all(
        adapter, unusable(adapter, f"its tensors have {size:,} bytes and the file has {size - 100:,} for them")
    )


def test_a_pipe_is_not_waited_for(adapter):
    (adapter / WEIGHTS).unlink()
    os.mkfifo(adapter / WEIGHTS)
    refused_by_all(adapter, unusable(adapter, "it is no plain file"))


def test_a_device_is_not_read(adapter):
    (adapter / WEIGHTS).unlink()
    (adapter / WEIGHTS).symlink_to("/dev/zero")
    refused_by_all(adapter, unusable(adapter, "it is no plain file"))


def rewrite(adapter: Path, **changes) -> None:
    """Change, add or (by None) leave out tensors of the file, by the ends of their names."""
    weights = load_file(adapter / WEIGHTS)
    for name, tensor in changes.items():
        key = next((key for key in weights if key.endswith(name)), name)
        weights[key] = tensor
    save_file({key: tensor for key, tensor in weights.items() if tensor is not None}, adapter / WEIGHTS)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_numbers_that_are_none(adapter, value):
    rewrite(adapter, **{"fc_norm.bias": torch.full((32,), value)})
    refused_by_all(
        adapter,
        f"adapter ({adapter}) must hold finite weights, but base_model.model.fc_norm.bias has NaN or infinite values: its "
        "training diverged, or it is damaged. Copy it again, or take an earlier one.",
    )


def test_a_file_that_would_change_the_backbone(adapter):
    """PEFT loads what has the name of a parameter, whoever it belongs to."""
    name = "base_model.model.videomae.encoder.layer.0.output.dense.weight"
    rewrite(adapter, **{name: torch.zeros(32, 64)})
    base = tiny_videomae()
    kept = base.videomae.encoder.layer[0].output.dense.weight.clone()
    PeftModel.from_pretrained(base, adapter)
    assert not torch.equal(base.videomae.encoder.layer[0].output.dense.weight, kept)
    for road in ROADS:
        named = "b" if road is by_load else adapter.parent / "base"
        with raises_exactly(
            CheckpointError, unfit(adapter, named, f"its {CONFIG} has no place for {name} of its weights")
        ):
            road(adapter)


def test_all_that_does_not_fit_is_told_at_once_and_the_backbone_is_untouched(adapter):
    rewrite(
        adapter,
        **{
            "0.attention.attention.attention_prompt_key": None,
            "more": torch.zeros(1),
            "classifier.weight": torch.zeros(9, 9),
        },
    )
    base = tiny_videomae()
    with raises_exactly(
        CheckpointError,
        unfit(
            adapter,
            "b",
            f"it lacks {KEY.format(0, 'key')}; its {CONFIG} has no place for more of its weights; it has other shapes: "
            "base_model.model.classifier.weight [9, 9], not [3, 32]",
        ),
    ):
        load_adapter(base, adapter, name="b")
    assert base.state_dict().keys() == tiny_videomae().state_dict().keys()
    with torch.no_grad():
        assert torch.equal(base(clips()).logits, tiny_videomae()(clips()).logits)


def test_more_prompts_than_the_file_holds_cost_nothing(adapter, monkeypatch):
    """No tensor with data is made that would hold them."""
    change(adapter, num_prompt_tokens=65_536)
    made = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: made.append(empty(*a, **k)) or made[-1])
    with pytest.raises(
        CheckpointError, match=r"it has other shapes: .*attention_prompt_key \[2, 16\], not \[65536, 16\]"
    ):
        load_adapter(tiny_videomae(), adapter, name="b")
    large = [tensor for tensor in made if tensor.numel() > 65_536]
    assert large
    assert all(tensor.is_meta for tensor in large)
