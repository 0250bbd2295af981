"""Multiply-adds of a contender, where they can be counted."""

from typing import Any

import torch
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForVideoClassification

from apt_peft.baselines.methods import method_of
from apt_peft.cost import arithmetic
from apt_peft.errors import AptError
from apt_peft.training.base import frames_and_size
from apt_peft.training.prompts import method_config
from apt_peft.training.settings import TrainSettings


def multiply_adds(settings: TrainSettings, config: Any) -> int | None:
    """What the forward of one clip costs.

    Args:
        settings: of a run.
        config: of the backbone, of transformers.

    Returns:
        Multiply-adds; None where they cannot be counted.
    """
    size = settings.num_prompt_tokens if settings.method == "apt" else settings.method_size
    if size is None:
        size = 0 if settings.method == "linear" else method_of(settings.method).default_size
    try:
        if settings.method == "apt" and settings.key_gate:
            return counted(settings, config)
        shapes = arithmetic.Shapes.of_config(config)
        changes = {"frames": settings.num_frames, "image": settings.size}
        shapes = shapes.changed(**{name: value for name, value in changes.items() if value is not None})
        layers = settings.layers_to_transform if settings.method == "apt" else None
        return int(arithmetic.total(arithmetic.multiply_adds(shapes, settings.method, size, layers)).forward)
    except AptError:
        return counted(settings, config)


def counted(settings: TrainSettings, config: Any) -> int | None:
    """The same by torch's counter, under eager attention and without computing anything.

    Args:
        settings: of a run.
        config: of the backbone, of transformers.

    Returns:
        Multiply-adds; None where the backbone has operations that are not known without numbers.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    frames, pixels = frames_and_size(config)
    pixels = settings.size or pixels
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        base = AutoModelForVideoClassification.from_config(config, attn_implementation="eager")
        peft_config = method_config(settings, base)
        if getattr(peft_config, "init_weights", None) == "data":
            peft_config.init_weights = True  # type: ignore[attr-defined]
        model = get_peft_model(base, peft_config).eval()  # type: ignore[arg-type]
        clip = mode.from_tensor(torch.zeros(1, settings.num_frames or frames, 3, pixels, pixels))
        with mode, torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**{base.main_input_name: clip})
    except (AptError, RuntimeError, ValueError):
        return None
    return int(counter.get_total_flops()) // 2  # it counts a multiplication and an addition
