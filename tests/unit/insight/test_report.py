"""The report on prompts and the callback that makes it while they train."""

import json
import sys

import pytest
import torch
from models import clips, prompted
from transformers import Trainer, TrainingArguments

from apt_peft.insight import (
    PromptCallback,
    PromptReport,
    gradient_norms,
    prompt_attention,
    prompt_report,
    prompt_states,
)
from apt_peft.insight.report import short_names

BATCHES = [{"pixel_values": clips(3)}]


def test_the_report_is_what_the_functions_say(tmp_path):
    model = prompted(num_prompt_tokens_pattern={r"layer\.1\.attention\.attention": 2})
    report = prompt_report(model, BATCHES, dead_below=0.9)
    attention, states = prompt_attention(model, BATCHES), prompt_states(model)
    assert [row["module"] for row in report.rows] == list(attention)
    for row, found, state in zip(report.rows, attention.values(), states.values(), strict=True):
        assert row["attention"] == found.mass
        assert row["uniform"] == found.uniform_mass
        assert row["dead"] == int(found.dead(0.9).sum())
        assert {name: row[name] for name in state} == state
        assert (row["backbone_key_rms"], row["backbone_value_rms"]) == (found.key_rms, found.value_rms)
    assert [row["prompts"] for row in report.rows] == [5, 2, 5]
    report.save(tmp_path / "made")
    assert json.loads((tmp_path / "made" / "prompts.json").read_text()) == report.to_dict()
    assert (tmp_path / "made" / "prompts.png").read_bytes()[:4] == b"\x89PNG"


def test_the_table():
    row = {
        "module": "a.3.b", "layer": "3", "prompts": 1000, "attention": 0.12345, "uniform": 0.5, "dead": 7,
        "key_rank": 3.14159, "value_rank": 12.0, "key_rms": 0.5, "value_rms": 3.0, "backbone_key_rms": 2.0,
        "backbone_value_rms": 1.5,
    }  # fmt: skip
    assert PromptReport((row,), 0.1).text().splitlines() == [
        "layer      P  attention on prompts  if uniform  dead  rank of keys  rank of values  keys, rms  values, rms",
        "3      1,000               12.35 %     50.00 %     7           3.1            12.0      0.25x        2.00x",
    ]


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith(("matplotlib.", "apt_peft.insight.plots"))]:
        monkeypatch.delitem(sys.modules, name)
    prompt_report(prompted(), BATCHES).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.json"]


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["a.layer.0.b.c", "a.layer.1.b.c"], ["0", "1"]),
        (["a.0.time.b", "a.0.space.b", "a.1.space.b"], ["0.time", "0.space", "1.space"]),
        (["alone.b"], ["alone.b"]),
        (["x1.a", "x12.a"], ["x1", "x12"]),
    ],
)
def test_names(names, short):
    assert short_names(names) == short


class Watch(PromptCallback):
    """Notes the norms before each step beside what the callback does."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.norms = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.norms.append(gradient_norms(model))
        super().on_pre_optimizer_step(args, state, control, model=model, **kwargs)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_a_training_watched_and_not_changed(tmp_path):
    data = [{"pixel_values": clip, "labels": index % 3} for index, clip in enumerate(clips(6))]

    def trained(callbacks):
        torch.manual_seed(0)
        model = prompted(prompt_dropout=0.2, init_weights=True)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "out"), num_train_epochs=2, per_device_train_batch_size=3, learning_rate=0.1,
            report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no", label_names=["labels"], seed=0,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=data, callbacks=callbacks).train()
        return model

    watch = Watch(BATCHES, path=tmp_path / "records.jsonl", epochs=True)
    model, plain = trained([watch]), trained([])
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
    assert [(record["when"], record["step"]) for record in watch.records] == [
        ("start", 0), ("epoch", 2), ("epoch", 4), ("end", 4),
    ]  # fmt: skip
    assert watch.records[0]["gradient_norms"] == {} == watch.records[3]["gradient_norms"]
    for record, norms in ((watch.records[1], watch.norms[:2]), (watch.records[2], watch.norms[2:])):
        for layer, kinds in record["gradient_norms"].items():
            assert kinds == pytest.approx({kind: (norms[0][layer][kind] + norms[1][layer][kind]) / 2 for kind in kinds})
            assert set(kinds) == {"key", "value", "scale"}
    assert watch.records[3]["layers"] == list(prompt_report(model, BATCHES).rows)
    assert watch.records[0]["layers"] != watch.records[3]["layers"]
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == json.loads(json.dumps(watch.records))
