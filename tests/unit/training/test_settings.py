"""Every flag's rule, every message, and the road from TOML and command line to settings."""

import argparse
from pathlib import Path

import pytest
from helpers import raises_exactly

from apt_peft import ConfigError, settings
from apt_peft.commands.check import CheckSettings
from apt_peft.scoring import EvaluateSettings, PredictSettings
from apt_peft.training.settings import TrainSettings

PLACES = {"model": "m", "data": "d", "out": "o"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model", "", "model ('') must be text."),
        ("model", 3, "model (3) must be text."),
        ("model", None, "model (None) must be text."),
        ("epochs", 0, "epochs (0) must be at least 1."),
        ("epochs", 1.5, "epochs (1.5) must be a whole number."),
        ("epochs", True, "epochs (True) must be a whole number."),
        ("epochs", "ten", "epochs ('ten') must be a whole number."),
        ("lr", -0.1, "lr (-0.1) must be at least 0."),
        ("lr", float("nan"), "lr (nan) must be a finite number."),
        ("lr", float("inf"), "lr (inf) must be a finite number."),
        (
            "method",
            "lorra",
            "method ('lorra') must be one of apt, linear, vpt-shallow, vpt-deep, adaptformer, bitfit, lora, ia3, oft, ln, "
            "partial, full. Did you mean lora?",
        ),
        ("sampling", "dens", "sampling ('dens') must be one of even, uniform, dense. Did you mean dense?"),
        ("val_fraction", 1, "val_fraction (1) must be at least 0 and below 1."),
        ("warmup_fraction", 1.1, "warmup_fraction (1.1) must be at least 0 and at most 1."),
        ("num_prompt_tokens", 65537, "num_prompt_tokens (65537) must be at least 1 and at most 65536."),
        ("bf16", "yes", "bf16 ('yes') must be true or false."),
        ("layers_to_transform", [0, "1"], "layers_to_transform ([0, '1']) must be whole numbers."),
        *(
            (
                "layers_to_transform",
                layers,
                f"layers_to_transform ({layers}) must be a list of at least one layer, counted from 0. "
                "For a head without prompts, take --method linear.",
            )
            for layers in ([], [0, -1])
        ),
        ("mean", [0.5, "x", 0.5], "mean ([0.5, 'x', 0.5]) must be finite numbers."),
        ("mean", (0.5,), "mean ([0.5]) must be 3 numbers, one for each of red, green, blue."),
        ("std", (1.0, 0.0, 1.0), "std ([1.0, 0.0, 1.0]) must be above 0 in every channel."),
    ],
)
def test_each_rule_has_a_message(name, value, message):
    with raises_exactly(ConfigError, message):
        TrainSettings(**(PLACES | {name: value}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"bf16": True, "fp16": True},
            "bf16 (True) must not be combined with fp16, but both are on. Choose one; where a recipe has the other, "
            "add --no-fp16.",
        ),
        (
            {"fp16": True, "device": "cpu"},
            "fp16 (True) must run on a GPU, but device is cpu. Use --bf16 there, or float32; where a recipe has fp16, "
            "add --no-fp16.",
        ),
        (
            {"warmup_fraction": 0.2, "warmup_epochs": 2},
            "warmup_fraction (0.2) must stand alone, but warmup_epochs is 2. Choose one.",
        ),
        (
            {"warmup_epochs": 2.5, "epochs": 2},
            "warmup_epochs (2.5) must not exceed epochs, but these are 2. Lower --warmup-epochs with --epochs, or give "
            "--warmup-fraction.",
        ),
        (
            {"cache": "frames", "augment_resolution": "full"},
            "cache ('frames') must go with augment_resolution prepared, but it is full, and whole frames are not kept. "
            "Leave the cache out.",
        ),
        (
            {"random_resized_crop": True, "augment": "crop"},
            "random_resized_crop (True) must go with augment flip or none, but augment is crop, which crops another part "
            "at random. Take --augment flip.",
        ),
        (
            {"repeated_augmentation": 2, "augment": "none"},
            "repeated_augmentation (2) must go with random augmentation, but without any all copies of a clip are equal. "
            "Add --random-resized-crop, or leave it out.",
        ),
        (
            {"repeated_augmentation": 2, "flip": False},
            "repeated_augmentation (2) must go with random augmentation, but without any all copies of a clip are equal. "
            "Add --random-resized-crop, or leave it out.",
        ),
        (
            {"rand_augment": "rand-m4-q1"},
            "rand_augment ('rand-m4-q1') must be rand and parts with dashes between, each once at most, but 'q1' cannot "
            "stand there. The parts are m0 to m10, the magnitude; n1 to n15, the operations of a clip; mstd0 to mstd100, "
            "the magnitude's deviation; inc0 or inc1, whether all operations grow with the magnitude.",
        ),
        (
            {"prefetch": 8},
            "prefetch (8) must go with workers, which read ahead, but workers is 0. Add --workers 1 or more.",
        ),
        (
            {"cache_format": "jpeg"},
            "cache_format ('jpeg') must go with a folder of the cache, since clips then are what JPEG makes of them, but cache "
            "is auto. Name one by --cache.",
        ),
        (
            {"cache": "none", "cache_limit": "20GB"},
            "cache_limit (20000000000) must go with a cache, but cache is none. Name a folder by --cache.",
        ),
        (
            {"cache_limit": "20 elephants"},
            "cache_limit ('20 elephants') must be a number of bytes above 0, or such as 500MB or 20GB.",
        ),
    ],
)
def test_values_that_do_not_go_together(values, message):
    with raises_exactly(ConfigError, message):
        TrainSettings(**(PLACES | values))


def test_all_bad_values_are_named_at_once():
    with raises_exactly(
        ConfigError,
        "3 settings are wrong:\n"
        "  num_frames (0) must be at least 1.\n"
        "  sampling ('no') must be one of even, uniform, dense.\n"
        "  epochs (0) must be at least 1.",
    ):
        TrainSettings(**PLACES, epochs=0, num_frames=0, sampling="no")


def test_values_are_made_plain():
    made = TrainSettings(**(PLACES | {"out": Path("x")}), lr=1, mean=[0, 0, 1], layers_to_transform=[1, 2])
    assert made.out == "x"
    assert (made.lr, type(made.lr)) == (1.0, float)
    assert made.mean == (0.0, 0.0, 1.0)
    assert made.layers_to_transform == (1, 2)
    assert made.as_dict()["layers_to_transform"] == [1, 2]


def parse(cls, *words: str):
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser, cls, config=cls is TrainSettings)
    return settings.from_arguments(cls, vars(parser.parse_args(words)))


def test_every_flag_reaches_its_setting():
    made = parse(
        TrainSettings, "--model", "m", "--data", "d", "--out", "o", "--epochs", "3", "--lr", "1e-3", "--no-test",
        "--bf16", "--layers-to-transform", "0", "2", "--std", "0.5", "0.5", "0.5", "--val-fraction", "0",
    )  # fmt: skip
    assert made == TrainSettings(
        **PLACES, epochs=3, lr=0.001, test=False, bf16=True, layers_to_transform=(0, 2), std=(0.5, 0.5, 0.5), val_fraction=0.0
    )  # fmt: skip


@pytest.mark.parametrize("cls", [TrainSettings, EvaluateSettings, PredictSettings, CheckSettings])
def test_every_setting_has_a_flag_with_help(cls):
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser, cls)
    shown = parser.format_help()
    for field in settings.dataclasses.fields(cls):
        table = field.metadata
        assert (table["metavar"] if table["positional"] else f"--{field.name.replace('_', '-')}") in shown
        assert table["help"]


def test_a_file_is_read_and_flags_override_it(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('model = "m"\ndata = "d"\nout = "o"\nnum-prompt-tokens = 7\nepochs = 3\nlr = 1\nmean = [0, 0, 0]\n')
    made = parse(TrainSettings, "--config", str(file), "--epochs", "4")
    assert made == TrainSettings(**PLACES, num_prompt_tokens=7, epochs=4, lr=1.0, mean=(0.0, 0.0, 0.0))


def test_a_flag_heals_a_bad_value_of_the_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("epochs = 0\n")
    assert (
        parse(
            TrainSettings, "--config", str(file), *["--model", "m", "--data", "d", "--out", "o", "--epochs", "2"]
        ).epochs
        == 2
    )


def test_unknown_keys_missing_settings_and_bad_values_are_named_at_once(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('model = "m"\nnum_promt_tokens = 7\nxyz = 1\nepochs = "x"\n')
    with raises_exactly(
        ConfigError,
        "6 settings are wrong:\n"
        f"  num_promt_tokens must be the name of a flag, but {file} has it and there is no such setting. "
        "Did you mean num_prompt_tokens?\n"
        f"  xyz must be the name of a flag, but {file} has it and there is no such setting.\n"
        "  epochs ('x') must be a whole number.\n"
        "  lr ('fast') must be a finite number.\n"
        "  data must be given. Add --data.\n"
        "  out must be given. Add --out.",
    ):
        parse(TrainSettings, "--config", str(file), "--lr", "fast")


def test_a_missing_positional_is_named_as_the_help_names_it():
    with raises_exactly(ConfigError, "2 settings are wrong:\n  adapter must be given. Add --adapter.\n"
                        "  clips must be given. Add CLIP_OR_FOLDER."):  # fmt: skip
        parse(PredictSettings)


def test_a_config_file_that_is_not_there(tmp_path):
    with raises_exactly(
        ConfigError,
        f"config ({tmp_path / 'no.toml'}) must be a file that can be read, but: No such file or directory. Check the path.",
    ):
        settings.read_toml(tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"epochs = ", "Invalid value (at end of document)"),
        (b"\xff\xfe\x00", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_a_config_file_that_is_no_toml(tmp_path, content, reason):
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    with raises_exactly(ConfigError, f"config ({file}) must be TOML, but: {reason}."):
        settings.read_toml(file)


def test_what_decides_a_result_is_told_from_where_and_how_it_is_made():
    one = TrainSettings(**PLACES, workers=4, prefetch=3, threads=2, resume=True, push_to_hub="a/b", progress=False)
    assert one.what_comes_out() == TrainSettings(model="n", data="e", out="p").what_comes_out()
    assert one.what_comes_out() != TrainSettings(**PLACES, label_smoothing=0.0).what_comes_out()


@pytest.mark.parametrize(
    ("given", "taken"), [("20GB", 20 * 10**9), ("1.5 tb", 1_500_000_000_000), ("700", 700), (700, 700), ("2kb", 2000)]
)
def test_sizes_are_numbers_of_bytes(given, taken):
    assert TrainSettings(model="m", data="d", out="o", cache_limit=given).cache_limit == taken
