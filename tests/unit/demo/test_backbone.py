"""The embedded backbone: small, half precision, whole, and good at what it was trained for only."""

import json

import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForVideoClassification

from apt_peft.demo.build_backbone import CONFIG, MEAN, STD, build
from apt_peft.demo.settings import BACKBONE


def test_it_is_small_and_half_precision():
    assert sum(path.stat().st_size for path in BACKBONE.iterdir()) < 3_000_000
    weights = load_file(BACKBONE / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_it_loads_with_nothing_missing_but_the_head():
    model, info = AutoModelForVideoClassification.from_pretrained(BACKBONE, num_labels=8, output_loading_info=True)
    assert sorted(info["missing_keys"]) == ["classifier.bias", "classifier.weight", "fc_norm.bias", "fc_norm.weight"]
    assert not info["unexpected_keys"]
    assert {name: getattr(model.config, name) for name in CONFIG} == CONFIG


def test_its_preprocessor_wants_the_pixels_it_was_trained_on():
    values = json.loads((BACKBONE / "preprocessor_config.json").read_text())
    assert (values["image_mean"], values["image_std"]) == ([MEAN] * 3, [STD] * 3)
    assert values["size"] == {"height": 48, "width": 48}
    assert AutoImageProcessor.from_pretrained(BACKBONE).image_mean == (MEAN,) * 3


def test_the_script_builds_the_same_backbone_twice(tmp_path, capsys):
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    state = torch.get_rng_state()
    try:
        for name in ("a", "b"):
            build(tmp_path / name, steps=2, batch=4, lr=1e-3, seed=0)
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    assert "step 2: direction" in capsys.readouterr().out
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    shapes = {name: tensor.shape for name, tensor in load_file(tmp_path / "a" / "model.safetensors").items()}
    assert shapes == {name: tensor.shape for name, tensor in load_file(BACKBONE / "model.safetensors").items()}
