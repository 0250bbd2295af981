"""Multiply-adds of a contender, where they can be counted."""

from typing import Any

from apt_peft.baselines.methods import method_of
from apt_peft.cost import arithmetic
from apt_peft.errors import AptError
from apt_peft.training.settings import TrainSettings


def multiply_adds(settings: TrainSettings, config: Any) -> int | None:
    """What the forward of one clip costs.

    Args:
        settings: of a run.
        config: of the backbone, of transformers.

    Returns:
        Multiply-adds; None where they are not known: of other backbones, and of gates.
    """
    if settings.method == "apt" and settings.key_gate:
        return None
    size = settings.num_prompt_tokens if settings.method == "apt" else settings.method_size
    if size is None:
        size = 0 if settings.method == "linear" else method_of(settings.method).default_size
    try:
        shapes = arithmetic.Shapes.of_config(config)
        changes = {"frames": settings.num_frames, "image": settings.size}
        shapes = shapes.changed(**{name: value for name, value in changes.items() if value is not None})
        layers = settings.layers_to_transform if settings.method == "apt" else None
        return int(arithmetic.total(arithmetic.multiply_adds(shapes, settings.method, size, layers)).forward)
    except AptError:
        return None
