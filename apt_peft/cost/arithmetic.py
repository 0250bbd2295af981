"""Multiply-adds and parameters from shapes alone: what a forward and a backward cost, part by part.

Counted are the products of matrices (and the patch embedding, which is one): what grows with the width. Norms, softmax,
GELU, sums and the optimizer are not. All counts are of one clip.

Source: the shapes of a plain vision transformer; Bandara & Patel (FG 2024) for prompts, Jia et al. (ECCV 2022) for VPT,
Hu et al. (ICLR 2022) for LoRA, Chen et al. (NeurIPS 2022) for AdaptFormer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from apt_peft.errors import ConfigError, TargetError
from apt_peft.settings import check_known

BARE, PUBLISHED = "bare", "published"
# "published" is attention prompts by eager attention over concatenated keys and values: the same products, kept otherwise
PROMPTED = ("apt", PUBLISHED)
VISUAL = ("vpt-shallow", "vpt-deep")
WITHOUT_SIZE = (BARE, "linear", "full", "bitfit", "ln", "ia3")
COUNTED = (*WITHOUT_SIZE[:3], *PROMPTED, *VISUAL, "lora", "adaptformer", "bitfit", "ln", "ia3", "partial")


@dataclass(frozen=True)
class Shapes:
    """The sizes of a VideoMAE that its cost follows from.

    Args:
        hidden: width of the tokens.
        layers: blocks.
        heads: of the attention.
        mlp: width of the MLP's hidden layer.
        image: height and width in pixels.
        patch: height and width of a patch in pixels.
        frames: T, of a clip.
        tubelet: frames of a token.
        channels: C.
        labels: outputs of the head.
        query_value_bias: whether query and value have biases, as published.
    """

    hidden: int = 384
    layers: int = 12
    heads: int = 6
    mlp: int = 1536
    image: tuple[int, int] = (224, 224)
    patch: tuple[int, int] = (16, 16)
    frames: int = 16
    tubelet: int = 2
    channels: int = 3
    labels: int = 101
    query_value_bias: bool = True

    @property
    def tokens(self) -> int:
        """N, patch tokens of a clip."""
        return (self.frames // self.tubelet) * (self.image[0] // self.patch[0]) * (self.image[1] // self.patch[1])

    @property
    def head_dim(self) -> int:
        """D, width of one head."""
        return self.hidden // self.heads

    @property
    def patch_elements(self) -> int:
        """Numbers that one token is made of."""
        return self.channels * self.tubelet * self.patch[0] * self.patch[1]

    @classmethod
    def of_config(cls, config: Any) -> "Shapes":
        """The sizes that a VideoMAE's config states.

        Args:
            config: of transformers.

        Returns:
            The shapes.

        Raises:
            TargetError: the config is of another architecture.
        """
        if getattr(config, "model_type", None) != "videomae":
            raise TargetError(
                f"model (of type {getattr(config, 'model_type', None)!r}) must be a VideoMAE, for its shapes are what is "
                "counted. Name a VideoMAE."
            )
        return cls(
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            mlp=config.intermediate_size,
            image=_pair(config.image_size),
            patch=_pair(config.patch_size),
            frames=config.num_frames,
            tubelet=config.tubelet_size,
            channels=config.num_channels,
            labels=config.num_labels,
            query_value_bias=config.qv_bias,
        )

    def changed(self, **changes: Any) -> "Shapes":
        """The same with other sizes; an image size may be one number."""
        if isinstance(changes.get("image"), int):
            changes["image"] = _pair(changes["image"])
        return replace(self, **changes)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


VIT_S = Shapes()
VIT_B = Shapes(hidden=768, heads=12, mlp=3072)
VIT_L = Shapes(hidden=1024, layers=24, heads=16, mlp=4096)
BACKBONES = {"vit-s": VIT_S, "vit-b": VIT_B, "vit-l": VIT_L}


class Work(NamedTuple):
    """Multiply-adds of one part."""

    forward: int
    backward: int

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]
        return Work(self.forward + other.forward, self.backward + other.backward)

    @property
    def step(self) -> int:
        """Forward and backward."""
        return self.forward + self.backward


def check_method(method: str, size: int, shapes: Shapes, layers: Sequence[int] | None) -> None:
    """Refuse what cannot be counted.

    Args:
        method: its name.
        size: of the method; 0 for one that has none.
        shapes: of the backbone.
        layers: those with prompts; None for all.

    Raises:
        ConfigError: an unknown method, a size that it cannot have, or layers that are not there.
    """
    check_known("method", method, COUNTED)
    if method in WITHOUT_SIZE and size:
        raise ConfigError(f"size ({size}) must be left out for {method}, which has none.")
    if method not in WITHOUT_SIZE and size < 1:
        raise ConfigError(f"size ({size}) of {method} must be a whole number from 1 on.")
    if method == "partial" and size > shapes.layers:
        raise ConfigError(f"size ({size}) of partial must be at most the backbone's {shapes.layers} blocks.")
    if layers is None:
        return
    if method not in PROMPTED:
        raise ConfigError(f"layers_to_transform ({list(layers)}) must be of prompts, but {method} has none.")
    if not layers or not all(0 <= layer < shapes.layers for layer in layers):
        raise ConfigError(
            f"layers_to_transform ({list(layers)}) must name layers of the backbone's {shapes.layers}, "
            f"0 to {shapes.layers - 1}."
        )


def multiply_adds(
    shapes: Shapes, method: str = BARE, size: int = 0, layers: Sequence[int] | None = None
) -> dict[str, Work]:
    """What one clip costs, part by part.

    Forward: the products that are computed. Backward: of each product A B, one more as large for the gradient of A
    where that is needed, and one for that of B; kernels that compute the attention's weights anew do one more than that.
    A gradient is needed of what is trained, and of what was computed from it: nothing below the first trained part.

    Args:
        shapes: of the backbone.
        method: a name of `COUNTED`; "bare" trains nothing and has no backward.
        size: P, rank, width or blocks; 0 for a method that has none.
        layers: those with prompts; None for all.

    Returns:
        Work by part: patch embedding, query key value, scores, weighted sum, output, MLP, adapter, head.

    Raises:
        ConfigError: no such method, size or layers.
    """
    check_method(method, size, shapes, layers)
    n, h = shapes.tokens, shapes.hidden
    full, lora, adaptformer = method == "full", method == "lora", method == "adaptformer"
    bitfit, ln, ia3 = method == "bitfit", method == "ln", method == "ia3"
    found = {"patch embedding": Work(n * shapes.patch_elements * h, full * n * shapes.patch_elements * h)}
    names = ("query key value", "scores", "weighted sum", "output", "MLP", "adapter")
    found |= dict.fromkeys(names, Work(0, 0))

    def add(part: str, forward: int, *needed: bool) -> None:
        """A product, and which of its two sides need a gradient."""
        found[part] += Work(forward, forward * sum(needed))

    x = full or bitfit or method in VISUAL  # whether the tokens that enter a block need a gradient
    rows = n + size * (method in VISUAL)  # tokens that go through a block
    for layer in range(shapes.layers):
        prompted = method in PROMPTED and (layers is None or layer in layers)
        trained = full or (method == "partial" and layer >= shapes.layers - size)  # the weights of this block
        keys = rows + size * prompted
        normed = x or trained or ln
        for _ in range(3):
            add("query key value", rows * h * h, trained, normed)
        query = normed or lora or (bitfit and shapes.query_value_bias)
        key, value = (
            normed or prompted or ia3,
            normed or prompted or ia3 or lora or (bitfit and shapes.query_value_bias),
        )
        add("scores", rows * keys * h, query, key)
        weights = query or key
        add("weighted sum", rows * keys * h, weights, value)
        mixed = weights or value
        add("output", rows * h * h, trained, mixed)
        y = x or mixed or trained or bitfit
        hidden = y or ln or trained
        add("MLP", rows * h * shapes.mlp, trained, hidden)
        add("MLP", rows * shapes.mlp * h, trained, hidden or bitfit or ia3)
        if lora:
            for _ in range(2):
                add("adapter", rows * h * size, True, x)
                add("adapter", rows * size * h, True, True)
        if adaptformer:
            add("adapter", rows * h * size, True, y)
            add("adapter", rows * size * h, True, True)
        x = hidden or bitfit or ia3 or adaptformer
    head = method != BARE
    found["head"] = Work(h * shapes.labels, h * shapes.labels * 2 * head)  # the norm before it is trained, too
    return found


def total(parts: dict[str, Work]) -> Work:
    """The sum over all parts."""
    result = Work(0, 0)
    for work in parts.values():
        result += work
    return result


def parameters(shapes: Shapes, method: str, size: int = 0, layers: Sequence[int] | None = None) -> int:
    """Numbers that a method trains besides the head.

    Args:
        shapes: of the backbone.
        method: a name of `COUNTED`.
        size: P, rank, width or blocks; 0 for a method that has none.
        layers: those with prompts; None for all.

    Returns:
        The count.

    Raises:
        ConfigError: no such method, size or layers.
    """
    check_method(method, size, shapes, layers)
    h, depth, biases = shapes.hidden, shapes.layers, 2 * shapes.hidden * shapes.query_value_bias
    block = 4 * h * h + 2 * h * shapes.mlp + biases + h + shapes.mlp + h + 4 * h
    embedding = shapes.patch_elements * h + h
    count = depth if layers is None else len(set(layers))
    table = {
        BARE: 0,
        "linear": 0,
        "full": depth * block + embedding,
        "partial": size * block,
        "apt": count * 2 * size * (shapes.head_dim + 1),
        PUBLISHED: count * 2 * size * (shapes.head_dim + 1),
        "vpt-shallow": size * h,
        "vpt-deep": depth * size * h,
        "lora": depth * 2 * size * 2 * h,
        "adaptformer": depth * (2 * h * size + size + h),
        "bitfit": depth * (biases + h + shapes.mlp + h + 2 * h) + h,
        "ln": depth * 4 * h,
        "ia3": depth * (2 * h + shapes.mlp),
    }
    return table[method]
