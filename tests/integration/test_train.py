"""`train` from flags to a scored adapter folder, and what every road back from that folder gives."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import raises_exactly
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification

from apt_peft import AutoPeftModelForVideoClassification, DataError, TargetError
from apt_peft.errors import ConfigError
from apt_peft.scores import read_scores
from apt_peft.scoring import EvaluateSettings, PredictSettings, evaluate_adapter, predict
from apt_peft.training import train as train_module
from apt_peft.training.base import open_base
from apt_peft.training.outcome import finite_entry
from apt_peft.training.prompts import add_prompts
from apt_peft.training.train import train
from apt_peft.training.trainer import PromptTrainer
from apt_peft.video import UnreadableVideoError, probe

FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "checkpoints",
    "evaluation",
    "preprocessor_config.json",
    "run.json",
}


@pytest.fixture(scope="module")
def trained(backbone, data, tmp_path_factory):
    """A finished run of prompts."""
    from apt_peft.training.settings import TrainSettings

    out = tmp_path_factory.mktemp("runs") / "apt"
    settings = TrainSettings(
        model=str(backbone), data=str(data), out=str(out), epochs=3, batch_size=4, num_prompt_tokens=3, threads=1,
        progress=False,
    )  # fmt: skip
    return train(settings)


def test_validations_that_were_left_out(quick):
    result = train(quick(epochs=5, validate_every=2, val_fraction=0.25, test=False, method="linear", bf16=True))
    history = json.loads((result.out / "run.json").read_text())["history"]
    assert [entry["epoch"] for entry in history if "eval_top1" in entry] == [2, 4, 5]
    assert json.loads((result.out / "run.json").read_text())["precision"] == "bfloat16", "on a CPU nobody asked for"
    best = max((entry for entry in history if "eval_top1" in entry), key=lambda entry: entry["eval_selection"])
    assert result.validation_top1 == best["eval_top1"]


def test_a_run_leaves_a_whole_adapter_folder(trained, backbone):
    assert {path.name for path in trained.out.iterdir()} == FILES
    run = json.loads((trained.out / "run.json").read_text())
    assert run["result"]["test"]["top1"] == pytest.approx(trained.top1, abs=1e-4)
    assert run["result"]["validation"]["clips"] == 3
    assert run["data"]["clips"] == {"training": 9, "validation": 3, "test": 6}
    assert run["data"]["validation_held_out"] is True
    assert run["trained_parameters"] == trained.trained_parameters == 3 * (3 * 16 * 2 + 2 * 3) + 32 * 3 + 3 + 2 * 32
    assert run["labels"] == ["down", "left", "up"]
    assert run["clips"] == {
        "num_frames": 4, "sampling": "even", "frame_stride": 4, "size": 16, "resize": "crop", "segments": 1, "crops": 1,
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    assert run["learning_rates"] == {"prompts": 0.1, "head": 0.01, "start": 0.0, "minimum": 0.0}
    assert run["settings"]["model"] == str(backbone)
    card = (trained.out / "README.md").read_text()
    for text in ("import apt_peft", str(backbone), "`left`", run["data"]["fingerprint"], "PeftModel.from_pretrained"):
        assert text in card
    names = {"result.json", "per_class.csv", "confusion.csv", "confusion.png", "mistakes.csv", "scores.safetensors"}
    assert {path.name for path in (trained.out / "evaluation").iterdir()} == names


@pytest.fixture
def run_card(data, tmp_path, monkeypatch, capsys):
    """Run the card's code in a copy of an adapter folder, and compare the scores with those of predict."""

    def run(out: Path) -> None:
        folder = tmp_path / "downloaded"
        shutil.copytree(out, folder, ignore=shutil.ignore_patterns("checkpoints"))
        shutil.copy(data / "test" / "up" / "up_0.mp4", folder / "clip.mp4")
        monkeypatch.chdir(folder)
        blocks = [part.partition("```")[0] for part in (folder / "README.md").read_text().split("```python\n")[1:]]
        assert len(blocks) == 2
        capsys.readouterr()
        for block in blocks:
            exec(compile(block, "card", "exec"), {})
        labels, found = capsys.readouterr().out.splitlines()
        assert labels == "{0: 'down', 1: 'left', 2: 'up'}"
        want = predict(PredictSettings(adapter=".", clips="clip.mp4", progress=False))[0]["scores"]
        scores = [{score["label"]: score["score"] for score in part} for part in (ast.literal_eval(found), want)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)

    return run


def test_the_code_of_the_card_runs(trained, run_card):
    run_card(trained.out)


def test_only_prompts_and_head_are_saved(trained):
    tensors = load_file(trained.out / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == trained.trained_parameters
    assert all("attention_prompt_" in name or "classifier" in name or "fc_norm" in name for name in tensors)


def test_evaluate_reproduces_the_test_score_in_a_new_process(trained, data, tmp_path):
    command = [sys.executable, "-m", "apt_peft", "evaluate", "--adapter", str(trained.out), "--data", str(data)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "again"), "--no-progress", "--threads", "1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith(f"top-1 {trained.top1:.1f} % of 6 test clips\n")
    assert (tmp_path / "again" / "result.json").read_text() == (trained.out / "evaluation" / "result.json").read_text()
    assert (tmp_path / "again" / "mistakes.csv").read_text() == (
        trained.out / "evaluation" / "mistakes.csv"
    ).read_text()


def test_every_road_loads_the_same_model(trained, backbone):
    clips = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    base = AutoModelForVideoClassification.from_pretrained(backbone)
    by_peft = PeftModel.from_pretrained(base, trained.out).eval()
    by_auto = AutoPeftModelForVideoClassification.from_pretrained(trained.out).eval()
    with torch.no_grad():
        torch.testing.assert_close(by_peft(clips).logits, by_auto(clips).logits, rtol=0, atol=0)
    assert by_peft.config.id2label == {0: "down", 1: "left", 2: "up"}


def test_evaluate_takes_views_and_another_place_of_the_backbone(trained, backbone, data, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(backbone)
    settings = EvaluateSettings(
        adapter=str(trained.out), data=str(data), model=str(moved), segments=2, crops=3, out=str(tmp_path / "views"),
        progress=False,
    )  # fmt: skip
    result, split, out = evaluate_adapter(settings)
    assert (split, out) == ("test", str(tmp_path / "views"))
    assert not torch.equal(result.scores, trained.test.scores)
    torch.testing.assert_close(result.scores.sum(dim=1), torch.ones(6))


def test_scores_say_which_clips_were_cut_from_one_video(trained, data, quick, tmp_path, caplog):
    """By the rule that was asked for, of `evaluate` and of a run's own test clips."""
    file = str(tmp_path / "scores.safetensors")
    settings = {"adapter": str(trained.out), "data": str(data), "save_scores": file, "progress": False}
    evaluate_adapter(EvaluateSettings(**settings, group_by="folder", out=str(tmp_path / "tables")))
    folders = ("test/down",) * 2 + ("test/left",) * 2 + ("test/up",) * 2
    assert read_scores(file).result.groups == folders
    with pytest.raises(ConfigError, match=r"group_by \('nothing'\) must be auto, .* finds nothing in 6 of 6"):
        evaluate_adapter(EvaluateSettings(**settings, group_by="nothing"))
    message = f"out ({file}) must be a folder that can be written to, but {file} is a file. Choose another one."
    with raises_exactly(ConfigError, message):
        evaluate_adapter(EvaluateSettings(**settings, out=file))
    result = train(quick(method="linear", epochs=1, val_fraction=0.0, group_by="folder"))
    scores = read_scores(result.out / "evaluation" / "scores.safetensors").result
    assert dict(zip(scores.names, scores.groups, strict=True)) == {n: n.rpartition("/")[0] for n in scores.names}
    # A rule that tells of training clips alone is enough to train by.
    result = train(quick(method="linear", epochs=1, group_by="^train/.*_.", out=str(tmp_path / "other")))
    assert read_scores(result.out / "evaluation" / "scores.safetensors").result.groups is None
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert "Nobody knows whether clips of one video lie in several splits: group_by ('^train/" in told
    assert "The scores of the test clips do not tell which were cut from one video: group_by ('^train/" in told


def test_predict_names_what_evaluate_scored(trained, data):
    found = predict(PredictSettings(adapter=str(trained.out), clips=str(data / "test"), top_k=9, progress=False))
    assert len(found) == 6
    best = [max(row["scores"], key=lambda score: score["score"])["label"] for row in found]
    assert best == [trained.test.labels[index] for index in trained.test.predictions.tolist()]
    assert all(sum(score["score"] for score in row["scores"]) == pytest.approx(1, abs=1e-4) for row in found)


def test_predict_follows_links(trained, data, tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "more").symlink_to(data / "test" / "up")
    (tmp_path / "clips" / "gone.mp4").symlink_to(tmp_path / "nothing")
    settings = {"adapter": str(trained.out), "clips": str(tmp_path / "clips"), "progress": False}
    found = predict(PredictSettings(**settings, on_error="skip"))
    assert [(Path(row["clip"]).name, row.get("error")) for row in found] == [
        ("up_0.mp4", None),
        ("up_1.mp4", None),
        ("gone.mp4", "opening it failed: no such file or directory"),
    ]


def test_the_linear_probe_trains_the_head_alone(quick, backbone):
    result = train(quick(method="linear"))
    tensors = load_file(result.out / "adapter_model.safetensors")
    assert {name.split(".")[-2] for name in tensors} == {"classifier", "fc_norm"}
    assert result.trained_parameters == 32 * 3 + 3 + 2 * 32
    AutoPeftModelForVideoClassification.from_pretrained(result.out)


def test_the_same_seed_gives_the_same_adapter_and_another_one_does_not(quick, tmp_path):
    first, again, other = (
        train(quick(out=str(tmp_path / name), seed=seed, workers=workers))
        for name, seed, workers in (("first", 0, 0), ("again", 0, 2), ("other", 1, 0))
    )
    first, again, other = (load_file(run.out / "adapter_model.safetensors") for run in (first, again, other))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_accumulated_batches_equal_one_large_batch(quick, tmp_path):
    options = {"val_fraction": 0.0, "epochs": 1, "prompt_dropout": 0.0, "test": False}
    large = train(quick(out=str(tmp_path / "large"), batch_size=12, **options))
    small = train(quick(out=str(tmp_path / "small"), batch_size=4, gradient_accumulation_steps=3, **options))
    large, small = (load_file(run.out / "adapter_model.safetensors") for run in (large, small))
    for name in large:
        torch.testing.assert_close(small[name], large[name], rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_changes_nothing(quick, tmp_path):
    plain = train(quick(out=str(tmp_path / "plain")))
    saving = train(quick(out=str(tmp_path / "saving"), gradient_checkpointing=True))
    plain, saving = (load_file(run.out / "adapter_model.safetensors") for run in (plain, saving))
    # Under checkpoints the first layer takes torch's own backward, which adds in another order; steps then differ by roundings.
    for name in plain:
        torch.testing.assert_close(saving[name], plain[name], rtol=1e-3, atol=2e-5)


def test_gradient_checkpointing_goes_by_the_name_that_transformers_has_now(backbone, quick):
    # `train` keeps warnings of libraries off the screen, so this is asked of the step itself.
    base = open_base(str(backbone), labels=["a", "b", "c"])
    model = add_prompts(base, quick(gradient_checkpointing=True), None)
    assert all(block.gradient_checkpointing for block in base.videomae.encoder.layer)
    model.train()(pixel_values=torch.randn(1, 4, 3, 16, 16), labels=torch.tensor([0])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_prompts_go_to_the_layers_that_are_named(quick):
    result = train(quick(layers_to_transform=(0, 2), epochs=1, test=False))
    names = load_file(result.out / "adapter_model.safetensors")
    assert {name.split(".layer.")[1][0] for name in names if "attention_prompt_" in name} == {"0", "2"}


def test_layers_that_the_backbone_has_not_are_told_before_clips_are_read(quick, tmp_path):
    with raises_exactly(TargetError, "layers_to_transform [3, 12] is out of range: the model has 3 layers (0-2)."):
        train(quick(layers_to_transform=(0, 3, 12), data=str(tmp_path / "no-clips")))


def test_without_validation_the_last_epoch_is_kept(quick):
    result = train(quick(val_fraction=0.0, test=False))
    run = json.loads((result.out / "run.json").read_text())
    assert (result.top1, result.validation_top1, result.test) == (None, None, None)
    assert run["chosen_step"] == run["steps"] == 6
    assert not (result.out / "evaluation").exists()
    assert "Not evaluated" in (result.out / "README.md").read_text()


def test_prompts_start_from_the_data(quick, tmp_path):
    options = {"lr": 0.0, "head_lr": 0.0, "epochs": 1, "test": False}
    published = train(quick(out=str(tmp_path / "published"), **options))
    data = train(quick(out=str(tmp_path / "data"), init_weights="data", **options))
    published, data = (load_file(run.out / "adapter_model.safetensors") for run in (published, data))
    key = next(name for name in data if "attention_prompt_key" in name)
    assert data[key].norm() > 3 * published[key].norm()
    head = next(name for name in data if "classifier" in name and name.endswith("weight"))
    assert torch.equal(data[head], published[head])
    assert data[head].abs().max() <= 2 * 0.001
    assert data[head].std() == pytest.approx(2e-5, rel=0.3)


def test_the_published_rule_scales_every_rate(quick):
    result = train(quick(lr_rule="published", lr=0.64, epochs=1, test=False))
    rates = json.loads((result.out / "run.json").read_text())["learning_rates"]
    assert rates == pytest.approx({"prompts": 0.01, "head": 0.01, "start": 1e-6 / 64, "minimum": 1e-6 / 64})


def test_other_clips_settings_reach_the_adapter(quick):
    result = train(
        quick(sampling="dense", frame_stride=1, augment="crop", resize="crop", segments=2, crops=2, epochs=1)
    )
    run = json.loads((result.out / "run.json").read_text())
    assert run["clips"]["segments"] == 2
    again, _, _ = evaluate_adapter(
        EvaluateSettings(adapter=str(result.out), data=run["settings"]["data"], progress=False)
    )
    assert torch.equal(again.scores, result.test.scores)


def test_a_backbone_that_pools_one_token_is_told_to_pool_the_mean(quick, tmp_path, run_card):
    from models import tiny_videomae

    tiny_videomae(use_mean_pooling=False).save_pretrained(tmp_path / "token")
    result = train(quick(model=str(tmp_path / "token"), epochs=1))
    card = (result.out / "README.md").read_text()
    assert "use_mean_pooling=True" in card
    again, _, _ = evaluate_adapter(
        EvaluateSettings(adapter=str(result.out), data=quick().data, progress=False, threads=1)
    )
    assert torch.equal(again.scores, result.test.scores)
    run_card(result.out)


def test_training_leaves_the_backbone_and_the_settings_of_torch_alone(quick, backbone):
    before = open_base(str(backbone), labels=["a", "b", "c"]).state_dict()
    threads = torch.get_num_threads()
    result = train(quick(threads=2))
    assert torch.get_num_threads() == threads
    after = AutoPeftModelForVideoClassification.from_pretrained(result.out).get_base_model().state_dict()
    for name, tensor in before.items():
        if "videomae" in name:
            key = name.replace("attention.attention.", "attention.attention.base_layer.")
            assert torch.equal(after[key], tensor)


def test_unreadable_clips_stop_before_the_first_step(quick, data, tmp_path):
    place = _with_damage(data, tmp_path)
    for cache in ("auto", "none"):
        reasons = {}
        for clip in (place / "train" / "left" / "left_1.mp4", place / "test" / "up" / "up_0.mp4"):
            with pytest.raises(UnreadableVideoError) as told:
                probe(clip)
            reasons[clip] = told.value.reason
        with raises_exactly(
            DataError,
            "videos (2 of 18) must be readable, but these are not. "
            "Repair or remove them, or leave them out with --on-error skip.\n"
            + "\n".join(f"  {clip}: {reason}" for clip, reason in reasons.items()),
        ):
            train(quick(data=str(place), cache=cache, out=str(tmp_path / cache)))
        assert not (tmp_path / cache).exists()


def test_unreadable_clips_are_skipped_and_counted(quick, data, tmp_path):
    place = _with_damage(data, tmp_path)
    result = train(quick(data=str(place), on_error="skip", epochs=1))
    assert len(result.skipped) == 2
    run = json.loads((result.out / "run.json").read_text())
    assert run["data"]["skipped"] == list(result.skipped)
    assert sum(run["data"]["clips"].values()) == 16
    assert run["data"]["skipped_clips"] == {"training": 1, "validation": 0, "test": 1}
    assert run["result"]["test"]["skipped"] == 1
    saved = json.loads((result.out / "evaluation" / "result.json").read_text())
    assert saved["skipped_clips"] == [str(place / "test" / "up" / "up_0.mp4")]
    card = (result.out / "README.md").read_text()
    assert "; 1 training, 1 test clips could not be read and were left out; data fingerprint" in card
    with pytest.raises(DataError, match=r"videos \(1 of 6\) must be readable"):
        evaluate_adapter(EvaluateSettings(adapter=str(result.out), data=str(place), progress=False))
    again, _, _ = evaluate_adapter(
        EvaluateSettings(adapter=str(result.out), data=str(place), on_error="skip", progress=False)
    )
    assert again.skipped == (str(place / "test" / "up" / "up_0.mp4"),)
    assert again.summary()["skipped"] == 1


def test_a_split_of_which_nothing_can_be_read_is_not_left_out_silently(quick, data, tmp_path):
    place = tmp_path / "data"
    shutil.copytree(data, place)
    shutil.copytree(place / "test", place / "val")
    for split in ("test", "val"):
        for clip in (place / split).rglob("*.mp4"):
            clip.write_bytes(b"no video")
    with raises_exactly(
        DataError,
        f"data ({place}) must have clips that can be read in each split, but none of its 6 validation clips can and "
        "none of its 6 test clips can. Repair them, or leave the split out.",
    ):
        train(quick(data=str(place), on_error="skip"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_is_lost_while_training_ends_it_by_name(quick, data, tmp_path, monkeypatch, workers):
    place = tmp_path / "data"
    shutil.copytree(data, place)
    clip = place / "train" / "left" / "left_1.mp4"
    make_trainer = train_module._trainer

    def lose_a_clip(*args):
        clip.unlink()
        return make_trainer(*args)

    monkeypatch.setattr(train_module, "_trainer", lose_a_clip)
    with raises_exactly(
        DataError if workers else UnreadableVideoError,
        f"video ({clip}) must be a readable video file, but opening it failed: no such file or directory.",
    ):
        train(quick(data=str(place), sampling="uniform", val_fraction=0.0, workers=workers))
    assert not (tmp_path / "run").exists()


def test_drop_last_without_a_full_batch_is_refused(quick):
    with raises_exactly(
        ConfigError,
        "batch_size (16) must not exceed the 9 training clips with drop_last, but then every batch is incomplete. "
        "Make it smaller, or take --no-drop-last.",
    ):
        train(quick(batch_size=16, drop_last=True))


def test_a_named_cache_stays_and_an_own_one_goes(quick, tmp_path):
    kept = tmp_path / "frames"
    result = train(quick(cache=str(kept), epochs=1))
    assert len(list(kept.glob("*.frames"))) == 18
    other = train(quick(epochs=1, out=str(tmp_path / "other")))
    assert not (other.out / "cache").exists()
    assert other.top1 == result.top1


def _with_damage(data: Path, tmp_path: Path) -> Path:
    """The data with a training clip and a test clip that are no videos."""
    place = tmp_path / "damaged"
    shutil.copytree(data, place)
    (place / "train" / "left" / "left_1.mp4").write_bytes(b"no video")
    (place / "test" / "up" / "up_0.mp4").write_bytes(b"")
    return place


def diverged(name: str, value: str, step: int, steps: int, rates: tuple[str, str]) -> str:
    return (
        f"{name} ({value}) must stay finite, but training had diverged by step {step} of {steps} with learning rates of "
        f"{rates[0]} for prompts and {rates[1]} for the head. Lower --lr and --head-lr."
    )


def test_a_diverged_run_ends_as_an_error_and_leaves_no_adapter(quick):
    with raises_exactly(ConfigError, diverged("loss", "nan", 2, 6, ("1e+30", "1e+30"))):
        train(quick(lr=1e30, head_lr=1e30, warmup_fraction=0.0))
    assert not Path(quick().out).exists()


def test_weights_that_the_last_step_ruined_are_not_saved(quick, monkeypatch):
    run = PromptTrainer.train

    def ruining(self, **options):
        run(self, **options)
        with torch.no_grad():
            next(parameter for parameter in self.model.parameters() if parameter.requires_grad)[0] = -torch.inf

    monkeypatch.setattr(PromptTrainer, "train", ruining)
    with raises_exactly(ConfigError, diverged("largest trained weight", "inf", 3, 3, ("0.1", "0.01"))):
        train(quick(epochs=1, val_fraction=0.0, test=False))
    assert not (Path(quick().out) / "adapter_model.safetensors").exists()


def test_a_loss_that_is_only_looked_at_where_it_is_logged(quick, monkeypatch):
    # As on a GPU: the step itself looks at nothing.
    monkeypatch.setattr(PromptTrainer, "loss", lambda self, outputs, labels, **_: outputs.logits.sum() * torch.nan)
    with raises_exactly(ConfigError, diverged("loss", "nan", 3, 6, ("0.1", "0.01"))):
        train(quick())


def test_an_infinite_norm_of_gradients_is_no_number_of_run_json():
    assert finite_entry({"grad_norm": float("inf"), "loss": 1.0, "step": 3}) == {
        "grad_norm": None, "loss": 1.0, "step": 3,
    }  # fmt: skip
