"""The examples run as scripts do, for real, on tiny clips and a tiny backbone."""

import ast
import re
import runpy
import sys

import pytest
import torch
from pages import BACKBONE, ROOT
from peft import PeftModel
from transformers import AutoModelForVideoClassification

from apt_peft.cli import main

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
QUICK = ["--model", BACKBONE, "--data", "clips", "--num-prompt-tokens", "3", "--epochs", "2", "--batch-size", "4"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run an example with some words of a command line, and return what it prints."""

    def run(name: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *words])
        capsys.readouterr()
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_help_shows_the_docstring(path, run, capsys):
    with pytest.raises(SystemExit) as left:
        run(path.name, "--help")
    assert left.value.code == 0
    shown = capsys.readouterr().out
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert docstring.splitlines()[0] in shown
    assert f"python examples/{path.name}" in docstring
    assert len(path.read_text(encoding="utf-8").splitlines()) < 200


def prompts_moved(adapter: str) -> bool:
    """Whether an adapter's scales left 1, where they start."""
    base = AutoModelForVideoClassification.from_pretrained(BACKBONE)
    model = PeftModel.from_pretrained(base, adapter)
    scales = [value for name, value in model.named_parameters() if "attention_prompt_scale" in name]
    return len(scales) == 3 and any((scale != 1).any() for scale in scales)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("train_trainer.py", []),
        ("train_accelerate.py", []),
        ("train_accelerate.py", ["--init-weights", "data"]),
    ],
    ids=["trainer", "accelerate", "accelerate, data"],
)
def test_training(place, run, name, more, capsys):
    printed = run(name, *QUICK, "--out", "out", *more)
    assert "adapter: out" in printed
    assert re.search(r"test top-1 \d+\.\d % of 6 clips", printed)
    assert prompts_moved("out")
    assert main(["evaluate", "--adapter", "out", "--data", "clips", "--no-progress", "--out", "tables"]) == 0, (
        capsys.readouterr().err
    )


def test_one_process_has_nobody_to_share_a_model_with(place, run):
    with pytest.raises(SystemExit) as left:
        run("train_accelerate.py", *QUICK, "--out", "out", "--shard")
    assert left.value.code == "--shard must have several processes, but there is one. Start them by torchrun."
    assert not (place / "out").exists()


def test_push_and_load(place, run, capsys):
    flags = ["--num-prompt-tokens", "3", "--epochs", "3", "--no-progress", "--threads", "1"]
    assert main(["train", "--model", BACKBONE, "--data", "clips", "--out", "first", *flags]) == 0
    clip = "clips/test/sit/sit_1.mp4"
    printed = run("push_and_load.py", "--adapter", "first", "--out", "copy", "--clip", clip)
    assert "both loaded models give the same logits for ['jump', 'sit', 'wave']" in printed
    assert (place / "copy" / "README.md").read_text() == (place / "first" / "README.md").read_text()
    # The pipeline sees the frames that `apt-peft predict` takes, and scores them alike.
    assert main(["predict", "--adapter", "first", clip, "--no-progress"]) == 0
    scores = re.findall(r"[\d.]+ %  \w+", printed)
    assert len(scores) == 3
    assert scores == re.findall(r"[\d.]+ %  \w+", capsys.readouterr().out)


def test_convert_reference(tmp_path, run):
    (tmp_path / "labels.txt").write_text("wave\nnod\njump\nsit\nrun\nturn\nbow\n")
    source = ROOT / "tests" / "fixtures" / "golden" / "apt_all_layers.pth"
    torch.manual_seed(0)
    printed = run("convert_reference.py", str(source), str(tmp_path / "out"), "--labels", str(tmp_path / "labels.txt"))
    assert "missing: none" in printed
    assert re.search(r"logits of a random clip: \(1, 7\), best label (wave|nod|jump|sit|run|turn|bow)\n", printed)


def test_the_benchmark_of_hot_swapping_runs(tmp_path, run):
    threads = str(torch.get_num_threads())
    small = ["--layers", "1", "--width", "64", "--rounds", "1", "--threads", threads]
    printed = run("benchmarks/hotswap.py", *small, "--out", str(tmp_path / "out.jsonl"))
    assert re.search(r"P = 100: hotswap / load = \d\.\d+x \(median of 1, cpu, float32, \d+ threads\)\n", printed)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_the_profile_of_a_step_runs(tmp_path, run):
    small = ["--layers", "1", "--frames", "2", "--image-size", "32", "--rounds", "1"]
    before = torch.get_num_threads()
    try:
        printed = run("benchmarks/step_profile.py", *small, "--out", str(tmp_path / "out.jsonl"))
    finally:
        torch.set_num_threads(before)
    assert re.search(
        r"training step: apt P=400 / full = \d+\.\d\dx \(median of 1, cpu, float32, 1 threads\): attention ", printed
    )
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4
