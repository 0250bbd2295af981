"""Optional settings that do not go together, each refused with a whole message."""

import pytest
from helpers import raises_exactly

from apt_peft import ConfigError
from apt_peft.training.settings import TrainSettings

PLACES = {"model": "m", "data": "d", "out": "o"}


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
    ],
)
def test_what_goes_together(values):
    TrainSettings(**(PLACES | values))


def test_all_of_them_are_off_by_default():
    settings = TrainSettings(**PLACES)
    assert (settings.mixup, settings.cutmix, settings.random_erasing, settings.balanced_sampling) == (0, 0, 0, False)
    assert (settings.loss, settings.class_weights) == ("cross-entropy", "none")
