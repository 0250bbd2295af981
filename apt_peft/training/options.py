"""Which of a run's optional settings go together: mixed and erased clips, skewed classes, stored features."""

from typing import Any

# Folder of stored features, in that of a run's own caches.
FEATURES = "features"
# Settings by which training clips are changed at random, and their values that change nothing.
RANDOM = {"augment": "none", "rand_augment": None, "random_resized_crop": False, "random_erasing": 0.0}


def random_changes(settings: Any) -> list[str]:
    """What makes a run's training clips differ from epoch to epoch.

    Args:
        settings: the run's flags.

    Returns:
        The settings as text: `augment flip`; none where every epoch sees the same clips.
    """
    still = RANDOM | ({"augment": settings.augment} if settings.augment == "flip" and not settings.flip else {})
    found = [f"{name} {getattr(settings, name)}" for name, value in still.items() if getattr(settings, name) != value]
    return found + ([f"sampling {settings.sampling}"] if settings.sampling != "even" else [])


def option_conflicts(settings: Any) -> list[str]:
    """Optional settings that are fine alone and not together.

    Args:
        settings: the run's flags.

    Returns:
        A sentence each.
    """
    return [*_mixing(settings), *_classes(settings), *_features(settings)]


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


def _features(settings: Any) -> list[str]:
    cache, views = settings.feature_cache, settings.feature_views
    if cache is None:
        if views is None:
            return []
        return [f"feature_views ({views}) must go with feature_cache, but there is none. Add --feature-cache auto."]
    problems = []
    if settings.method != "linear":
        problems.append(
            f"feature_cache ({cache!r}) must go with method linear, but method is {settings.method}, and prompts change "
            "what the backbone makes of a clip. Leave it out."
        )
    mixes = [name for name in ("mixup", "cutmix") if getattr(settings, name)]
    if mixes:
        problems.append(
            f"feature_cache ({cache!r}) must not go with {' and '.join(mixes)}, but clips are mixed anew in each step. "
            "Leave one of them out."
        )
    changes = random_changes(settings)
    if changes and views is None:
        problems.append(
            f"feature_cache ({cache!r}) must go with clips that are the same in each epoch, but these are not, by "
            f"{', '.join(changes)}. Add --feature-views 4 for so many fixed draws of each, or take clips without random changes."
        )
    if views is not None and views > 1 and not changes:
        problems.append(
            f"feature_views ({views}) must go with random changes of clips, but without any all views of a clip are equal. "
            "Add --augment flip, or leave it out."
        )
    return problems
