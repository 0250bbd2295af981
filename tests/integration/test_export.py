"""`apt-peft export`: what is written, that it is checked, and that nothing is left behind where it fails."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from helpers import raises_exactly
from models import clips, prompt_layers
from peft import PeftModel
from runs import let_prompts_matter
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, VideoMAEForVideoClassification

from apt_peft import CheckpointError, ConfigError, ExportError, MissingExtraError, cli
from apt_peft.export import ExportSettings, OnnxSession, export_adapter, folder, load_program
from apt_peft.opening import open_adapter
from apt_peft.scoring import EvaluateSettings, ScoringSettings, evaluate_adapter
from apt_peft.training.settings import TrainSettings
from apt_peft.training.train import train


@pytest.fixture(scope="module")
def trained(backbone, data, tmp_path_factory) -> Path:
    """An adapter as `apt-peft train` leaves it, with scales that matter."""
    out = tmp_path_factory.mktemp("runs") / "apt"
    settings = {"epochs": 1, "batch_size": 4, "num_prompt_tokens": 3, "threads": 1, "progress": False, "test": False}
    train(TrainSettings(model=str(backbone), data=str(data), out=str(out), **settings))
    let_prompts_matter(out)
    return out


@pytest.fixture
def adapter(trained, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "adapter"))


@pytest.fixture(scope="module")
def wanted(trained):
    model = open_adapter(ScoringSettings(adapter=str(trained), device="cpu")).model
    with torch.no_grad():
        logits = {batch: model(clips(batch)).logits for batch in (1, 2, 5)}
        for layer in prompt_layers(model):
            layer.enable_adapters(False)
        assert (model(clips(5)).logits - logits[5]).abs().max() > 0.1  # the prompts matter
    return logits


def run(capsys, *words: object) -> tuple[int, str, str]:
    code = cli.main(list(map(str, words)))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def settings(adapter: Path, out: Path, **given) -> ExportSettings:
    return ExportSettings(adapter=str(adapter), out=str(out), **given)


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


@pytest.mark.parametrize(
    ("format", "file", "load"), [("onnx", "model.onnx", OnnxSession), ("torch", "model.pt2", load_program)]
)
def test_a_served_model_gives_the_logits(trained, wanted, tmp_path, capsys, format, file, load):
    out = tmp_path / "new" / "served"
    code, shown, told = run(capsys, "export", "--adapter", trained, "--out", out, "--format", format)
    assert (code, told) == (0, "")
    assert re.fullmatch(
        rf"{re.escape(str(out / file))}: 0\.\d+ MB, 3 labels\n"
        r"checked against PyTorch on random clips: largest difference of a logit \d\.\de[+-]\d\d\n",
        shown,
    )
    served = load(out / file)
    for batch, logits in wanted.items():
        torch.testing.assert_close(served(clips(batch)), logits, rtol=0, atol=1e-4)
    assert names(out) == sorted(["export.json", "labels.json", "preprocessor_config.json", file])
    assert json.loads((out / "labels.json").read_text()) == ["down", "left", "up"]
    processor = AutoImageProcessor.from_pretrained(out)
    assert (processor.size["shortest_edge"], processor.crop_size["height"], processor.image_mean[0]) == (16, 16, 0.485)
    record = json.loads((out / "export.json").read_text())
    assert record["input"] == {"name": "pixel_values", "shape": ["batch", 4, 3, 16, 16], "dtype": "float32"}
    assert record["output"] == {"name": "logits", "shape": ["batch", 3], "dtype": "float32"}
    assert (record["clips"]["sampling"], record["clips"]["num_frames"]) == ("even", 4)
    assert record["checked"]["batches"] == [1, 3]
    assert record["checked"]["largest_difference"] < 1e-4
    assert (record["format"], record["file"]) == (format, file)
    assert record.get("operators") == ("onnxruntime" if format == "onnx" else None)


def test_a_folded_adapter_is_smaller_and_scores_the_same(trained, wanted, data, tmp_path, capsys):
    out = tmp_path / "folded"
    code, _, told = run(capsys, "export", "--adapter", trained, "--out", out, "--format", "adapter")
    assert (code, told) == (0, "")
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["reparameterization"] == "none"
    before, after = (load_file(place / "adapter_model.safetensors") for place in (trained, out))
    assert not [name for name in after if "scale" in name]
    assert sum(map(torch.numel, after.values())) < sum(map(torch.numel, before.values()))
    base = VideoMAEForVideoClassification.from_pretrained(config["base_model_name_or_path"])
    model = PeftModel.from_pretrained(base, str(out)).eval()
    for batch, logits in wanted.items():
        with torch.no_grad():
            torch.testing.assert_close(model(clips(batch)).logits, logits, rtol=0, atol=1e-5)
    # what belongs to the adapter comes along, and the commands take the folder for an adapter
    for name in ("run.json", "preprocessor_config.json", "README.md"):
        assert (out / name).read_bytes() == (trained / name).read_bytes()
    ours, theirs = (
        evaluate_adapter(EvaluateSettings(adapter=str(place), data=str(data), progress=False, out=str(tmp_path / "t")))[
            0
        ]
        for place in (out, trained)
    )
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-5)


def test_a_folded_adapter_can_be_exported_again(trained, wanted, tmp_path):
    export_adapter(settings(trained, tmp_path / "folded", format="adapter"))
    exported = export_adapter(settings(tmp_path / "folded", tmp_path / "served", operators="standard"))
    assert exported.labels == ("down", "left", "up")
    assert exported.difference < 1e-4
    torch.testing.assert_close(OnnxSession(exported.file)(clips(2)), wanted[2], rtol=0, atol=1e-4)
    assert json.loads((exported.out / "export.json").read_text())["operators"] == "standard"


def test_a_file_that_differs_is_refused_and_not_left(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "TOLERANCE", 0.0)  # rounding alone is too much then
    with pytest.raises(ExportError) as told:
        export_adapter(settings(adapter, tmp_path / "deep" / "served"))
    assert re.sub(r"\d(\.\d)?e-0\d", "...", re.sub(r"\(.*?\)", "(X)", str(told.value))) == (
        "model.onnx must give PyTorch's logits to 0 of the largest (X), but on random clips they differ by .... "
        "Nothing was written. Take another --format, or report it."
    )
    assert names(tmp_path) == ["adapter"]


def test_logits_that_are_not_finite_are_no_export(adapter, backbone, tmp_path):
    """NaN compares with nothing: it must not count as equal."""
    damaged = shutil.copytree(backbone, tmp_path / "damaged")
    weights = load_file(damaged / "model.safetensors")
    weights["videomae.encoder.layer.0.output.dense.bias"][0] = torch.nan
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with raises_exactly(
        ExportError,
        "model.pt2 must give PyTorch's logits to 0.0001 of the largest (nan), but on random clips they differ by nan. "
        "Nothing was written. Take another --format, or report it.",
    ):
        export_adapter(settings(adapter, tmp_path / "served", format="torch", model=str(damaged)))
    assert names(tmp_path) == ["adapter", "damaged"]


@pytest.mark.parametrize(("format", "name"), [("onnx", "ONNX"), ("torch", "torch.export")])
def test_a_model_that_cannot_be_traced(adapter, tmp_path, monkeypatch, format, name):
    """A forward that looks into its tensors has no one graph."""
    own = VideoMAEForVideoClassification.forward

    def forward(self, pixel_values, **others):
        return own(self, pixel_values * (2 if pixel_values.sum() > 1e9 else 1), **others)

    monkeypatch.setattr(VideoMAEForVideoClassification, "forward", forward)
    with pytest.raises(ExportError) as told:
        export_adapter(settings(adapter, tmp_path / "served", format=format))
    # torch's own reason is its own to word
    assert re.sub(r"fails: .+\. Take", "fails: .... Take", str(told.value)) == (
        f"format ({name}) must be able to hold the model, but exporting it fails: .... Take another --format; "
        "an adapter folder always works."
    )
    assert "data-dependent" in str(told.value)
    assert names(tmp_path) == ["adapter"]


def test_a_folder_in_use_is_left_alone(adapter, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("years of work")
    with raises_exactly(
        CheckpointError,
        f"out ({tmp_path / 'used'}) must be new or an empty folder, but it is a folder that is not empty. "
        "Choose another place.",
    ):
        export_adapter(settings(adapter, tmp_path / "used"))
    assert names(tmp_path / "used") == ["thesis.txt"]


def test_an_adapter_that_is_not_whole(adapter, tmp_path):
    (adapter / "adapter_model.safetensors").unlink()
    with raises_exactly(
        CheckpointError,
        f"adapter ({adapter}) must have its weights in adapter_model.safetensors, but it is not there. Ask whoever trained "
        "it to save it anew, which writes that file.",
    ):
        export_adapter(settings(adapter, tmp_path / "served"))
    assert names(tmp_path) == ["adapter"]


def test_a_missing_package_is_named_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with raises_exactly(
        MissingExtraError,
        "onnxscript must be installed for this, but it is not. Run: pip install 'apt-peft[export]'",
    ):
        export_adapter(settings(tmp_path / "no-adapter", tmp_path / "served"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"format": "onxx"}, "format ('onxx') must be one of onnx, torch, adapter. Did you mean onnx?"),
        (
            {"format": "torch", "operators": "standard"},
            "operators (standard) must go with format onnx, but format is torch. Leave it out.",
        ),
        (
            {"out": "served/model.onnx"},
            "out (served/model.onnx) must be the name of a folder, for labels and preprocessing are written beside the "
            "model. Take --out served/model.",
        ),
    ],
)
def test_settings_that_cannot_be(given, message):
    with raises_exactly(ConfigError, message):
        ExportSettings(**({"adapter": "a", "out": "served"} | given))
