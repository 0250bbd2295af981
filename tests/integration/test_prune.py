"""`apt-peft prune` and `apt-peft prompts`, and training that starts from an adapter."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import raises_exactly
from models import clips, tiny_videomae
from peft import PeftModel, get_peft_model
from runs import let_prompts_matter
from safetensors.torch import load_file
from transformers import VideoMAEForVideoClassification

from apt_peft import AttentionPromptConfig, CheckpointError, ConfigError, DataError
from apt_peft.cli import main
from apt_peft.evaluation import score_all
from apt_peft.insight import prompt_report
from apt_peft.opening import open_adapter
from apt_peft.pruning import choose_prompts, folder, prompt_scores
from apt_peft.pruning.clips import clip_batches, draw_clips
from apt_peft.pruning.folder import PruneSettings, prune_adapter
from apt_peft.scoring import ScoringSettings
from apt_peft.training.datasets import video_dataset
from apt_peft.training.settings import TrainSettings
from apt_peft.training.train import train
from apt_peft.video import Clip, read_data

NAMES = [f"videomae.encoder.layer.{index}.attention.attention" for index in range(3)]


@pytest.fixture(scope="module")
def adapter(backbone, data, tmp_path_factory) -> Path:
    """An adapter as `apt-peft train` leaves it, with prompts and scales that matter."""
    out = tmp_path_factory.mktemp("runs") / "apt"
    settings = {"epochs": 1, "batch_size": 4, "num_prompt_tokens": 8, "threads": 1, "progress": False}
    train(TrainSettings(model=str(backbone), data=str(data), out=str(out), val_fraction=0.25, **settings))
    let_prompts_matter(out)
    return out


def flags(adapter, data, out, **given) -> PruneSettings:
    values = {"keep": 0.5, "progress": False, "device": "cpu", "threads": 1}
    return PruneSettings(adapter=str(adapter), data=str(data), out=str(out), **(values | given))


@pytest.mark.parametrize(
    ("by", "scope"), [("attention", "layer"), ("taylor", "model"), ("removal", "model"), ("random", "layer")]
)
def test_a_pruned_adapter_is_an_adapter(adapter, data, backbone, tmp_path, by, scope):
    out = tmp_path / "pruned"
    result = prune_adapter(flags(adapter, data, out, by=by, scope=scope, keep=0.25, seed=3))
    assert result.prompts == (24, 6)
    record = json.loads((out / "pruning.json").read_text())
    before, after = (load_file(place / "adapter_model.safetensors") for place in (adapter, out))
    for key in NAMES:  # removed by hand
        kept, stem = record["layers"][key]["kept"], f"base_model.model.{key}.attention_prompt_"
        if not kept:
            assert f"{stem}key" not in after
            continue
        assert torch.equal(after[f"{stem}key"], before[f"{stem}key"][kept])
        assert torch.equal(after[f"{stem}value"], before[f"{stem}value"][kept])
        assert torch.equal(after[f"{stem}scale"], before[f"{stem}scale"][:, kept])
    others = {key for key in before if "attention_prompt_" not in key}
    assert all(torch.equal(before[key], after[key]) for key in others)

    # the scores are those of the training clips that the seed draws
    opened = open_adapter(ScoringSettings(adapter=str(adapter), device="cpu"))
    drawn = draw_clips(read_data(data).train, 64, seed=3)
    scores = prompt_scores(opened.model, list(clip_batches(opened, drawn)), by=by, seed=3)
    want = choose_prompts(scores, 0.25, scope=scope)
    assert {key: each["kept"] for key, each in record["layers"].items()} == want
    for key, each in scores.items():
        assert record["layers"][key]["scores"] == pytest.approx(each.tolist(), rel=1e-4)
    # PEFT alone loads it
    base = VideoMAEForVideoClassification.from_pretrained(
        backbone, use_mean_pooling=True, num_labels=3, ignore_mismatched_sizes=True
    )
    loaded = PeftModel.from_pretrained(base, out).eval()
    assert loaded.config.id2label == {0: "down", 1: "left", 2: "up"}
    with torch.no_grad():
        again = open_adapter(ScoringSettings(adapter=str(out), device="cpu")).model(clips()).logits
        torch.testing.assert_close(loaded(clips()).logits, again)
    run = json.loads((out / "run.json").read_text())
    assert run["result"] == {"validation": None, "test": None}
    assert run["pruned"]["prompts_after"] == 6
    card = (out / "README.md").read_text()
    assert "Not evaluated since it was pruned" in card
    assert "6 of 24" in card
    assert main(["predict", "--adapter", str(out), "--no-progress", str(next((data / "test").rglob("*.mp4")))]) == 0


def test_all_kept_gives_the_same_numbers(adapter, data, tmp_path):
    prune_adapter(flags(adapter, data, tmp_path / "pruned", keep=1.0))
    one, other = (load_file(place / "adapter_model.safetensors") for place in (adapter, tmp_path / "pruned"))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    name = "preprocessor_config.json"
    assert (tmp_path / "pruned" / name).read_bytes() == (adapter / name).read_bytes()
    before, after = (json.loads((p / "adapter_config.json").read_text()) for p in (adapter, tmp_path / "pruned"))
    assert {**before, "inference_mode": None} == {**after, "inference_mode": None}


@pytest.mark.parametrize("split", ["held out", "lists"])
def test_the_curve_is_that_of_pruned_adapters(adapter, data, tmp_path, split):
    lists = {}
    if split == "lists":
        lines = {"train": [], "val": []}
        for number, path in enumerate(sorted((data / "train").rglob("*.mp4"))):
            lines["val" if number % 2 else "train"].append(f"{path.relative_to(data)} {path.parent.name}\n")
        for name, rows in lines.items():
            (tmp_path / f"{name}.csv").write_text("".join(rows))
            lists[f"{name}_list"] = str(tmp_path / f"{name}.csv")
    result = prune_adapter(
        flags(adapter, data, tmp_path / "pruned", by="taylor", scope="model", curve=(0.5, 0.125), segments=2, **lists)
    )
    record = json.loads((tmp_path / "pruned" / "pruning.json").read_text())
    assert record["validation_clips"] == (
        "validation split" if split == "lists" else "held out of the training clips as the run did"
    )
    rows = [json.loads(line) for line in (tmp_path / "pruned" / "curve.jsonl").read_text().splitlines()]
    assert rows == list(result.curve)
    assert [(row["by"], row["kept"], row["prompts"]) for row in rows] == [
        ("taylor", 1.0, 24), ("taylor", 0.5, 12), ("taylor", 0.125, 3), ("random", 0.5, 12), ("random", 0.125, 3),
    ]  # fmt: skip
    assert (tmp_path / "pruned" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    # the same from the adapter that was written
    if split == "lists":
        validation = read_data(data, **lists).val
    else:
        from apt_peft.video import hold_out

        _, validation = hold_out(read_data(data).train, 0.25, 0, root=data)
        assert len(validation) == 3
    written = open_adapter(ScoringSettings(adapter=str(tmp_path / "pruned"), segments=2, device="cpu"))
    scores, targets = score_all(written.model, video_dataset(validation, written.clips), batch_size=4)
    correct = int((scores.argmax(1) == targets).sum())
    assert (rows[1]["clips"], rows[1]["correct"]) == (len(validation), correct)
    assert rows[1]["loss"] == pytest.approx(float(torch.nn.functional.nll_loss(scores.log(), targets)), abs=1e-3)


def test_clips_that_were_trained_on_are_told(adapter, data, tmp_path, caplog):
    copied = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    (copied / "run.json").unlink()
    out = tmp_path / "pruned"
    prune_adapter(flags(copied, data, out, curve=(0.5,), size=16, num_frames=4))
    record = json.loads((out / "pruning.json").read_text())
    assert record["validation_clips"] == "held out of clips that the adapter may have been trained on"
    assert not (out / "run.json").exists()
    assert caplog.messages == [
        "There is no validation split, and the adapter's run held none out: the curve is of clips that it may have been "
        "trained on."
    ]


def test_what_is_left_is_trained_further(adapter, data, tmp_path, capsys):
    out = tmp_path / "pruned"
    line = ["prune", str(adapter), "--data", str(data), "--keep", "0.5", "--finetune", "2", "--out", str(out)]
    assert main([*line, "--by", "removal", "--scope", "model", "--no-progress", "--threads", "1"]) == 0
    assert "trained further: test top-1" in capsys.readouterr().out
    pruned, tuned = (load_file(place / "adapter_model.safetensors") for place in (out, out / "finetuned"))
    assert {key: value.shape for key, value in pruned.items()} == {key: value.shape for key, value in tuned.items()}
    assert all(not torch.equal(value, tuned[key]) for key, value in pruned.items() if key.endswith(("key", "value")))
    distance = max(float((value - tuned[key]).abs().max()) for key, value in pruned.items())
    assert distance < 0.5  # it went on from there
    run = json.loads((out / "finetuned" / "run.json").read_text())
    assert run["settings"]["epochs"] == 2
    assert run["start_from"]["prompts_after"] == 12
    first = json.loads((adapter / "run.json").read_text())
    assert run["learning_rates"]["prompts"] == pytest.approx(0.1 * first["learning_rates"]["prompts"])
    assert run["data"]["clips"] == first["data"]["clips"]


def test_nothing_is_left_where_it_fails(adapter, data, tmp_path, monkeypatch):
    for place in ("out", "deep/er/out"):
        with monkeypatch.context() as patch:
            patch.setattr(folder, "write_model_card", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                prune_adapter(flags(adapter, data, tmp_path / place))
        assert not list(tmp_path.iterdir())
    real = folder._logits
    with monkeypatch.context() as patch:
        logits = iter([torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1])])
        patch.setattr(folder, "_logits", lambda *args: next(logits))
        with raises_exactly(
            CheckpointError,
            f"out ({tmp_path / 'out'}) must give the pruned model's logits to 0.0001 of the largest (2), but on random clips "
            "they differ by 0.1. Nothing was written. Please report it.",
        ):
            prune_adapter(flags(adapter, data, tmp_path / "out"))
    assert real is folder._logits
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_pruned(adapter, data, backbone, tmp_path):
    with raises_exactly(
        CheckpointError, f"out ({adapter}) must be new or an empty folder, but it is a folder that is not empty. "
        "Choose another place.",
    ):  # fmt: skip
        prune_adapter(flags(adapter, data, adapter))
    with raises_exactly(
        DataError, f"data ({data / 'test'}) must have the adapter's labels, but it has ['down2']. The adapter knows "
        "['down', 'left', 'up'].",
    ):  # fmt: skip
        labels = tmp_path / "labels.txt"
        labels.write_text("down2\nleft\nup\n")
        lines = "".join(f"{path.relative_to(data / 'test')} 0\n" for path in (data / "test" / "down").glob("*.mp4"))
        (tmp_path / "train.csv").write_text(lines)
        prune_adapter(
            flags(adapter, data / "test", tmp_path / "out", labels=str(labels), train_list=str(tmp_path / "train.csv"))
        )
    bare = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    (bare / "run.json").unlink()
    with raises_exactly(
        ConfigError,
        f"finetune (3) must go on from a run of apt-peft train, but adapter ({bare}) has no run.json. Leave it out, and then: "
        f"apt-peft train --start-from {tmp_path / 'out'}",
    ):
        prune_adapter(flags(bare, data, tmp_path / "out", finetune=3))
    for config, what in (
        (AttentionPromptConfig(target_modules=[]), "it has a head alone"),
        ("lora", "it is of the method LORA"),
    ):
        if config == "lora":
            from peft import LoraConfig

            config = LoraConfig(target_modules=["query"], modules_to_save=["classifier"])
        base = VideoMAEForVideoClassification.from_pretrained(backbone, use_mean_pooling=True)
        get_peft_model(base, config).save_pretrained(tmp_path / what)
        shutil.copyfile(adapter / "run.json", tmp_path / what / "run.json")  # a run's, of any method
        with raises_exactly(
            CheckpointError,
            f"adapter ({tmp_path / what}) must have attention prompts, but {what}. Train one with --method apt.",
        ):
            prune_adapter(flags(tmp_path / what, data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_values_that_break_their_rules(tmp_path, capsys):
    line = ["prune", "adapter", "--data", "clips", "--out", "out", "--keep", "0", "--curve", "0.5,2", "--by", "size"]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert "keep (0.0) must be above 0 and at most 1" in error
    assert "curve" in error
    assert "by ('size')" in error


def test_clips_are_drawn_from_all_classes():
    many = [
        Clip(f"{label}/{number}.mp4", label) for label, count in ((0, 10), (1, 2), (2, 5)) for number in range(count)
    ]
    drawn = draw_clips(many, 8, seed=0)
    assert sorted(clip.label for clip in drawn) == [0, 0, 0, 1, 1, 2, 2, 2]
    assert drawn == draw_clips(many, 8, seed=0)
    assert drawn != draw_clips(many, 8, seed=1)
    assert len(draw_clips(many, 100, seed=0)) == 17 == len(set(map(id, draw_clips(many, 100, seed=0))))


def test_prompts(adapter, data, tmp_path, capsys):
    line = ["prompts", str(adapter), "--data", str(data), "--no-progress"]
    assert main([*line, "--json", "--calibration-clips", "6", "--out", str(tmp_path / "report")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "report" / "prompts.json").read_text()) == found
    assert (tmp_path / "report" / "prompts.png").read_bytes()[:4] == b"\x89PNG"
    opened = open_adapter(ScoringSettings(adapter=str(adapter), device="cpu"))
    drawn = draw_clips(read_data(data).train, 6, seed=0)
    assert found == prompt_report(opened.model, list(clip_batches(opened, drawn))).to_dict()
    assert [row["layer"] for row in found["layers"]] == ["0", "1", "2"]

    assert main([*line, "--split", "test"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert [text.split()[0] for text in lines[1:4]] == ["0", "1", "2"]
    assert lines[4] == "on 6 test clips; dead: below 0.1 of 1 / (N + P) in every head"
    assert main([*line, "--split", "val"]) == 2
    assert capsys.readouterr().err == f"error: data ({data}) must have val clips, but it has only train, test.\n"


# ----------------------------------------------------------------------------------------- training from an adapter


def test_training_starts_from_an_adapter(adapter, quick, data, tmp_path):
    """With learning rates of zero, what comes out is what went in; the settings are the adapter's."""
    result = train(quick(start_from=str(adapter), lr=0.0, head_lr=0.0, weight_decay=0.0, epochs=1))
    before, after = (load_file(place / "adapter_model.safetensors") for place in (adapter, result.out))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    run = json.loads((result.out / "run.json").read_text())
    assert run["settings"]["num_prompt_tokens"] == 8  # and not the 3 of the flags
    assert run["start_from"] == {"adapter": str(adapter), "prompts_after": 24}


def test_dropout_and_gradients_after_a_start(adapter, quick, tmp_path):
    result = train(quick(start_from=str(adapter), epochs=1))
    before, after = (load_file(place / "adapter_model.safetensors") for place in (adapter, result.out))
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed >= {key for key in before if key.endswith(("prompt_key", "prompt_value", "classifier.weight"))}


def test_what_training_cannot_start_from(adapter, quick, backbone, tmp_path):
    with raises_exactly(
        ConfigError,
        "2 settings are wrong:\n"
        f"  start_from ({adapter}) must go with method apt, but method is linear. Take --method apt.\n"
        f"  start_from ({adapter}) must go with init_weights published, but it is data, which would put other prompts in the "
        "adapter's place. Leave one out.",
    ):
        quick(start_from=str(adapter), method="linear", init_weights="data")
    other = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    config = json.loads((other / "adapter_config.json").read_text())
    config["id2label"] = {"0": "up", "1": "left", "2": "down"}
    (other / "adapter_config.json").write_text(json.dumps(config))
    with raises_exactly(
        ConfigError,
        f"start_from ({other}) must have the labels of the data in their order, but it has ['up', 'left', 'down'] and the data "
        "['down', 'left', 'up']. Give --labels, or start anew.",
    ):
        train(quick(start_from=str(other)))
    assert not (tmp_path / "run").exists()
    base = VideoMAEForVideoClassification.from_pretrained(backbone, use_mean_pooling=True)
    get_peft_model(base, AttentionPromptConfig(target_modules=[])).save_pretrained(tmp_path / "head")
    with raises_exactly(
        CheckpointError,
        f"adapter ({tmp_path / 'head'}) must have attention prompts, but it has a head alone. Train one with --method apt.",
    ):
        train(quick(start_from=str(tmp_path / "head")))


def test_another_backbone_than_the_adapters(adapter, quick, tmp_path):
    tiny_videomae(seed=5, num_labels=2).save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError) as caught:
        train(quick(model=str(tmp_path / "other"), start_from=str(adapter)))
    trained = json.loads((adapter / "run.json").read_text())["backbone"]["fingerprint"]
    found = str(caught.value).partition("have the fingerprint ")[2]
    assert str(caught.value) == (
        f"start_from ({adapter}) must be of the backbone that is trained on, but its weights have the fingerprint "
        f"{found[:16]}, and those of the adapter's had {trained}. Give its own by --model."
    )


def test_a_run_that_started_from_an_adapter_is_resumed(adapter, quick, tmp_path, monkeypatch):
    whole = train(quick(start_from=str(adapter), out=str(tmp_path / "whole"), save_steps=1))
    from apt_peft.training.trainer import PromptTrainer

    loss, calls = PromptTrainer.loss, []

    def cut_short(self, *args, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "loss", cut_short)
        with pytest.raises(KeyboardInterrupt):
            train(quick(start_from=str(adapter), save_steps=1))
    again = train(quick(start_from=str(adapter), save_steps=1, resume=True))
    one, other = (load_file(each.out / "adapter_model.safetensors") for each in (whole, again))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
