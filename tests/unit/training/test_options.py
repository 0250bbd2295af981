"""Optional settings that do not go together, each refused with a whole message."""

import pytest
from helpers import raises_exactly

from apt_peft import ConfigError
from apt_peft.training.options import random_changes
from apt_peft.training.settings import TrainSettings

PLACES = {"model": "m", "data": "d", "out": "o"}
LINEAR = {"method": "linear", "augment": "none", "feature_cache": "auto"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixup": -1}, "mixup (-1) must be at least 0."),
        ({"random_erasing": 2}, "random_erasing (2) must be at least 0 and at most 1."),
        (
            {"loss": "focall"},
            "loss ('focall') must be one of cross-entropy, focal. Did you mean focal?",
        ),
        (
            {"cutmix": 1.0, "batch_size": 1},
            "batch_size (1) must be 2 or more with cutmix, but a clip alone has none to be mixed with. "
            "Make it larger, and --gradient-accumulation-steps smaller.",
        ),
        (
            {"mixup_prob": 0.5},
            "mixup_prob (0.5) must go with mixup or cutmix, but neither is on. Add --mixup 0.8.",
        ),
        (
            {"mixup": 0.8, "mixup_switch_prob": 0.5},
            "mixup_switch_prob (0.5) must go with mixup and cutmix, but not both are on. Add the other, or leave it out.",
        ),
        (
            {"focal_gamma": 1.0},
            "focal_gamma (1) must go with loss focal, but loss is cross-entropy. Add --loss focal.",
        ),
        (
            {"class_weights": "balanced", "class_weights_beta": 0.9},
            "class_weights_beta (0.9) must go with class_weights effective, but class_weights is balanced. "
            "Add --class-weights effective.",
        ),
        (
            {"class_weights": "balanced", "balanced_sampling": True},
            "class_weights ('balanced') must be none with balanced_sampling, but then every class is seen as often, and rare "
            "ones would count too much. Leave one of them out.",
        ),
        (
            {"feature_views": 2, "method": "linear"},
            "feature_views (2) must go with feature_cache, but there is none. Add --feature-cache auto.",
        ),
        (
            {**LINEAR, "method": "apt"},
            "feature_cache ('auto') must go with method linear, but method is apt, and prompts change what the backbone makes "
            "of a clip. Leave it out.",
        ),
        (
            {**LINEAR, "mixup": 0.8, "cutmix": 1.0},
            "feature_cache ('auto') must not go with mixup and cutmix, but clips are mixed anew in each step. "
            "Leave one of them out.",
        ),
        (
            {**LINEAR, "augment": "flip", "random_erasing": 0.25, "sampling": "dense"},
            "feature_cache ('auto') must go with clips that are the same in each epoch, but these are not, by augment flip, "
            "random_erasing 0.25, sampling dense. Add --feature-views 4 for so many fixed draws of each, or take clips without "
            "random changes.",
        ),
        (
            {**LINEAR, "feature_views": 3},
            "feature_views (3) must go with random changes of clips, but without any all views of a clip are equal. "
            "Add --augment flip, or leave it out.",
        ),
    ],
)
def test_each_is_told(values, message):
    with raises_exactly(ConfigError, message):
        TrainSettings(**(PLACES | values))


@pytest.mark.parametrize(
    "values",
    [
        {"mixup": 0.8, "cutmix": 1.0, "mixup_prob": 0.5, "mixup_switch_prob": 0.3, "class_weights": "balanced"},
        {"loss": "focal", "focal_gamma": 0, "class_weights": "effective", "class_weights_beta": 0.99},
        {"balanced_sampling": True, "loss": "focal", "random_erasing": 0.25, "mixup": 0.8},
        {"augment": "none", "random_erasing": 0.25, "repeated_augmentation": 2},
        LINEAR,
        {**LINEAR, "feature_views": 1},
        {"feature_cache": "none"},  # of the command line
        {**LINEAR, "augment": "crop", "feature_views": 3, "balanced_sampling": True, "class_weights": "none"},
        {**LINEAR, "sampling": "dense", "feature_views": 3, "loss": "focal"},
    ],
)
def test_what_goes_together(values):
    TrainSettings(**(PLACES | values))


def test_what_changes_clips_at_random():
    assert random_changes(TrainSettings(**PLACES)) == ["augment flip"]
    assert random_changes(TrainSettings(**PLACES, augment="none")) == []
    assert random_changes(TrainSettings(**PLACES, flip=False)) == []
    assert random_changes(TrainSettings(**PLACES, flip=False, augment="crop")) == ["augment crop"]
    given = {"augment": "none", "rand_augment": "rand-m4-n2", "random_resized_crop": True, "sampling": "uniform"}
    assert random_changes(TrainSettings(**PLACES, **given)) == [
        "rand_augment rand-m4-n2",
        "random_resized_crop True",
        "sampling uniform",
    ]


def test_all_of_them_are_off_by_default():
    settings = TrainSettings(**PLACES)
    assert (settings.mixup, settings.cutmix, settings.random_erasing, settings.balanced_sampling) == (0, 0, 0, False)
    assert (settings.loss, settings.class_weights, settings.feature_cache) == ("cross-entropy", "none", None)
