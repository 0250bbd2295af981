"""How a run's clips are chosen: flags, an adapter's own, a backbone's files, and last ImageNet's."""

import json

import pytest
from helpers import raises_exactly

from apt_peft import ConfigError
from apt_peft.scoring import EvaluateSettings
from apt_peft.training.clips import IMAGENET_MEAN, IMAGENET_STD, ClipSettings, clip_settings, read_processor
from apt_peft.training.settings import TrainSettings

CROP = {"size": {"shortest_edge": 16}, "do_center_crop": True, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
SQUASH = {"size": {"height": 16, "width": 16}, "do_center_crop": False}


def settings(**given) -> EvaluateSettings:
    return EvaluateSettings(adapter="a", data="d", **given)


def clips(folder, trained=None, **given) -> ClipSettings:
    return clip_settings(settings(**given), model=str(folder), frames=4, size=16, trained=trained)


@pytest.mark.parametrize(
    ("processor", "resize", "mean"),
    [(None, "crop", IMAGENET_MEAN), (CROP, "crop", (0, 0, 0)), (SQUASH, "squash", IMAGENET_MEAN)],
)
def test_the_backbones_own_preprocessor_decides(tmp_path, processor, resize, mean):
    if processor is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = clips(tmp_path)
    assert (found.resize, found.mean, found.num_frames, found.size, found.sampling) == (resize, mean, 4, 16, "even")
    # What is written for pipelines reads back as the same.
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(found.processor()))
    assert clips(tmp_path) == found


def test_flags_win_and_then_what_the_adapter_was_trained_with(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SQUASH))
    trained = ClipSettings(4, "dense", 2, 16, "crop", (0.5, 0.5, 0.5), IMAGENET_STD, 5, 3)
    assert clips(tmp_path, trained) == trained
    found = clips(tmp_path, trained, crops=1, sampling="uniform", num_frames=4)
    assert (found.crops, found.segments, found.sampling, found.frame_stride) == (1, 5, "uniform", 2)
    assert ClipSettings.from_dict(json.loads(json.dumps(trained.as_dict()))) == trained


def test_frames_and_size_that_the_backbone_cannot_take(tmp_path):
    with raises_exactly(
        ConfigError,
        "2 settings are wrong:\n"
        f"  num_frames (8) must be what the backbone was made for, but {tmp_path} takes 4. "
        "Leave --num-frames out, or convert the backbone.\n"
        f"  size (32) must be what the backbone was made for, but {tmp_path} takes 16. "
        "Leave --size out, or convert the backbone.",
    ):
        clips(tmp_path, num_frames=8, size=32)
    with raises_exactly(
        ConfigError,
        f"size (224) must be what the backbone was made for, but {tmp_path} takes 16. "
        "Take the backbone of recipe ucf101-vit-base-p1, or override it by --size 16.",
    ):
        recipe = TrainSettings.of_recipe("ucf101-vit-base-p1", model="m", data="d", out="o", num_frames=4)
        clip_settings(recipe, model=str(tmp_path), frames=4, size=16)


def test_crops_of_a_squashed_picture(tmp_path):
    with raises_exactly(
        ConfigError,
        "crops (3) must be 1 with resize squash, but squashed frames have no longer side. Use --resize crop.",
    ):
        clips(tmp_path, crops=3, resize="squash")


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"), ("[]", "it is not a table")],
)
def test_a_damaged_preprocessor(tmp_path, content, reason):
    (tmp_path / "preprocessor_config.json").write_text(content)
    with raises_exactly(
        ConfigError,
        f"model ({tmp_path}) must have a preprocessor_config.json of JSON, but: {reason}. Restore or delete the file.",
    ):
        read_processor(str(tmp_path))
