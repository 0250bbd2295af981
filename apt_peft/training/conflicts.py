"""Flags of `apt-peft train` whose values are fine alone and not together."""

from typing import Any

from apt_peft.errors import ConfigError
from apt_peft.settings import above
from apt_peft.training.options import option_conflicts

# Methods of this package; the others are baselines.
OWN = ("apt", "linear")
# Batches that a worker reads ahead unless told otherwise: torch's own number.
PREFETCH = 2


def conflicts(settings: Any) -> list[str]:
    """What of a run's settings cannot be had together.

    Args:
        settings: a `TrainSettings` whose values keep their own rules.

    Returns:
        A sentence for each.
    """
    problems = []
    if settings.method_size is not None and settings.method in OWN:
        problems.append(
            f"method_size ({settings.method_size}) must go with a baseline, but method is {settings.method}. "
            "For prompts, take --num-prompt-tokens."
        )
    if settings.preset is not None and settings.method != "apt":
        problems.append(
            f"preset ({settings.preset}) must go with method apt, but method is {settings.method}. Leave one of them out."
        )
    start = settings.start_from
    if start is not None and settings.method != "apt":
        problems.append(
            f"start_from ({start}) must go with method apt, but method is {settings.method}. Take --method apt."
        )
    if start is not None and settings.init_weights != "published":
        problems.append(
            f"start_from ({start}) must go with init_weights published, but it is {settings.init_weights}, which would put other "
            "prompts in the adapter's place. Leave one out."
        )
    if settings.bf16 and settings.fp16:
        problems.append(
            "bf16 (True) must not be combined with fp16, but both are on. Choose one; where a recipe has the other, "
            "add --no-fp16."
        )
    if settings.fp16 and settings.device == "cpu":
        problems.append(
            "fp16 (True) must run on a GPU, but device is cpu. Use --bf16 there, or float32; where a recipe has fp16, "
            "add --no-fp16."
        )
    if settings.warmup_fraction is not None and settings.warmup_epochs is not None:
        problems.append(
            f"warmup_fraction ({settings.warmup_fraction}) must stand alone, but warmup_epochs is {settings.warmup_epochs:g}. "
            "Choose one."
        )
    if settings.warmup_epochs is not None and settings.warmup_epochs > settings.epochs:
        problems.append(
            f"warmup_epochs ({settings.warmup_epochs:g}) must not exceed epochs, but these are {settings.epochs}. "
            "Lower --warmup-epochs with --epochs, or give --warmup-fraction."
        )
    if settings.prefetch != PREFETCH and not settings.workers:
        problems.append(
            f"prefetch ({settings.prefetch}) must go with workers, which read ahead, but workers is 0. Add --workers 1 or more."
        )
    if settings.cache in ("auto", "none") and settings.cache_format != "raw":
        problems.append(
            f"cache_format ({settings.cache_format!r}) must go with a folder of the cache, since clips then are what JPEG makes "
            f"of them, but cache is {settings.cache}. Name one by --cache."
        )
    if settings.cache == "none" and settings.cache_limit is not None:
        problems.append(
            f"cache_limit ({settings.cache_limit}) must go with a cache, but cache is none. Name a folder by --cache."
        )
    if settings.cache not in ("auto", "none") and settings.augment_resolution == "full":
        problems.append(
            f"cache ({settings.cache!r}) must go with augment_resolution prepared, but it is full, and whole frames are not "
            "kept. Leave the cache out."
        )
    if settings.rand_augment is not None:
        from apt_peft.video.augment import RandAugment  # brings torch, which other flags can do without

        try:
            RandAugment.parse(settings.rand_augment)
        except ConfigError as error:
            problems.append(str(error))
    if settings.random_resized_crop and settings.augment == "crop":
        problems.append(
            "random_resized_crop (True) must go with augment flip or none, but augment is crop, which crops another "
            "part at random. Take --augment flip."
        )
    if settings.repeated_augmentation > 1 and not (
        settings.augment == "crop"
        or (settings.augment == "flip" and settings.flip)
        or settings.rand_augment is not None
        or settings.random_resized_crop
        or settings.random_erasing
    ):
        problems.append(
            f"repeated_augmentation ({settings.repeated_augmentation}) must go with random augmentation, but without any "
            "all copies of a clip are equal. Add --random-resized-crop, or leave it out."
        )
    for name in ("mean", "std"):
        value = getattr(settings, name)
        if value is not None and len(value) != 3:
            problems.append(f"{name} ({list(value)}) must be 3 numbers, one for each of red, green, blue.")
    if settings.std is not None and not all(map(above(0).holds, settings.std)):
        problems.append(f"std ({list(settings.std)}) must be above 0 in every channel.")
    return problems + option_conflicts(settings)
