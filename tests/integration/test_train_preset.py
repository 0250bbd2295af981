"""`apt-peft train --preset best`, from the command line to the scores of the loaded adapter."""

import json

import pytest

from apt_peft.cli import main
from apt_peft.scoring import EvaluateSettings, evaluate_adapter


def test_trained_recorded_and_scored_again(backbone, data, tmp_path, capsys):
    out = tmp_path / "run"
    given = ["--model", str(backbone), "--data", str(data), "--out", str(out), "--epochs", "1", "--batch-size", "4"]
    more = ["--threads", "1", "--val-fraction", "0", "--cache", "none", "--no-progress", "--key-gate", "4"]
    assert main(["train", "--preset", "best", *given, *more]) == 0
    capsys.readouterr()

    run = json.loads((out / "run.json").read_text())
    assert run["preset"]["name"] == "best"
    assert run["preset"]["overridden"] == {"key_gate": {"from": 15, "to": 4}}
    assert {name: run["settings"][name] for name in ("num_prompt_tokens", "train_norms", "lr", "head_lr")} == {
        "num_prompt_tokens": 4, "train_norms": True, "lr": 0.1, "head_lr": 0.01,
    }  # fmt: skip
    # of each of three layers: norms, prompts with scales, gate; then the head of three classes
    prompts, norms, head = 3 * (4 * (2 * 16 + 2) + 4 * (16 + 1)), 3 * 4 * 32, 2 * 32 + 33 * 3
    assert run["trained_parameters"] == prompts + norms + head
    card = (out / "README.md").read_text()
    assert f"{prompts:,} in prompts, {norms:,} in norms, {head:,} in the head" in card
    assert "| preset | `best`, but `key_gate 4` |" in card
    assert "| norms | those of the prompted blocks are trained, an addition |" in card

    settings = EvaluateSettings(
        adapter=str(out), data=str(data), out=str(tmp_path / "again"), threads=1, progress=False
    )
    again, _, _ = evaluate_adapter(settings)
    assert again.top1 == pytest.approx(run["result"]["test"]["top1"], abs=1e-3)
