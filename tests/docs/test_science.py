"""The harness of docs/science.md (`examples/science`): its tasks, its runs, and that the page's tables are its results."""

import importlib
import json
import sys

import pytest
import torch
from pages import DOCS, ROOT

from apt_peft.demo.settings import BACKBONE

LORA = 12_288  # numbers that LoRA of rank 4 trains beside the head
HEAD = 1_288


@pytest.fixture(scope="module")
def science():
    """Its modules, which import each other as scripts do."""
    folder = str(ROOT / "examples" / "science")
    names = ("plans", "tasks", "variants", "run", "table", "together")
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}  # another script's `run`
    sys.path.insert(0, folder)
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(folder)
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(others)


def trained(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) - HEAD


def test_clips_are_a_function_of_the_seed_and_no_draws_are_shared(science):
    tasks = science["tasks"]
    for task in tasks.TASKS:
        (clips, labels), (again, _) = tasks.draw(task, 8, 3), tasks.draw(task, 8, 3)
        assert torch.equal(clips, again)
        assert clips.shape == (8, 8, 3, 48, 48)
        assert set(labels.tolist()) <= set(range(8))
        assert not torch.equal(clips, tasks.draw(task, 8, 4)[0])


def test_the_faster_shape_moves_as_the_label_says(science):
    """Seen from the pixels: what changes between two frames, moved by the label's direction and speed, changes least."""
    tasks = science["tasks"]
    frames, labels = tasks.faster(64, torch.Generator().manual_seed(0))
    frames = frames.float()
    right = 0
    for clip, label in zip(frames, labels.tolist(), strict=True):
        motion = (clip[1:] - clip[:-1]).abs().mean(-1)  # (T - 1, height, width): large where something moves fast
        angles = torch.arange(8) * torch.pi / 4
        steps = 2.6 * torch.stack([angles.sin(), angles.cos()], 1) * 6  # rows, columns from the first pair to the last
        moved = [torch.roll(motion[0], tuple(step.round().int().tolist()), (0, 1)) for step in steps]
        right += int(torch.stack([(each * motion[-1]).sum() for each in moved]).argmax()) == label
    assert right > 38  # of 64; chance is 8


def test_prototypes_begin_at_the_identity_and_learn(science, monkeypatch):
    variants, tasks = science["variants"], science["tasks"]
    clips, labels = tasks.draw("red", 4, 0)
    plain = variants.build(str(BACKBONE), {"method": "apt", "seed": 0, "prompts": 2, "lr": 0.1}, clips)
    kinds = {"query_mix": 2, "value_mix": 1, "value_mix_from_keys": 1, "value_gate": 2, "mix_nonlinear": True,
             "query_affine": "sb", "value_affine": "sb"}  # fmt: skip
    run = {"method": "apt", "seed": 0, "prompts": 2, "lr": 0.1, "norms": True, "biases": True, **kinds}
    model = variants.build(str(BACKBONE), run, clips)
    assert torch.allclose(model.eval()(clips).logits, plain.eval()(clips).logits, atol=1e-6)
    optimizer = variants.optimizer_of(model, run)
    for _ in range(2):  # what is zero at the start lets no gradient through to its partner in the first step
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(clips).logits, labels).backward()
        optimizer.step()
    gone = [
        name for name, p in model.named_parameters() if p.requires_grad and not p.grad.any() and "scale" not in name
    ]
    assert gone == []


def test_what_is_compared_trains_no_more_than_lora(science):
    plans, variants, tasks = science["plans"], science["variants"], science["tasks"]
    clips, _ = tasks.draw("red", 32, 0)
    compared = [plans.lora(0.01), plans.OTHERS[0], *plans.CHOSEN, plans.OTHERS[-1]]
    counts = [trained(variants.build(str(BACKBONE), {"seed": 0, **run}, clips)) for run in compared]
    assert counts == [LORA, LORA, 12_042, 3_072, 0]


def test_a_run_leaves_a_line_and_is_not_made_again(science, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(science["tasks"], "TRAIN_CLIPS", 16)
    monkeypatch.setattr(science["tasks"], "TEST_CLIPS", 8)
    run = {
        "method": "apt",
        "prompts": 2,
        "init": "data",
        "norms": True,
        "lr": 0.1,
        "epochs": 1,
        "batch": 8,
        "part": "test",
    }
    results = tmp_path / "science.jsonl"
    arguments = ["run.py", "--backbone", str(BACKBONE), "--results", str(results), "--one", json.dumps(run)]
    monkeypatch.setattr(sys, "argv", arguments)
    for _ in range(2):
        science["run"].main()
        (line,) = map(json.loads, results.read_text().splitlines())
    assert run.items() <= line.items()
    assert (line["backbone"], line["clips"], len(line["right"])) == ("demo", 8, 8)
    assert line["right"].count("1") == line["correct"]
    assert [set(layer) for layer in line["end"]] == [set(line["start"][0])] * 6


def test_the_page_has_the_tables_of_the_results(science):
    page = (DOCS / "science.md").read_text(encoding="utf-8")
    table = science["table"]
    together = science["together"]
    over_all = together.table(together.real() | together.synthetic())
    assert len(over_all) >= 6
    rows = [
        *over_all,
        *(row for plan in table.VALIDATION for row in table.validation(plan)),
        *table.final(),
        *table.diagnostics(),
    ]
    assert len(rows) > 40
    assert [row for row in rows if row not in page] == []
