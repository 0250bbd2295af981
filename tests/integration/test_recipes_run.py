"""Every recipe takes a few steps on its own data set's tree; what was changed for that, and nothing else, is recorded."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import raises_exactly
from models import tiny_videomae
from safetensors.torch import load_file

from apt_peft import ConfigError
from apt_peft.training.recipes import RECIPES, plain
from apt_peft.training.settings import TrainSettings
from apt_peft.training.train import train
from apt_peft.training.trainer import PromptTrainer

TREES = {"UCF101": "ucf101", "HMDB51": "hmdb51", "Something-Something V2": "ssv2", "Kinetics-400": "k400"}
PUBLISHED = [name for name, recipe in RECIPES.items() if recipe.kind == "published"]
# What does not fit a backbone of three layers and 16 pixels, and a dozen clips.
SHRUNK = {
    "size": 16,
    "layers_to_transform": (0, 1, 2),
    "batch_size": 6,
    "epochs": 1,
    "warmup_epochs": 0.0,
    "fp16": False,
}


@pytest.fixture(scope="module")
def backbone16(tmp_path_factory):
    """A random VideoMAE of 3 layers, 16 frames of 16 px."""
    folder = tmp_path_factory.mktemp("backbone") / "tiny16"
    tiny_videomae(num_frames=16).save_pretrained(folder)
    return folder


@pytest.fixture
def shrunk(backbone16, layout_tree, tmp_path):
    """Settings of a recipe on the tree of its data set; any of them may be given."""

    def settings(name: str, **given) -> TrainSettings:
        recipe = RECIPES[name]
        places = {
            "model": str(backbone16),
            "data": str(layout_tree(TREES[recipe.data_set])),
            "out": str(tmp_path / "run"),
        }
        changes = {key: value for key, value in SHRUNK.items() if key in recipe.settings}
        return TrainSettings.of_recipe(name, **(places | {"threads": 1, "progress": False} | changes | given))

    return settings


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_takes_steps_on_its_data_set(name, shrunk):
    result = train(shrunk(name))
    run = json.loads((result.out / "run.json").read_text())
    recipe = RECIPES[name]
    before, changes = plain(recipe.settings), plain({k: v for k, v in SHRUNK.items() if k in recipe.settings})
    assert run["recipe"]["name"] == name
    assert run["recipe"]["overridden"] == {key: {"from": before[key], "to": to} for key, to in changes.items()}
    assert {key: run["settings"][key] for key in before} == before | changes
    clips = run["data"]["clips"]
    assert run["steps"] == clips["training"] // 6 >= 2, "incomplete batches are dropped"
    assert not run["data"]["validation_held_out"]
    base = before["head_lr"] if recipe.settings["method"] == "linear" else before["lr"]
    assert run["learning_rates"]["head"] == pytest.approx(base * 6 / 256)
    assert run["learning_rates"]["start"] == run["learning_rates"]["minimum"] == pytest.approx(1e-6 * 6 / 256)
    wanted = {key: before[key] for key in ("num_frames", "sampling", "segments", "crops", "mean", "std", "resize")}
    assert run["clips"] == wanted | {"size": 16, "frame_stride": 4}
    assert run["result"]["test"]["clips"] == clips["test"] > 0
    assert [text.split(",")[0] for text in run["recipe"]["differs"]] == [
        f"it is for {recipe.data_set} with {recipe.classes} classes",
        f"it is for a {recipe.backbone.name}",
        f"a step of it takes {recipe.clips_per_step} clips",
    ]
    assert name in (result.out / "README.md").read_text()


def test_the_recipe_for_own_clips_takes_all_training_clips_and_starts_from_them(quick):
    plain = quick()
    values = {"model": plain.model, "data": plain.data, "out": plain.out, "threads": 1, "progress": False, "epochs": 2}
    result = train(TrainSettings.of_recipe("own-clips", **values))
    run = json.loads((result.out / "run.json").read_text())
    assert run["recipe"]["kind"] == "designed here"
    assert run["recipe"]["overridden"] == {"epochs": {"from": 20, "to": 2}}
    assert run["recipe"]["differs"] == []
    assert run["data"]["clips"] == {"training": 12, "validation": 0, "test": 6}
    assert run["steps"] == 2 * 2
    assert json.loads((result.out / "adapter_config.json").read_text())["init_weights"] == "data"
    assert result.validation_top1 is None
    assert result.top1 is not None


class Stop(Exception):
    """Where the test ends a run."""


def test_a_run_by_a_recipe_resumes_as_if_nothing_had_happened(shrunk, tmp_path, monkeypatch):
    given = {"epochs": 3, "warmup_epochs": 1.0, "test": False}
    name = "ssv2-vit-base-p2"
    whole = train(shrunk(name, out=str(tmp_path / "whole"), **given))
    settings = shrunk(name, **given)
    save = PromptTrainer._save_checkpoint

    def saving(self, *args, **kwargs):
        save(self, *args, **kwargs)
        if self.state.global_step == 2:
            raise Stop

    monkeypatch.setattr(PromptTrainer, "_save_checkpoint", saving)
    with pytest.raises(Stop):
        train(settings)
    monkeypatch.undo()
    with raises_exactly(
        ConfigError,
        "resume (True) must go on with the same run, but recipe was 'ssv2-vit-base-p2' and is None, lr was 0.05 and is 0.1. "
        "Repeat its settings, or choose another --out.",
    ):
        train(replace(settings, recipe=None, lr=0.1, resume=True))
    resumed = train(replace(settings, resume=True))
    one, other = (load_file(run.out / "adapter_model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(one[key], other[key]) for key in one)
    runs = [json.loads((run.out / "run.json").read_text()) for run in (whole, resumed)]
    assert runs[0]["recipe"] == runs[1]["recipe"]
    assert train(replace(settings, resume=True)).validation_top1 == resumed.validation_top1
