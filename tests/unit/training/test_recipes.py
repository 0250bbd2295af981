"""Every value of every published recipe, written out here from the description of the method and not from the package."""

import argparse
import json

import pytest
from helpers import raises_exactly

from apt_peft import ConfigError, settings
from apt_peft.cli import main
from apt_peft.commands import recipes as command
from apt_peft.training import settings as settings_module
from apt_peft.training.base import check_precision
from apt_peft.training.optimizer import learning_rates
from apt_peft.training.recipe_run import misfits, recipe_run
from apt_peft.training.recipes import RECIPES, Backbone, Recipe
from apt_peft.training.settings import TrainSettings

PLACES = {"model": "m", "data": "d", "out": "o"}

# name: classes, width of the backbone, prompts, base rate, epochs, clips a step, sampling, test views (segments, crops)
DENSE, UNIFORM = "dense", "uniform"
WRITTEN_OUT = {
    "ucf101-vit-small-p400": (101, 384, 400, 0.05, 100, 64, DENSE, (5, 3)),
    "ucf101-vit-small-p400-batch48": (101, 384, 400, 0.05, 100, 48, DENSE, (5, 3)),
    "ucf101-vit-base-p400": (101, 768, 400, 0.05, 50, 64, DENSE, (5, 3)),
    "ucf101-vit-base-p1": (101, 768, 1, 0.05, 100, 48, DENSE, (5, 3)),
    "ucf101-vit-base-linear": (101, 768, None, 0.01, 100, 16, DENSE, (5, 3)),
    "hmdb51-vit-small-p400": (51, 384, 400, 0.05, 100, 64, DENSE, (10, 3)),
    "hmdb51-vit-small-p400-lr0.01": (51, 384, 400, 0.01, 100, 48, DENSE, (10, 3)),
    "hmdb51-vit-base-p400": (51, 768, 400, 0.05, 100, 64, DENSE, (10, 3)),
    "hmdb51-vit-base-p100": (51, 768, 100, 0.05, 100, 40, DENSE, (10, 3)),
    "ssv2-vit-small-p400": (174, 384, 400, 0.05, 100, 128, UNIFORM, (2, 3)),
    "ssv2-vit-small-p400-no-reparameterization": (174, 384, 400, 0.05, 100, 96, UNIFORM, (2, 3)),
    "ssv2-vit-base-p2": (174, 768, 2, 0.05, 100, 64, UNIFORM, (2, 3)),
    "ssv2-vit-base-p2-batch48": (174, 768, 2, 0.05, 100, 48, UNIFORM, (2, 3)),
    "kinetics400-vit-small-p400": (400, 384, 400, 0.05, 100, 64, DENSE, (5, 3)),
    "kinetics400-vit-small-p400-batch48": (400, 384, 400, 0.05, 100, 48, DENSE, (5, 3)),
    "kinetics400-vit-base-p400": (400, 768, 400, 0.05, 100, 64, DENSE, (5, 3)),
    "kinetics400-vit-base-p400-batch48": (400, 768, 400, 0.05, 100, 48, DENSE, (5, 3)),
}
COMMON = {
    "num_frames": 16, "size": 224, "resize": "crop", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    "augment": "flip", "rand_augment": "rand-m4-n2-mstd0.2-inc1", "random_resized_crop": True,
    "augment_resolution": "full", "repeated_augmentation": 2, "drop_last": True, "val_fraction": 0.0,
    "gradient_accumulation_steps": 1, "lr_rule": "published", "warmup_epochs": 10.0, "min_lr": 1e-6,
    "warmup_start_lr": 1e-6, "weight_decay": 1e-5, "label_smoothing": 0.1, "mixup": 0.0, "random_erasing": 0.0,
    "max_grad_norm": 0.0, "fp16": True, "bf16": False,
}  # fmt: skip
PROMPTS = {
    "method": "apt", "prompt_dropout": 0.1, "share_prompts_across_heads": True, "init_weights": "published",
    "layers_to_transform": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
}  # fmt: skip


def of_recipe(name: str, **given) -> TrainSettings:
    return TrainSettings.of_recipe(name, **(PLACES | given))


def test_every_published_run_has_a_recipe():
    assert [name for name, recipe in RECIPES.items() if recipe.kind == "published"] == list(WRITTEN_OUT)


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_every_value_is_the_published_one(name):
    classes, width, prompts, rate, epochs, clips, sampling, views = WRITTEN_OUT[name]
    recipe = RECIPES[name]
    assert (recipe.classes, recipe.backbone.hidden_size) == (classes, width)
    assert (recipe.backbone.num_hidden_layers, recipe.backbone.patch_size, recipe.backbone.tubelet_size) == (12, 16, 2)
    assert "2403.06978" in recipe.source
    wanted = COMMON | {"epochs": epochs, "batch_size": clips, "sampling": sampling}
    wanted |= {"segments": views[0], "crops": views[1], "flip": sampling != UNIFORM}
    if sampling == DENSE:
        wanted["frame_stride"] = 4
    if prompts is None:
        wanted |= {"method": "linear", "head_lr": rate}
    else:
        factor = "none" if "no-reparameterization" in name else "max"
        wanted |= PROMPTS | {"num_prompt_tokens": prompts, "lr": rate, "reparameterization": factor}
    assert dict(recipe.settings) == wanted
    made = of_recipe(name)
    assert {key: getattr(made, key) for key in wanted} == wanted
    assert made.overridden() == {}
    assert recipe.clips_per_step == made.clips_per_step == clips
    rates = learning_rates(
        rule=made.lr_rule, method=made.method, clips_per_step=clips, lr=made.lr, head_lr=made.head_lr,
        start=made.warmup_start_lr, minimum=made.min_lr,
    )  # fmt: skip
    assert rates.head == pytest.approx(rate * clips / 256)
    assert rates.start == rates.minimum == pytest.approx(1e-6 * clips / 256)
    if prompts is not None:
        assert rates.prompts == rates.head
    for steps_of_an_epoch in (1, 7, 149, 1861):
        assert made.warmup_steps(epochs * steps_of_an_epoch) == 10 * steps_of_an_epoch


def test_own_clips_has_what_its_page_says():
    recipe = RECIPES["own-clips"]
    assert (recipe.kind, recipe.classes, recipe.backbone, recipe.clips_per_step) == ("designed here", None, None, 8)
    assert dict(recipe.settings) == {
        "method": "apt", "num_prompt_tokens": 4, "prompt_dropout": 0.0, "reparameterization": "max", "key_gate": 15,
        "train_norms": True, "share_prompts_across_heads": True, "init_weights": "data", "sampling": "even",
        "augment": "crop", "val_fraction": 0.0, "epochs": 20, "batch_size": 8, "lr_rule": "absolute", "lr": 0.01,
        "head_lr": 0.01, "weight_decay": 1e-5, "label_smoothing": 0.1,
    }  # fmt: skip
    made = of_recipe("own-clips")
    rates = learning_rates(rule=made.lr_rule, method=made.method, clips_per_step=8, lr=made.lr, head_lr=made.head_lr)
    assert (rates.prompts, rates.head) == (0.01, 0.01)


def test_tables_are_frozen():
    with pytest.raises(TypeError):
        RECIPES["ucf101-vit-small-p400"].settings["lr"] = 1.0
    with pytest.raises(TypeError):
        RECIPES["mine"] = RECIPES["ucf101-vit-small-p400"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_holds_plain_values_of_real_settings(name):
    made = of_recipe(name)
    for key, value in RECIPES[name].settings.items():
        assert (getattr(made, key), type(getattr(made, key))) == (value, type(value))


def parse(*words: str) -> TrainSettings:
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser, TrainSettings, config=True)
    return settings.from_arguments(TrainSettings, vars(parser.parse_args(words)))


def test_flags_override_the_file_and_the_file_overrides_the_recipe(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'model = "m"\ndata = "d"\nout = "o"\nrecipe = "hmdb51-vit-base-p100"\nlr = 0.2\nepochs = 30\nseed = 4\n'
    )
    made = parse("--config", str(file), "--epochs", "20", "--no-fp16", "--batch-size", "40")
    assert made == of_recipe("hmdb51-vit-base-p100", lr=0.2, epochs=20, fp16=False, seed=4)
    assert (made.num_prompt_tokens, made.segments, made.lr, made.epochs, made.batch_size) == (100, 10, 0.2, 20, 40)
    assert made.overridden() == {
        "lr": {"from": 0.05, "to": 0.2},
        "epochs": {"from": 100, "to": 20},
        "fp16": {"from": True, "to": False},
    }
    other = parse("--config", str(file), "--recipe", "ucf101-vit-base-p1")
    assert (other.recipe, other.num_prompt_tokens, other.epochs) == ("ucf101-vit-base-p1", 1, 30)


def test_what_a_recipe_has_can_be_left_out():
    made = parse(
        *("--model", "m", "--data", "d", "--out", "o", "--recipe", "ssv2-vit-base-p2", "--rand-augment", "none"),
        *("--warmup-fraction", "0.2", "--layers-to-transform", "0", "1"),
    )
    assert made.overridden() == {
        "rand_augment": {"from": "rand-m4-n2-mstd0.2-inc1", "to": None},
        "warmup_epochs": {"from": 10.0, "to": None},
        "layers_to_transform": {"from": list(range(12)), "to": [0, 1]},
    }
    assert made.warmup_steps(200) == 40


def test_an_unknown_recipe_is_told_the_nearest():
    with pytest.raises(ConfigError) as told:
        of_recipe("ucf101-vit-small-p40")
    assert str(told.value) == (
        f"recipe ('ucf101-vit-small-p40') must be one of {', '.join(RECIPES)}. Did you mean ucf101-vit-small-p400?"
    )
    with raises_exactly(ConfigError, "recipe (['a']) must be text."):
        TrainSettings(**TrainSettings.complete(PLACES | {"recipe": ["a"]}))


def test_a_recipe_can_be_added_in_one_entry(monkeypatch):
    made_here = Recipe(
        name="mine", kind="designed here", source="measured", data_set="any clips", settings={"lr": 0.3, "epochs": 7}
    )
    for module in (command, settings_module):
        monkeypatch.setattr(module, "RECIPES", RECIPES | {"mine": made_here})
    assert (made_here.clips_per_step, made_here.as_dict()["backbone"]) == (None, None)
    assert misfits(made_here, config=object(), classes=3, clips_per_step=8) == []
    assert main(["recipes"]) == 0
    assert main(["recipes", "show", "mine", "--toml"]) == 0
    assert TrainSettings.complete({"recipe": "mine", "lr": 0.2}) == {"recipe": "mine", "lr": 0.2, "epochs": 7}


# ---------------------------------------------------------------------------------------------------- what does not fit


class Config:
    hidden_size, num_hidden_layers, patch_size, tubelet_size = 384, 12, 16, 2


def test_nothing_is_said_of_a_run_that_fits(caplog):
    assert recipe_run(TrainSettings(**PLACES), Config(), classes=3) is None
    found = recipe_run(of_recipe("ucf101-vit-small-p400"), Config(), classes=101)
    assert found == {
        "name": "ucf101-vit-small-p400",
        "kind": "published",
        "source": RECIPES["ucf101-vit-small-p400"].source,
        "overridden": {},
        "differs": [],
    }
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_classes_backbone_and_clips_that_do_not_fit_are_told(caplog):
    found = recipe_run(of_recipe("hmdb51-vit-base-p100", batch_size=8), Config(), classes=6)
    assert found["differs"] == [
        "it is for HMDB51 with 51 classes, and the data has 6",
        "it is for a ViT-B, and the backbone has hidden_size 384, not 768",
        "a step of it takes 40 clips, and here 8; rates are scaled with them",
    ]
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"Recipe hmdb51-vit-base-p100: {text}." for text in found["differs"]]
    small = Backbone("ViT-S", 384)
    bare = Recipe(name="x", kind="published", source="", data_set="", settings={}, backbone=small)
    assert misfits(bare, config=object(), classes=1, clips_per_step=1) == [
        "it is for a ViT-S, and the backbone has hidden_size None, not 384; num_hidden_layers None, not 12; "
        "patch_size None, not 16; tubelet_size None, not 2"
    ]


@pytest.mark.parametrize("there", [False, True])
def test_float16_without_a_gpu_is_refused(monkeypatch, there):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: there)
    check_precision(of_recipe("ucf101-vit-base-p1", fp16=False))
    if there:
        check_precision(of_recipe("ucf101-vit-base-p1"))
    else:
        with raises_exactly(
            ConfigError,
            "fp16 (True) must run on a GPU, but there is none here. Take --no-fp16 for float32, or --no-fp16 --bf16; "
            "run.json records what a recipe has otherwise.",
        ):
            check_precision(of_recipe("ucf101-vit-base-p1"))


# ---------------------------------------------------------------------------------------------------------- the command


def test_the_list_names_every_recipe_and_what_tells_them_apart(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "recipe"
    for name, (classes, width, prompts, rate, epochs, clips, _, views) in WRITTEN_OUT.items():
        row = next(line for line in lines if line.split(" ")[0] == name)
        wanted = [classes, {384: "ViT-S", 768: "ViT-B"}[width], prompts or "none", rate, epochs, clips]
        assert [*map(str, wanted), *f"{views[0]} x {views[1]}".split(), "published"] == row.split()[-10:]
    assert any(line.startswith("published: Bandara") for line in lines)


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_recipe_shown_as_toml_is_a_config_that_gives_the_recipe(name, tmp_path, capsys):
    file = tmp_path / "run.toml"
    assert main(["recipes", "show", name, "--toml"]) == 0
    file.write_text(capsys.readouterr().out)
    made = parse("--config", str(file), "--model", "m", "--data", "d", "--out", "o")
    assert made == of_recipe(name)
    assert made.overridden() == {}


def test_a_recipe_is_shown_with_every_value(capsys):
    assert main(["recipes", "show", "ssv2-vit-base-p2"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert json.loads(lines["flip"]) is False
    assert set(RECIPES["ssv2-vit-base-p2"].settings) <= set(lines)
    assert main(["recipes", "show", "ssv2-vit-base-p2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == RECIPES["ssv2-vit-base-p2"].as_dict()
    assert main(["recipes", "--json"]) == 0
    assert [recipe["name"] for recipe in json.loads(capsys.readouterr().out)] == list(RECIPES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shwo"], "action ('shwo') must be show. Did you mean show?"),
        (
            ["ucf101-vit-base-p1"],
            "action ('ucf101-vit-base-p1') must be show. Write: apt-peft recipes show ucf101-vit-base-p1.",
        ),
        (["show"], "name must be given. Add the name of a recipe: apt-peft recipes lists them."),
        (
            ["show", "ucf101-vit-small"],
            "name ('ucf101-vit-small') must be a recipe's, but there is none of this name. "
            "Did you mean ucf101-vit-small-p400? apt-peft recipes lists them.",
        ),
        (
            ["--toml"],
            "toml (True) must be of one recipe and without json: a file of settings holds one. Name it: "
            "apt-peft recipes show NAME --toml.",
        ),
    ],
)
def test_a_command_line_that_cannot_be_followed(words, message, capsys):
    assert main(["recipes", *words]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
