"""The sides of a comparison: a method with its size, and the model that it makes of a random backbone."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn

from apt_peft.cost.arithmetic import (
    BARE,
    PROMPTED,
    PUBLISHED,
    VISUAL,
    WITHOUT_SIZE,
    Shapes,
    check_method,
)
from apt_peft.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Contender:
    """One way to train, as it stands in a table.

    Args:
        method: a name of `arithmetic.COUNTED`.
        size: P, rank, width or blocks; 0 for a method that has none.
        layers: those with prompts; None for all.
    """

    method: str
    size: int = 0
    layers: tuple[int, ...] | None = None

    @property
    def label(self) -> str:
        """The method with its size and layers, for people."""
        letter = {"lora": "r", "adaptformer": "width", "partial": "blocks"}.get(self.method, "P")
        text = f"{self.method} {letter}={self.size}" if self.size else self.method
        if self.layers is None:
            return text
        return f"{text}, layer{'s' if len(set(self.layers)) > 1 else ''} {spans(self.layers)}"


def spans(layers: Sequence[int]) -> str:
    """Layers in short: `0, 9-11`."""
    runs: list[list[int]] = []
    for layer in sorted(set(layers)):
        if runs and runs[-1][-1] + 1 == layer:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def contenders(
    methods: Sequence[str], prompts: Sequence[int], shapes: Shapes, layers: Sequence[int] | None = None
) -> list[Contender]:
    """The rows of a table.

    Args:
        methods: names, with the size behind a colon (`lora:8`) where it is not the method's default; attention and
            visual prompts without one stand once for each of `prompts`.
        prompts: P of these.
        shapes: of the backbone.
        layers: attention prompts stand a second time with prompts in these alone.

    Returns:
        Contenders, each once.

    Raises:
        ConfigError: a method, a size or layers that cannot be.
    """
    found: list[Contender] = []
    for text in methods:
        method, _, size = text.partition(":")
        if size and not size.isdecimal():
            raise ConfigError(f"methods ({text}) must have a whole number behind the colon, such as lora:8.")
        if size or method not in (*PROMPTED, *VISUAL):
            sizes: Sequence[int] = [int(size) if size else default_size(method)]
        else:
            sizes = prompts
        for number in sizes:
            check_method(method, number, shapes, None)
            found.append(Contender(method, number))
            if layers is not None and method in PROMPTED:
                check_method(method, number, shapes, layers)
                found.append(Contender(method, number, tuple(sorted(set(layers)))))
    return list(dict.fromkeys(found))


def default_size(method: str) -> int:
    """The size of a method where none is given; 0 where it has none or is unknown."""
    from apt_peft.baselines.methods import METHODS

    return METHODS[method].default_size if method in METHODS and method not in WITHOUT_SIZE else 0


def config_of(shapes: Shapes, implementation: str) -> Any:
    """A VideoMAE's config with these shapes.

    Args:
        shapes: of the backbone.
        implementation: of its attention: "sdpa", "eager", ...

    Returns:
        A config of transformers, without dropout, with mean pooling.
    """
    from transformers import VideoMAEConfig

    return VideoMAEConfig(
        hidden_size=shapes.hidden,
        num_hidden_layers=shapes.layers,
        num_attention_heads=shapes.heads,
        intermediate_size=shapes.mlp,
        image_size=shapes.image,
        patch_size=shapes.patch,
        num_frames=shapes.frames,
        tubelet_size=shapes.tubelet,
        num_channels=shapes.channels,
        num_labels=shapes.labels,
        qv_bias=shapes.query_value_bias,
        use_mean_pooling=True,
        attn_implementation=implementation,
    )


def build(
    contender: Contender,
    shapes: Shapes,
    *,
    implementation: str = "sdpa",
    device: str = "cpu",
    dtype: str = "float32",
) -> nn.Module:
    """A random backbone with a method on it; the published design has eager attention whatever is asked for.

    Args:
        contender: the method.
        shapes: of the backbone.
        implementation: of the attention.
        device: of the weights.
        dtype: of the weights; what a method trains is of PEFT's choice.

    Returns:
        The model, in training mode.

    Raises:
        ConfigError: a method, a size or layers that cannot be.
    """
    from peft import get_peft_model
    from transformers import VideoMAEForVideoClassification

    from apt_peft.baselines.methods import method_config
    from apt_peft.tuner import AttentionPromptConfig

    check_method(contender.method, contender.size, shapes, contender.layers)
    implementation = "eager" if contender.method == PUBLISHED else implementation
    base = VideoMAEForVideoClassification(config_of(shapes, implementation)).to(device, DTYPES[dtype])
    if contender.method == BARE:
        return base.requires_grad_(False).train()
    if contender.method in PROMPTED:
        layers = None if contender.layers is None else list(contender.layers)
        settings: Any = AttentionPromptConfig(num_prompt_tokens=contender.size, layers_to_transform=layers)
    else:
        settings = method_config(contender.method, base, contender.size or None)
    with warnings.catch_warnings():  # PEFT's LN tuning asks its own norms for in_features
        warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
        return get_peft_model(base, settings).train()


def example(shapes: Shapes, *, batch: int, device: str = "cpu", dtype: str = "float32") -> dict[str, torch.Tensor]:
    """A batch of noise with labels, (B, T, C, height, width) and (B,)."""
    size = (batch, shapes.frames, shapes.channels, *shapes.image)
    return {
        "pixel_values": torch.randn(size, device=device, dtype=DTYPES[dtype]),
        "labels": torch.zeros(batch, dtype=torch.long, device=device),
    }
