"""`apt-peft cost`: what it prints and writes, sides in turns, and peaks of processes."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import raises_exactly
from models import videomae_config
from transformers import VideoMAEConfig

from apt_peft import ConfigError
from apt_peft.cli import main
from apt_peft.commands.cost import CostSettings, dots
from apt_peft.cost import peak
from apt_peft.cost.arithmetic import VIT_S, Shapes, multiply_adds, total
from apt_peft.cost.contenders import Contender, build, config_of, contenders, example
from apt_peft.cost.curves import FRAMES, PROMPTS, curve_rows
from apt_peft.cost.measure import Place, baselines_of, in_turns, ratio, seconds, sides_of, training_step
from apt_peft.cost.memory import saved_bytes

TINY = Shapes(hidden=32, layers=3, heads=2, mlp=64, image=(16, 16), patch=(8, 8), frames=4, labels=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    place = tmp_path_factory.mktemp("backbone")
    videomae_config().save_pretrained(place)
    return str(place)


def rows(capsys, *words: str) -> list[dict]:
    assert main(["cost", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_rows_from_a_folder(folder, capsys):
    words = [
        "--methods",
        "bare",
        "apt",
        "lora:2",
        "--prompts",
        "5",
        "7",
        "--layers-to-transform",
        "2",
        "1",
        "--frames",
        "4",
        "8",
    ]
    found = rows(capsys, "--model", folder, *words)
    labels = ["bare", "apt P=5", "apt P=5, layers 1-2", "apt P=7", "apt P=7, layers 1-2", "lora r=2"]
    assert [(row["label"], row["frames"]) for row in found] == [(text, n) for n in (4, 8) for text in labels]
    for row in found:
        shapes = TINY.changed(frames=row["frames"])
        layers = row["layers_to_transform"]
        parts = multiply_adds(shapes, row["method"], row["size"] or 0, layers)
        assert row["forward"] == sum(forward for forward, _ in row["multiply_adds"].values()) == total(parts).forward
        assert row["tokens"] == shapes.tokens
        if row["method"] == "bare":
            assert (row["step"], row["kept_bytes"]) == (None, None)
            continue
        assert row["step"] == total(parts).step
        kept = saved_bytes(Contender(row["method"], row["size"], layers and tuple(layers)), shapes).total
        assert row["kept_bytes"] == kept
        assert row["kept_bytes / lora r=8"] == kept / saved_bytes(Contender("lora", 8), shapes).total


def test_the_table_lines_files_and_pictures(folder, tmp_path, capsys):
    before = torch.get_num_threads()
    words = [
        "--methods",
        "bare",
        "apt",
        "full",
        "--prompts",
        "5",
        "--measure",
        "forward",
        "step",
        "--rounds",
        "1",
        "--threads",
        "2",
    ]
    assert main(["cost", "--model", folder, *words, "--out", str(tmp_path / "cost")]) == 0
    assert torch.get_num_threads() == before
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:5]] == ["method", "bare", "apt P=5", "full"]
    ratios = [line.partition(" = ")[0] for line in lines if " = " in line]
    assert ratios == [
        "forward: bare / lora r=8",
        "forward: apt P=5 / bare",
        "forward: apt P=5 / lora r=8",
        "forward: apt P=5 / published P=5",
        "forward: full / bare",
        "forward: full / lora r=8",
        "training step: apt P=5 / full",
        "training step: apt P=5 / lora r=8",
        "training step: apt P=5 / published P=5",
        "training step: full / lora r=8",
    ]
    assert lines[-1].endswith("(median of 1, cpu, float32, 2 threads)")
    written = [json.loads(line) for line in (tmp_path / "cost" / "cost.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in written].count("measured") == len(ratios)
    assert {row["over"] for row in written if row["kind"] == "curve"} == {"prompts", "frames", "image_size"}
    pictures = sorted(path.name for path in (tmp_path / "cost").iterdir() if path.suffix != ".jsonl")
    assert pictures == sorted(
        f"over_{over}.{kind}" for over in ("prompts", "frames", "image_size") for kind in ("png", "svg")
    )
    for path in (tmp_path / "cost").glob("*.svg"):
        assert "<svg" in path.read_text(encoding="utf-8")
    assert shown.err == f"wrote {tmp_path / 'cost' / 'cost.jsonl'} and 6 pictures\n"


def test_curves_are_of_the_arithmetic():
    points = curve_rows(VIT_S, 100, 8)
    assert len(points) == 3 * (len(PROMPTS) + len(FRAMES) + 7)
    for row in points:
        shapes = VIT_S
        if row["over"] != "prompts":
            shapes = VIT_S.changed(**{"frames" if row["over"] == "frames" else "image": row["value"]})
        assert row["tokens"] == shapes.tokens
        count = row["value"] if row["over"] == "prompts" and row["method"] != "lora" else row["size"]
        assert row["forward"] == total(multiply_adds(shapes, row["method"], count)).forward


def test_dots_lie_on_the_curve_that_they_belong_to():
    flags = CostSettings(prompts=(100, 400))
    row = {
        "kind": "measured", "what": "forward", "method": "apt", "size": 100, "layers_to_transform": None, "frames": 16,
        "image_size": [224, 224], "baseline": "bare", "ratio": 1.04,
    }  # fmt: skip
    point = {"method": "apt", "ratio": 1.04}

    def found(**changes):
        return dots(VIT_S, [row | changes], flags)

    panel = "forward / bare"
    assert found() == {
        ("prompts", panel): [point | {"value": 100}],
        ("frames", panel): [point | {"value": 16}],
        ("image_size", panel): [point | {"value": 224}],
    }
    assert found(size=400) == {("prompts", panel): [point | {"value": 400}]}
    assert found(frames=32) == {("frames", panel): [point | {"value": 32}]}
    assert found(image_size=[112, 112]) == {("image_size", panel): [point | {"value": 112}]}
    assert found(image_size=[112, 112], frames=32) == found(layers_to_transform=[3]) == found(baseline="full") == {}
    assert next(iter(found(what="training step", baseline="lora r=8"))) == ("prompts", "step / lora")


def test_sides_run_in_turns_and_ratios_are_within_a_round(monkeypatch):
    ran: list[str] = []
    clock = iter(range(1000))
    taken = {"a": 3.0, "b": 2.0}
    monkeypatch.setattr(
        "apt_peft.cost.measure.seconds", lambda run, device: run() or taken[ran[-1]] * (1 + next(clock) // 2)
    )
    table = in_turns({name: (lambda name=name: ran.append(name)) for name in taken}, 9, "cpu")
    assert ran[:2] == ["a", "b"]
    turns = [tuple(ran[at : at + 2]) for at in range(2, len(ran), 2)]
    assert len(turns) == 9
    assert set(turns) == {("a", "b"), ("b", "a")}
    assert ratio(table, "a", "b") == 1.5  # each round is slower than the one before it, for both sides


@pytest.mark.parametrize(("threads", "counted"), [(1, False), (2, True)])
def test_with_one_thread_the_time_is_what_the_process_computes(threads, counted):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = seconds(lambda: time.sleep(0.2), "cpu")
    finally:
        torch.set_num_threads(before)
    assert (found >= 0.2) == counted


def test_baselines():
    apt = Contender("apt", 100, (11,))
    assert [side.label for side in baselines_of(apt, "forward")] == ["bare", "lora r=8", "published P=100"]
    assert [side.label for side in baselines_of(apt, "step")] == ["full", "lora r=8", "published P=100"]
    assert [side.label for side in baselines_of(Contender("lora", 8), "step")] == ["full"]
    assert [side.label for side in sides_of([Contender("bare"), apt], "step")] == [
        "apt P=100, layer 11", "full", "lora r=8", "published P=100",
    ]  # fmt: skip


def test_a_step_trains_what_the_method_trains_and_nothing_else():
    torch.manual_seed(0)
    for contender in (Contender("apt", 5), Contender("vpt-deep", 5), Contender("published", 5), Contender("linear")):
        model = build(contender, TINY)
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        step = training_step(model, example(TINY, batch=2))
        step()
        moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert moved


def test_the_published_design_has_eager_attention():
    for method, wanted in (("apt", "sdpa"), ("published", "eager")):
        assert build(Contender(method, 5), TINY).config._attn_implementation == wanted


def test_a_config_of_shapes_has_these_shapes():
    changed = {"tubelet": 4, "channels": 1, "labels": 7, "query_value_bias": False, "patch": (8, 4), "image": (16, 8)}
    for shapes in (TINY, TINY.changed(**changed)):
        assert Shapes.of_config(config_of(shapes, "sdpa")) == shapes
    assert Shapes.of_config(VideoMAEConfig(num_labels=101)) == Shapes(hidden=768, heads=12, mlp=3072)


@pytest.mark.skipif(not peak.CLEAR.exists(), reason="no peak of a process that can be set back")
def test_a_process_tells_what_a_step_adds():
    shapes = TINY.changed(hidden=64, mlp=256, image=(128, 128), frames=8)  # 1024 tokens
    found = {method: peak.added_by_step(Contender(method, 5), shapes, Place()) for method in ("apt", "published")}
    kept = {method: saved_bytes(Contender(method, 5), shapes).total for method in found}
    for method in found:
        assert 0.8 * kept[method] < found[method] < 3 * kept[method]
    assert found["published"] > 2 * found["apt"]


@pytest.mark.skipif(not peak.CLEAR.exists(), reason="no peak of a process that can be set back")
def test_a_process_that_fails_is_told():
    with raises_exactly(
        ConfigError,
        "measure (memory) of apt must end well, but its process ended with 1: apt_peft.errors.ConfigError: size (0) of apt must "
        "be a whole number from 1 on. Try a smaller batch.",
    ):
        peak.added_by_step(Contender("apt", 0), TINY, Place())


def test_where_no_peak_can_be_told(monkeypatch):
    monkeypatch.setattr(peak, "CLEAR", Path("/nowhere/clear_refs"))
    with raises_exactly(
        ConfigError,
        f"measure (memory) must be on CUDA or Linux, but {sys.platform} tells no peak of a process that can be set back. "
        "Leave memory out; the bytes that autograd keeps are counted everywhere.",
    ):
        peak.check_peak("cpu")
    peak.check_peak("cuda:0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model", "vit-x"],
            "model (vit-x) must be one of vit-s, vit-b, vit-l, or a folder with a config.json, but there is none. "
            "Check the path.",
        ),
        (["--frames", "15"], "frames (15) must be a multiple of the tubelet's 2 frames."),
        (["--image-size", "220"], "image_size (220) must be a multiple of the patch's 16 pixels."),
        (["--measure", "time"], "measure (['time']) must name forward, step or memory."),
        (["--prompts", "0"], "prompts ([0]) must be one number or more, all from 1 on."),
        (["--methods", "lora:x"], "methods (lora:x) must have a whole number behind the colon, such as lora:8."),
        (
            ["--methods", "lora", "--layers-to-transform", "4"],
            "layers_to_transform ([4]) must go with attention prompts, but methods has none. Add apt to --methods.",
        ),
        (["--methods", "full:2"], "size (2) must be left out for full, which has none."),
        (
            ["--layers", "4", "--layers-to-transform", "4"],
            "layers_to_transform ([4]) must name layers of the backbone's 4, 0 to 3.",
        ),
    ],
)
def test_flags_that_cannot_be(words, message, capsys):
    assert main(["cost", *words]) == 2
    shown = capsys.readouterr()
    assert shown.err == f"error: {message}\n"
    assert shown.out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(capsys):
    assert main(["cost", "--device", "cuda", "--measure", "step"]) == 2
    assert capsys.readouterr().err == (
        "error: device (cuda) must be there, but torch finds no GPU. Leave it out for the CPU.\n"
    )


def test_an_out_that_is_a_file(folder, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert main(["cost", "--model", folder, "--methods", "bare", "--out", str(tmp_path / "taken")]) == 2
    assert capsys.readouterr().err == (
        f"error: out ({tmp_path / 'taken'}) must be a folder that can be written to, but: File exists.\n"
    )


def test_contenders_stand_once():
    found = contenders(["apt", "apt:5", "lora", "vpt-deep:3"], [5, 9], TINY, [2])
    assert [one.label for one in found] == [
        "apt P=5", "apt P=5, layer 2", "apt P=9", "apt P=9, layer 2", "lora r=8", "vpt-deep P=3",
    ]  # fmt: skip
    assert Contender("apt", 1, (9, 0, 10, 11)).label == "apt P=1, layers 0, 9-11"
