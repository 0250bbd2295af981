"""Which of a run's optional settings go together: mixed clips and skewed classes."""

from typing import Any


def option_conflicts(settings: Any) -> list[str]:
    """Optional settings that are fine alone and not together.

    Args:
        settings: the run's flags.

    Returns:
        A sentence each.
    """
    return [*_mixing(settings), *_classes(settings)]


def _mixing(settings: Any) -> list[str]:
    problems = []
    mixes = [name for name in ("mixup", "cutmix") if getattr(settings, name)]
    if mixes and settings.batch_size == 1:
        problems.append(
            f"batch_size (1) must be 2 or more with {mixes[0]}, but a clip alone has none to be mixed with. "
            "Make it larger, and --gradient-accumulation-steps smaller."
        )
    if settings.mixup_prob is not None and not mixes:
        problems.append(
            f"mixup_prob ({settings.mixup_prob:g}) must go with mixup or cutmix, but neither is on. Add --mixup 0.8."
        )
    if settings.mixup_switch_prob is not None and len(mixes) < 2:
        problems.append(
            f"mixup_switch_prob ({settings.mixup_switch_prob:g}) must go with mixup and cutmix, but not both are on. "
            "Add the other, or leave it out."
        )
    return problems


def _classes(settings: Any) -> list[str]:
    problems = []
    if settings.focal_gamma is not None and settings.loss != "focal":
        problems.append(
            f"focal_gamma ({settings.focal_gamma:g}) must go with loss focal, but loss is {settings.loss}. Add --loss focal."
        )
    if settings.class_weights_beta is not None and settings.class_weights != "effective":
        problems.append(
            f"class_weights_beta ({settings.class_weights_beta:g}) must go with class_weights effective, but class_weights is "
            f"{settings.class_weights}. Add --class-weights effective."
        )
    if settings.balanced_sampling and settings.class_weights != "none":
        problems.append(
            f"class_weights ({settings.class_weights!r}) must be none with balanced_sampling, but then every class is seen as "
            "often, and rare ones would count too much. Leave one of them out."
        )
    return problems
