"""Two processes (gloo, CPU) against one: the same losses, the same adapter, and what happens when one of them dies."""

import importlib.util
import json
import re
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from architectures import AVAILABLE
from clips import write_classes, write_clip
from helpers import raises_exactly
from launching import LAUNCHED, ROOT, finish, launch_environment, start
from models import tiny_videomae
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification

from apt_peft import ConfigError
from apt_peft.training import checkpoints
from apt_peft.training.settings import TrainSettings
from apt_peft.training.train import train

CLASSES = ("down", "left", "up")
EXAMPLE = ROOT / "examples" / "train_accelerate.py"
ZERO = [f"zero{stage}" for stage in (1, 2, 3)] if importlib.util.find_spec("deepspeed") else []


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A backbone, and 13 training and 5 test clips: the last batch of each has fewer clips than there are processes."""
    root = tmp_path_factory.mktemp("processes")
    size = {"num_frames": 6, "width": 32, "height": 24}
    write_classes(root / "clips" / "train", CLASSES, clips=4, **size)
    write_clip(root / "clips" / "train" / "up" / "up_9.mp4", seed=99, **size)
    write_classes(root / "clips" / "test", CLASSES, clips=2, **size)
    (root / "clips" / "test" / "up" / "up_1.mp4").unlink()
    tiny_videomae(num_labels=2).save_pretrained(root / "tiny")
    shutil.copytree(root / "clips", root / "damaged")
    (root / "damaged" / "train" / "left" / "left_1.mp4").write_bytes(b"no video")
    for clip in (root / "damaged" / "test").rglob("*.mp4"):
        if clip.name != "up_0.mp4":  # one is left, for two processes
            clip.write_bytes(b"no video")
    return root


def report(process, path: Path) -> tuple[list[list[dict]], str]:
    """What each step of `launched.py` found in each process, and what was printed."""
    printed = finish(process)
    assert process.returncode == 0, printed
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()], printed


def same_adapter(one: Path, other: Path, tolerance: float = 1e-4) -> None:
    """Compare two adapters. AdamW, whose first steps are as long as the rate (0.1), makes more of rounding than losses do."""
    wanted, got = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert wanted.keys() == got.keys()
    for name, tensor in wanted.items():
        assert got[name].shape == tensor.shape
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


# ------------------------------------------------------------------------------------------------------- the example


def words(place: Path, out: str, *more: str) -> list[str]:
    places = ["--model", str(place / "tiny"), "--data", str(place / "clips"), "--out", str(place / out)]
    return [*places, "--num-prompt-tokens", "3", "--epochs", "3", "--prompt-dropout", "0", *more]


ROADS = {
    "DDP": ([], ""),
    "DDP, data": (["--init-weights", "data"], ""),
    "FSDP2": (["--shard"], ""),
    "FSDP2 by Accelerate": ([], "FSDP"),
    **{f"DeepSpeed {name}": ([], "DEEPSPEED") for name in ZERO},
}


@pytest.fixture(scope="module")
def examples(place) -> tuple[dict[str, list[dict]], str]:
    """The example on every road in two processes, each with half of the batch; and every architecture."""
    steps = {}
    for name, (more, road) in ROADS.items():
        config = {"FSDP": "fsdp2", "DEEPSPEED": name.partition(" ")[2]}.get(road)
        told = launch_environment(ROOT / "examples" / "configs" / f"{config}.yaml") if config else {}
        told |= {
            "ACCELERATE_MIXED_PRECISION": "no",
            "ACCELERATE_USE_FSDP": "false",
        }  # float32: to be compared with one process
        line = words(place, name, "--batch-size", "2", *more)
        steps[name] = {"do": "example", "words": line, "road": road, "environment": told}
    for architecture in AVAILABLE:
        for way in ("DDP", "FSDP2"):
            steps[architecture, way] = {"do": "architecture", "name": architecture, "way": way}
    path = place / "examples.jsonl"
    found, printed = report(start(LAUNCHED, path, *map(json.dumps, steps.values())), path)
    return dict(zip(steps, found, strict=True)), printed


@pytest.fixture(scope="module")
def alone(place):
    """The example in this process, with the whole batch: what it prints, by road."""
    printed: dict[str, str] = {}

    def run(name: str, *more: str) -> str:
        if name not in printed:
            with pytest.MonkeyPatch.context() as patch:
                lines: list[str] = []
                patch.setattr(sys, "argv", ["train_accelerate.py", *words(place, name, "--batch-size", "4", *more)])
                patch.setattr("builtins.print", lambda *parts, **_: lines.append(" ".join(map(str, parts))))
                runpy.run_path(str(EXAMPLE), run_name="__main__")
            printed[name] = "\n".join(lines)
        return printed[name]

    return run


@pytest.mark.parametrize("name", ROADS)
def test_the_example_trains_as_one_process(place, examples, alone, name):
    more, _ = ROADS[name]
    start_from_data = "data" in name
    wanted = alone("one, data", *more) if start_from_data else alone("one")
    one = place / ("one, data" if start_from_data else "one")
    found, printed = examples
    part = printed.partition(f"adapter: {place / name}\n")
    losses = [re.findall(r"^epoch \d: loss ([\d.]+)$", text, re.MULTILINE) for text in (wanted, part[0])]
    assert len(losses[0]) == 3
    assert [float(x) for x in losses[1][-3:]] == pytest.approx([float(x) for x in losses[0]], abs=1e-5)
    assert re.search(r"test top-1 [\d.]+ % of 5 clips", part[2])[0] == wanted.splitlines()[-1]
    assert [kinds["saved"] for kinds in found[name]] == [1, 0], "the first process saves, and no other"
    same_adapter(one, place / name)
    # Whole copies in DDP; DTensors, or DeepSpeed's parts, of every parameter where the model is sharded.
    spread = "FSDP" in name or name.endswith("3")
    for kinds in found[name]:
        assert (kinds["spread"] > 0, kinds["whole"] > 0) == (spread, not spread)
    config, base = (json.loads((place / folder / "adapter_config.json").read_text()) for folder in (name, one.name))
    assert config == base
    model = PeftModel.from_pretrained(AutoModelForVideoClassification.from_pretrained(place / "tiny"), place / name)
    assert model(torch.randn(1, 4, 3, 16, 16)).logits.shape == (1, 3)


@pytest.mark.parametrize("way", ["DDP", "FSDP2"])
@pytest.mark.parametrize("name", AVAILABLE)
def test_every_architecture_trains_as_in_one_process(examples, name, way):
    for found in examples[0][name, way]:
        assert found["moved"] > 1e-6
        assert found["loss"] < 1e-9
        assert found["parameters"] < 1e-9
        assert (found["spread"] > 0, found["whole"] > 0) == (way == "FSDP2", way == "DDP")


# -------------------------------------------------------------------------------------------------- apt-peft train


def settings(place: Path, out: str, **changes) -> dict:
    values = {
        "model": str(place / "tiny"),
        "data": str(place / "clips"),
        "out": str(place / out),
        "epochs": 3,
        "batch_size": 2,
        "num_prompt_tokens": 3,
        "augment": "crop",
        "threads": 1,
        "progress": False,
    }
    return values | changes


LONG = {"epochs": 30}
WEIGHTED = {"class_weights": "balanced", "loss": "focal", "gradient_accumulation_steps": 2, "val_fraction": 0.0}

FEATURES = {"method": "linear", "feature_cache": "auto", "feature_views": 2}


@pytest.fixture(scope="module")
def killed(place) -> Path:
    """The folder of a run in two processes, one of which was killed; the other is seen to end."""
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in settings(place, "killed", **LONG).items()
        if name != "progress"
    ]
    process = start("-m", "apt_peft", "train", *flags, "--no-progress")
    out = place / "killed"
    try:
        until = time.monotonic() + 120
        while (
            process.poll() is None and time.monotonic() < until and checkpoints.choose(out / "checkpoints")[0] is None
        ):
            time.sleep(0.02)
        ranks = {child.environ().get("RANK"): child for child in psutil.Process(process.pid).children()}
        ranks["1"].send_signal(signal.SIGKILL)
    finally:
        printed = finish(process)
    assert process.returncode == 1, printed
    assert "Signal 9 (SIGKILL)" in printed
    assert not ranks["0"].is_running()
    return out


@pytest.fixture(scope="module")
def runs(place, killed) -> tuple[dict[str, list[dict]], str]:
    """Runs of `train` in two processes, one after another."""
    for name in ("of one", "of two"):
        shutil.copytree(killed, place / name)
    (place / "used").mkdir()
    (place / "used" / "thesis.txt").touch()
    steps = {
        "of two": settings(place, "of two", resume=True, **LONG),
        "whole": settings(place, "whole", **LONG),
        "plain": settings(place, "plain", prompt_dropout=0.0),
        "uniform": settings(place, "uniform", prompt_dropout=0.0, sampling="uniform", gradient_accumulation_steps=2),
        "stop": settings(place, "stop", data=str(place / "damaged")),
        "skip": settings(place, "skip", data=str(place / "damaged"), on_error="skip", prompt_dropout=0.0),
        "weighted": settings(place, "weighted", prompt_dropout=0.0, **WEIGHTED),
        "balanced": settings(place, "balanced", prompt_dropout=0.0, balanced_sampling=True, random_erasing=0.5),
        "features": settings(place, "features", **FEATURES),
        "used": settings(place, "used"),
    }
    path = place / "runs.jsonl"
    lines = [json.dumps({"do": "train", "changes": changes}) for changes in steps.values()]
    found, printed = report(start(LAUNCHED, path, *lines), path)
    return dict(zip(steps, found, strict=True)), printed


def history(out: Path) -> list[dict]:
    """Losses and validation scores of each epoch."""
    run = json.loads((out / "run.json").read_text())
    names = ("loss", "eval_top1", "eval_loss", "eval_clips", "learning_rate")
    return [{name: entry[name] for name in names if name in entry} for entry in run["history"]]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("plain", {}),
        ("uniform", {"sampling": "uniform", "gradient_accumulation_steps": 2}),
        ("skip", {"on_error": "skip"}),
        ("weighted", WEIGHTED),  # 13 clips, 4, 4 and 5 of a class: the last step has one, of one process
        ("balanced", {"balanced_sampling": True, "random_erasing": 0.5}),
        ("features", FEATURES),
    ],
)
def test_train_in_two_processes_is_train_with_their_total_batch(place, runs, name, changes):
    data = place / ("damaged" if name == "skip" else "clips")
    one = train(
        TrainSettings(**settings(place, f"{name}, one", batch_size=4, prompt_dropout=0.0, data=str(data), **changes))
    )
    two = place / name
    found = runs[0][name]
    assert found[0] == found[1]
    assert found[0]["top1"] == pytest.approx(one.top1)
    assert (found[0]["validation_top1"] is None) == (one.validation_top1 is None) == (name == "weighted")
    assert one.validation_top1 is None or found[0]["validation_top1"] == pytest.approx(one.validation_top1)
    assert found[0]["skipped"] == list(one.skipped)
    assert len(one.skipped) == (5 if name == "skip" else 0)
    wanted, got = history(one.out), history(two)
    assert len(wanted) == len(got)
    for step, (a, b) in enumerate(zip(wanted, got, strict=True)):
        assert b == pytest.approx(a, abs=1e-5), step
    same_adapter(one.out, two)
    # Each test clip stands there once, and in its order.
    results = [json.loads((out / "evaluation" / "result.json").read_text()) for out in (one.out, two)]
    assert results[0]["clips"] == results[1]["clips"] == (1 if name == "skip" else 5)
    assert [row["clip"] for row in results[0]["mistakes"]] == [row["clip"] for row in results[1]["mistakes"]]
    assert (json.loads((two / "run.json").read_text())["processes"], one.out.exists()) == (2, True)
    assert {path.name for path in two.iterdir()} == {path.name for path in one.out.iterdir()}


def test_what_is_wrong_is_told_in_every_process(place, runs):
    told = {"stop": "DataError: videos (5 of 18) must be readable", "used": "ConfigError: out ("}
    for name, text in told.items():
        errors = runs[0][name]
        assert errors[0] == errors[1]
        assert errors[0]["error"].startswith(text)
    assert not (place / "stop").exists()
    assert [path.name for path in (place / "used").iterdir()] == ["thesis.txt"]


def test_a_process_that_dies_ends_the_others_and_the_last_checkpoint_is_whole(place, killed):
    assert not checkpoints.is_finished(killed)
    checkpoint, _ = checkpoints.choose(killed / "checkpoints")
    states = [torch.load(checkpoint / f"rng_state_{rank}.pth", weights_only=False)["cpu"] for rank in (0, 1)]
    assert not torch.equal(*states), "each process draws masks of its own"
    model = PeftModel.from_pretrained(AutoModelForVideoClassification.from_pretrained(place / "tiny"), checkpoint)
    assert model(torch.randn(1, 4, 3, 16, 16)).logits.isfinite().all()


def test_a_killed_run_resumes_bit_for_bit(place, runs):
    found, _ = runs
    assert found["of two"] == found["whole"]
    same_adapter(place / "whole", place / "of two", tolerance=0.0)
    assert history(place / "whole") == history(place / "of two")
    assert len([entry for entry in history(place / "whole") if "loss" in entry]) == LONG["epochs"]


def test_a_run_is_not_continued_in_another_number_of_processes(place, runs):
    with raises_exactly(
        ConfigError,
        "resume (True) must go on with the same run, but processes was 2 and is 1. "
        "Repeat its settings, or choose another --out.",
    ):
        train(TrainSettings(**settings(place, "of one", resume=True, **LONG)))
