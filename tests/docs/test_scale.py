"""docs/scale.md: its tables are what the script prints, its measurements what the file holds, and its formulas what models do."""

import json
import re
import runpy
import sys

import pytest
import torch
from pages import DOCS, ROOT
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from apt_peft import AttentionPromptConfig

SCRIPT = ROOT / "examples" / "benchmarks" / "scale.py"
PAGE = (DOCS / "scale.md").read_text(encoding="utf-8")
MEASURED = [json.loads(line) for line in (DOCS / "results" / "scale.jsonl").read_text(encoding="utf-8").splitlines()]
SCALE = runpy.run_path(str(SCRIPT))


@pytest.fixture
def printed(monkeypatch, capsys):
    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
        SCALE["main"]()
        return capsys.readouterr().out

    return run


def test_the_tables_of_the_page(printed):
    tables = re.findall(r"^\|.*?(?=^$)", printed(), re.MULTILINE | re.DOTALL)
    assert len(tables) == 5
    for table in tables:
        assert table in PAGE


def test_the_example_of_a_cost(printed):
    row = next(line for line in printed("--gpu-price", "2", "--core-price", "0.05").splitlines() if "g +" in line)
    assert f"{row.split(' | ')[-1].rstrip(' |')}" in PAGE


def test_what_was_measured():
    decoded = [row for row in MEASURED if row["what"] == "decode"]
    for row in decoded:
        line = f"| {row['clips']} | {row['megabytes']} | {row['frames']} x {row['size']}^2 | {row['clips_per_cpu_second']} |"
        assert line in PAGE
    for row in (row for row in MEASURED if row["what"] == "adapters"):
        shown = f"| {row['adapters']} | {row['add_per_forward']} | {row['switch_per_forward']} | {row['told_per_forward']} |"
        assert shown in PAGE
        assert row["bytes_per_adapter"] == 4 * sum(SCALE["BACKBONES"]["ViT-S"].adapter(100, 101))
    source = SCRIPT.read_text(encoding="utf-8")
    yoga = next(row for row in decoded if row["clips"] == "yoga6" and row["size"] == 224)
    assert f'"--decode-clips", type=float, default={yoga["clips_per_cpu_second"]}' in source
    rows = next(row for row in MEASURED if row["what"] == "predictions")
    assert f'"--row-bytes", type=float, default={round(rows["bytes_per_row"])}' in source
    assert f"{rows['restart_seconds']} s for {rows['rows']:,} rows" in PAGE


@pytest.mark.parametrize("name", ["ViT-S", "ViT-B"])
def test_formulas_against_a_model(name):
    """Multiply-adds as torch counts them, and numbers as the model has them, on the meta device: nothing is computed."""
    backbone, prompts, labels = SCALE["BACKBONES"][name], 100, 101
    config = VideoMAEConfig(
        hidden_size=backbone.width,
        num_hidden_layers=backbone.layers,
        num_attention_heads=backbone.width // 64,
        intermediate_size=4 * backbone.width,
        use_mean_pooling=True,
        num_labels=labels,
        attn_implementation="eager",
    )
    with torch.device("meta"):
        base = VideoMAEForVideoClassification(config).eval()
        clip = torch.empty(1, backbone.frames, 3, backbone.size, backbone.size)
    assert clip.numel() == backbone.clip
    head = backbone.width * labels
    for added, model in ((0, base), (prompts, None)):
        if model is None:
            model = get_peft_model(base, AttentionPromptConfig(num_prompt_tokens=prompts)).eval()
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            assert trained == sum(backbone.adapter(prompts, labels))
        else:
            of_head = head + labels + 2 * backbone.width
            assert sum(p.numel() for p in base.parameters()) - of_head == backbone.parameters
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(clip)
        assert counter.get_total_flops() == 2 * (backbone.macs(added) + head)
