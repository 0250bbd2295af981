"""The linear probe from stored features: the same training as from clips, for every architecture, and after any kill."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, AVAILABLE, build
from helpers import killed_when, raises_exactly
from safetensors.torch import load_file
from test_resume import Stop, assert_same_run, flags, stop_in
from transformers import TimesformerForVideoClassification, VideoMAEForVideoClassification

from apt_peft import ConfigError, DataError
from apt_peft.training.train import train
from apt_peft.video import read_data
from apt_peft.video.shards.write import ShardPlan, write_shards

STILL = {"method": "linear", "augment": "none", "batch_size": 4}
RANDOM = {
    "augment": "crop",
    "rand_augment": "rand-m4-n2",
    "random_erasing": 0.5,
    "sampling": "uniform",
    "repeated_augmentation": 2,
}
VIDEO = [name for name in AVAILABLE if ARCHITECTURES[name].video]


def both(quick, steps, tmp_path, **given) -> list[tuple[Path, list[dict]]]:
    """A run from clips, and the same from features: its folder and what each step saw."""
    found = []
    for name, cache in (("clips", None), ("features", "auto")):
        steps.clear()
        views = given.get("feature_views") if cache else None
        settings = quick(
            **(STILL | given | {"feature_cache": cache, "feature_views": views, "out": str(tmp_path / name)})
        )
        found.append((train(settings).out, list(steps)))
    return found


def assert_same_training(one: tuple[Path, list[dict]], other: tuple[Path, list[dict]]) -> None:
    assert len(one[1]) == len(other[1]) > 3
    for a, b in zip(one[1], other[1], strict=True):
        assert torch.equal(a["labels"], b["labels"])
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)
        torch.testing.assert_close(a["logits"], b["logits"], rtol=1e-4, atol=1e-5)
    results = [json.loads((out / "run.json").read_text())["result"] for out, _ in (one, other)]
    for split, scores in results[0].items():
        assert results[1][split] == pytest.approx(scores, abs=1e-5), split
    weights = [load_file(out / "adapter_model.safetensors") for out, _ in (one, other)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4)


def test_without_anything_random_losses_scores_and_head_are_the_same(quick, steps, tmp_path):
    given = {"epochs": 4, "segments": 2, "crops": 2, "sampling": "even", "head_lr": 0.1}
    one, other = both(quick, steps, tmp_path, **given)
    assert_same_training(one, other)
    assert abs(one[1][-1]["loss"] - one[1][0]["loss"]) > 0.1, "the head moves"
    assert {path.name for path in one[0].iterdir()} == {path.name for path in other[0].iterdir()}, "no cache is left"


@pytest.mark.parametrize("name", VIDEO)
def test_every_architecture_has_a_seam(name, quick, steps, tmp_path):
    model = build(name)
    getattr(model, model.base_model_prefix).save_pretrained(tmp_path / "base")
    assert_same_training(*both(quick, steps, tmp_path, model=str(tmp_path / "base"), epochs=2))


def test_a_model_that_classifies_each_frame_by_itself(quick, steps, tmp_path):
    row = ARCHITECTURES["timesformer"]
    config = build("timesformer").config.__class__(**row.settings, attention_type="space_only")
    torch.manual_seed(0)
    TimesformerForVideoClassification(config).save_pretrained(tmp_path / "base")
    assert_same_training(*both(quick, steps, tmp_path, model=str(tmp_path / "base"), epochs=2))


def test_as_many_fixed_draws_as_epochs_are_random_training_itself(quick, steps, tmp_path):
    assert_same_training(*both(quick, steps, tmp_path, **RANDOM, epochs=3, feature_views=3))


def test_in_bfloat16(quick, steps, tmp_path):
    assert_same_training(*both(quick, steps, tmp_path, bf16=True, device="cpu"))


def test_with_balanced_epochs_weights_and_accumulated_gradients(quick, steps, tmp_path):
    given = {"gradient_accumulation_steps": 2, "loss": "focal", "batch_size": 2}
    assert_same_training(*both(quick, steps, tmp_path, **given, class_weights="balanced"))
    assert_same_training(*both(quick, steps, tmp_path / "balanced", **given, balanced_sampling=True))


def test_clips_in_shards_keep_the_order_of_their_shards(quick, data, steps, tmp_path):
    folder = tmp_path / "shards"
    write_shards(read_data(data), folder, ShardPlan(max_clips=4), root=str(data), workers=1)
    assert_same_training(
        *both(quick, steps, tmp_path, data=str(folder), shard_window=1, batch_size=2, val_fraction=0.0)
    )


def test_epochs_take_the_views_in_turn(quick, steps, tmp_path):
    """With a rate of 0 a clip's logits tell its view."""
    settings = quick(
        **(STILL | RANDOM | {"batch_size": 16, "val_fraction": 0.0, "head_lr": 0.0}),
        epochs=5, feature_cache=str(tmp_path / "store"), feature_views=2, test=False,
    )  # fmt: skip
    train(settings)
    seen = [sorted(map(tuple, step["logits"].tolist())) for step in steps]
    assert seen[0] == seen[2] == seen[4]
    assert seen[1] == seen[3]
    assert seen[0] != seen[1]


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """How many clips each forward of the backbone saw."""
    seen = []
    original = VideoMAEForVideoClassification.forward

    def noted(self, pixel_values=None, **inputs):
        seen.append(len(pixel_values))
        return original(self, pixel_values, **inputs)

    monkeypatch.setattr(VideoMAEForVideoClassification, "forward", noted)
    return seen


def test_the_backbone_sees_each_clip_once_and_not_at_all_in_a_later_run(quick, tmp_path, passes, caplog):
    store = tmp_path / "store"
    settings = quick(**STILL, epochs=5, feature_cache=str(store))
    train(settings)
    probe = [2, 2, 2]  # find_seam: once as a whole, once in each mode
    assert passes == [*probe, 4, 4, 1, 3, 4, 2], "9 clips for training, 3 held out, 6 for the test"
    assert len(list(store.iterdir())) == 3
    passes.clear()
    caplog.clear()
    with caplog.at_level("INFO"):
        train(replace(settings, head_lr=0.3, epochs=2, label_smoothing=0.0, out=str(tmp_path / "again")))
    assert passes == probe
    assert f"Features of the clips are in {store}: 0 files computed, 3 found, 0.0 MB." in caplog.text


def test_a_finished_run_is_opened_scored_and_exported_like_any_other(quick):
    from apt_peft.scoring import EvaluateSettings, evaluate_adapter

    result = train(quick(**STILL, feature_cache="auto"))
    data = json.loads((result.out / "run.json").read_text())["settings"]["data"]
    again, _, _ = evaluate_adapter(EvaluateSettings(adapter=str(result.out), data=data, progress=False))
    torch.testing.assert_close(again.scores, result.test.scores, rtol=0, atol=1e-6)


def test_a_run_cut_between_epochs_goes_on_bit_for_bit(quick, tmp_path, monkeypatch):
    whole = quick(**(STILL | RANDOM), feature_views=2, feature_cache="auto", epochs=4, out=str(tmp_path / "whole"))
    train(whole)
    with monkeypatch.context() as patch:
        stop_in(patch, "mark_complete", 3)
        with pytest.raises(Stop):
            train(replace(whole, out=str(tmp_path / "stopped")))
    assert (tmp_path / "stopped" / "cache" / "features").is_dir()
    train(replace(whole, out=str(tmp_path / "stopped"), resume=True, workers=1))
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "cache").exists()


@pytest.mark.parametrize("files", [0, 2])
def test_a_process_killed_while_it_stores_features_starts_over_with_what_is_whole(quick, tmp_path, files):
    """Two views of the training clips and one of two other splits are 4 files; killed when so many are there."""
    given = {**STILL, **RANDOM, "feature_views": 2, "feature_cache": str(tmp_path / "store"), "epochs": 2}
    settings = quick(**given, out=str(tmp_path / "killed"))
    store = tmp_path / "store"
    killed_when(
        lambda: store.is_dir() and len(list(store.glob("*.safetensors"))) >= files,
        *("-m", "apt_peft", "train", *flags(settings)),
    )
    train(replace(settings, resume=True))
    train(replace(settings, feature_cache=str(tmp_path / "other"), out=str(tmp_path / "whole")))
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    names = [{path.name for path in (tmp_path / s).glob("*.safetensors")} for s in ("store", "other")]
    assert names[0] == names[1]
    assert len(names[0]) == 4


def test_a_clip_that_is_lost_before_its_features_are_stored(quick, data, tmp_path, monkeypatch):
    lost = data / "train" / "down" / "down_0.mp4"
    kept = lost.read_bytes()
    from apt_peft.training import train as module

    original = module.use_features

    def lose(*arguments):
        lost.unlink()
        original(*arguments)

    monkeypatch.setattr(module, "use_features", lose)
    try:
        with raises_exactly(
            DataError,
            f"video ({lost}) must be a readable video file, but opening it failed: no such file or directory.",
        ):
            train(quick(**STILL, feature_cache="auto", cache="none", val_fraction=0.0))
    finally:
        lost.write_bytes(kept)
    assert not (tmp_path / "run").exists(), "the folder is as it was"


def test_a_backbone_that_draws_at_random_in_training_is_refused(quick, tmp_path):
    model = build("videomae")
    model.config.hidden_dropout_prob = 0.2
    model.save_pretrained(tmp_path / "base")
    with raises_exactly(
        ConfigError,
        "feature_cache must go with a model that is a frozen part and then trained modules in a row, but its frozen part "
        "draws at random in training (dropout, or paths that are dropped). Set these to 0 in its config.",
    ):
        train(quick(**STILL, feature_cache="auto", model=str(tmp_path / "base")))
