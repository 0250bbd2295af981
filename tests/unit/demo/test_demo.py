"""The demo end to end, few clips and one epoch: folders, table, picture, and the same numbers from `evaluate`."""

import json

import pytest
from helpers import raises_exactly

from apt_peft.cli import main
from apt_peft.demo.command import DemoResult, MethodResult, demo, table
from apt_peft.demo.settings import DemoSettings
from apt_peft.errors import ConfigError, MissingExtraError

FEW = {"train_clips": 64, "test_clips": 64, "epochs": 1, "progress": False, "threads": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    return demo(DemoSettings(out=str(out), seed=4, **FEW)), out


def test_it_leaves_clips_adapters_results_and_a_picture(finished):
    result, out = finished
    assert sorted(path.name for path in out.iterdir()) == ["apt", "clips", "demo.png", "linear", "results.json"]
    assert len(list((out / "clips/train").glob("*/*.mp4"))) == len(list((out / "clips/test").glob("*/*.mp4"))) == 64
    for name in ("apt", "linear"):
        assert (out / name / "adapter_model.safetensors").is_file()
        run = json.loads((out / name / "run.json").read_text())
        assert run["data"]["clips"] == {"training": 64, "validation": 0, "test": 64}
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    saved = json.loads((out / "results.json").read_text())
    assert [method["top1"] for method in saved["methods"]] == [method.top1 for method in result.methods]


def test_its_parts_add_up(finished):
    result, out = finished
    assert [method.name for method in result.methods] == ["linear", "apt"]
    linear, apt = result.methods
    assert linear.trained_parameters == 8 * 128 + 8 + 2 * 128
    assert apt.trained_parameters > linear.trained_parameters
    for method in result.methods:
        saved = json.loads((out / method.name / "evaluation/result.json").read_text())
        assert method.top1 == pytest.approx(saved["top1"], abs=0.01)
        low, high = sorted([method.top1_red_larger, method.top1_red_smaller])
        assert low <= method.top1 <= high
        assert method.seconds > method.training_seconds > 0


def test_the_command_prints_the_table(finished, tmp_path, capsys):
    out = tmp_path / "again"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in FEW.items() if name != "progress"]
    assert main(["demo", f"--out={out}", "--seed=4", "--no-progress", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Task: two shapes move")
    at = next(index for index, line in enumerate(lines) if line.startswith("method"))
    again = json.loads((out / "results.json").read_text())["methods"]
    assert [method["top1"] for method in again] == [method.top1 for method in finished[0].methods]
    assert lines[at + 1].split() == [
        "linear",
        "probe",
        "1,288",
        f"{again[0]['top1']:.1f}",
        "%",
        lines[at + 1].split()[-1],
    ]
    assert lines[at + 3].endswith(f"Picture: {out}/demo.png")


def test_the_table():
    methods = (
        MethodResult("linear", "linear probe", 1288, 50.25, 90.0, 10.5, 12.4, 8.0, {}),
        MethodResult("apt", "attention prompts", 51208, 70.0, 92.0, 48.0, 31.6, 25.0, {}),
    )
    assert table(DemoResult("out", 0, 512, 512, 5.0, methods)).splitlines() == [
        "method             trained parameters   top-1  seconds",
        "linear probe                    1,288  50.2 %       12",
        "attention prompts              51,208  70.0 %       32",
    ]


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    message = f"out ({tmp_path}) must be a new or empty folder, but there is something in it. Delete it, or choose another --out."
    with raises_exactly(ConfigError, message):
        demo(DemoSettings(out=str(tmp_path), **FEW))
    with raises_exactly(ConfigError, message.replace(str(tmp_path), str(tmp_path / "note.txt"))):
        demo(DemoSettings(out=str(tmp_path / "note.txt"), **FEW))
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_bad_settings_are_named_together():
    message = (
        "3 settings are wrong:\n  seed (-1) must be at least 0 and at most 2147483647.\n"
        "  train_clips (63) must be at least 64.\n  epochs (0) must be at least 1."
    )
    with raises_exactly(ConfigError, message):
        DemoSettings(seed=-1, train_clips=63, epochs=0)


def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch):
    import apt_peft.errors

    def absent(name, *args, **kwargs):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(apt_peft.errors.importlib, "import_module", absent)
    message = "av must be installed for this, but it is not. Run: pip install 'apt-peft[train]'"
    with raises_exactly(MissingExtraError, message):
        demo(DemoSettings(out=str(tmp_path / "out"), **FEW))
    assert not (tmp_path / "out").exists()
