"""Checks of config.json and the preprocessor's file: arithmetic on their values, beside the stored shapes."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch

from ..training.base import frames_and_size, not_square
from ..training.clips import IMAGENET_MEAN, IMAGENET_STD
from .findings import Finding, Mend
from .patient import ATTENTION_KEYS, Patient, first_line, model_class

EPS = 1e-6  # of every LayerNorm of VideoMAE's reference
# Families whose published checkpoints were all trained on ImageNet's mean and std.
ON_IMAGENET = frozenset({"videomae", "vjepa2"})
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
HALF_DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


def check_config(patient: Patient) -> Iterator[Finding]:
    """What is wrong with the settings.

    Args:
        patient: the model.

    Yields:
        Findings; none of VideoMAE's own for other architectures.
    """
    if patient.refusal is not None:
        yield Finding("config-refused", patient.refusal)
        return
    if patient.model_type == "videomae":
        yield from _videomae(patient)
    if patient.is_video:
        yield from _grid(patient)
        yield from _processor(patient)
    yield from _attention(patient)
    yield from _dtype(patient)


def grid(config: Any) -> tuple[int, tuple[int, int]]:
    """Frames of a tubelet, and height and width of a patch."""
    tubelet, patch = getattr(config, "tubelet_size", None), getattr(config, "patch_size", None)
    if isinstance(tubelet, list | tuple):  # ViViT and VideoPrism state (frames, height, width) in one
        return int(tubelet[0]), (int(tubelet[1]), int(tubelet[2]))
    height, width = (patch, patch) if isinstance(patch, int) else tuple(patch or (1, 1))
    return int(tubelet or 1), (int(height), int(width))


def _videomae(patient: Patient) -> Iterator[Finding]:
    config = patient.config
    if not config.use_mean_pooling:
        yield Finding("first-token-pooling", "use_mean_pooling is false", Mend(config={"use_mean_pooling": True}))
    if not math.isclose(config.layer_norm_eps, EPS):
        said = "" if "layer_norm_eps" in patient.raw else ", which is transformers' default: config.json says nothing"
        yield Finding(
            "norm-eps", f"layer_norm_eps is {config.layer_norm_eps:g}{said}", Mend(config={"layer_norm_eps": EPS})
        )
    if not config.qv_bias:
        biases = [name for name in patient.weights or () if is_query_or_value_bias(name)]
        if biases:
            yield Finding(
                "qv-bias-off",
                f"qv_bias is false, and {len(biases)} such biases are stored",
                Mend(config={"qv_bias": True}),
            )


def is_query_or_value_bias(name: str) -> bool:
    """Whether a stored tensor is a query or value bias of VideoMAE, under transformers' older or newer name."""
    return name.endswith((".query.bias", ".q_bias", ".value.bias", ".v_bias"))


def _grid(patient: Patient) -> Iterator[Finding]:
    if sides := not_square(patient.config):
        yield Finding("frames-not-square", f"they are {sides}")
    frames, size = frames_and_size(patient.config)
    tubelet, patch = grid(patient.config)
    if frames % tubelet and frames > tubelet:
        fits = frames - frames % tubelet
        yield Finding(
            "frames-unused",
            f"{frames} frames in tubelets of {tubelet}: the last {frames % tubelet} of each clip unseen",
            Mend(config={_name(patient, "num_frames", "frames_per_clip"): fits}),
        )
    rest = [size % side for side in patch]
    if any(rest):
        fits = size - max(rest)
        same_tokens = all(fits // side == size // side and fits % side == 0 for side in patch)
        yield Finding(
            "pixels-unused",
            f"{size} pixels in patches of {patch[0]} x {patch[1]}: {max(rest)} pixels at the edge unseen",
            Mend(config={_name(patient, "image_size", "crop_size"): fits}, processor=_sizes(patient.processor, fits))
            if same_tokens
            else None,
        )


def _name(patient: Patient, *names: str) -> str:
    """The key that an architecture has for a value."""
    return next(name for name in names if hasattr(patient.config, name))


def _processor(patient: Patient) -> Iterator[Finding]:
    processor = patient.processor
    if not processor:
        yield Finding("no-preprocessor", "the folder has none")
        return
    mean, std = (_numbers(processor.get(key)) for key in ("image_mean", "image_std"))
    stated = any(processor.get(key) is not None for key in ("image_mean", "image_std"))
    shown = f"image_mean {processor.get('image_mean')}, image_std {processor.get('image_std')}"
    if stated and not _usable(mean, std, getattr(patient.config, "num_channels", 3)):
        mend = None
        if mean and std and all(1 < x <= 255 for x in (*mean, *std)):
            mend = Mend(processor={"image_mean": [x / 255 for x in mean], "image_std": [x / 255 for x in std]})
        yield Finding("normalization-unusable", shown, mend)
    elif processor.get("do_normalize") is False and stated and (mean, std) != ((0.0,) * 3, (1.0,) * 3):
        off: dict[str, Any] = {"do_normalize": True, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
        yield Finding("normalization-off", f"do_normalize is false, {shown}", Mend(processor=off))
    elif patient.model_type in ON_IMAGENET and (reason := _foreign(mean, std)):
        imagenet = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
        yield Finding("normalization", f"{shown}: {reason}", Mend(processor=imagenet))
    yield from _processor_size(patient)


def _numbers(value: Any) -> tuple[float, ...] | None:
    if isinstance(value, list) and all(type(x) in (int, float) for x in value):
        return tuple(map(float, value))
    return None


def _usable(mean: tuple[float, ...] | None, std: tuple[float, ...] | None, channels: int) -> bool:
    """Whether they can be those of pixels in 0..1, whose deviation is at most a half; 1 stands for none."""
    if mean is None or std is None or not len(mean) == len(std) == channels:
        return False
    return all(0 <= x <= 1 for x in mean) and all(0 < x <= 1 for x in std)


def _foreign(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> str | None:
    """Why these are the values of another convention; a model's own, unlike any, pass."""
    if mean is None or std is None:
        return None
    near = lambda one, other: all(math.isclose(a, b, abs_tol=2e-3) for a, b in zip(one, other, strict=True))  # noqa: E731
    if near(mean, HALF[0]) and near(std, HALF[1]):
        return "the defaults of transformers' processors"
    if near(mean, IMAGENET_MEAN[::-1]):
        return "ImageNet's with red and blue exchanged"
    if near(mean, IMAGENET_MEAN) != near(std, IMAGENET_STD):
        return "one is ImageNet's and the other is not"
    return None


def _processor_size(patient: Patient) -> Iterator[Finding]:
    """Frames as transformers' processors make them: the crop where there is one, else the resized picture."""
    size = frames_and_size(patient.config)[1]
    processor = patient.processor
    key = "crop_size" if processor.get("do_center_crop", True) and "crop_size" in processor else "size"
    stated = processor.get(key)
    made = _pair(stated)
    if stated is None or made == (size, size):
        return
    shown = f"{made[0]} x {made[1]}" if made else f"{stated!r:.50}"
    yield Finding(
        "preprocessor-size",
        f"{patient.processor_file} makes {shown} by its {key}, config.json takes {size} x {size}",
        Mend(processor=_sizes(processor, size)),
    )


def _pair(stated: Any) -> tuple[Any, Any] | None:
    """Height and width as a preprocessor states them; None for what states neither."""
    if isinstance(stated, dict):
        sides = (stated.get("height", stated.get("shortest_edge")), stated.get("width", stated.get("shortest_edge")))
    else:
        sides = (stated, stated)
    return sides if all(isinstance(side, int) for side in sides) else None


def _sizes(processor: dict[str, Any], size: int) -> dict[str, Any]:
    """The sizes that a preprocessor states, in its own way of stating them, set to one size."""
    changed: dict[str, Any] = {}
    for key in ("size", "crop_size"):
        if isinstance(value := processor.get(key), dict):
            changed[key] = dict.fromkeys(value or ("height", "width"), size)
        elif isinstance(value, int):
            changed[key] = size
        elif value is not None:
            changed[key] = {"height": size, "width": size}
    return changed


def _attention(patient: Patient) -> Iterator[Finding]:
    """An attention that config.json names, which saved configs have not by themselves."""
    key = next((key for key in ATTENTION_KEYS if patient.raw.get(key)), None)
    if key is None:
        return
    named = patient.raw[key]
    mend = Mend(config_without=ATTENTION_KEYS)
    if named == "eager":
        if patient.loading is not None and patient.loading.has_sdpa:
            yield Finding("attention-eager", f"{key} is eager, and the architecture has sdpa", mend)
        return
    config = copy.deepcopy(patient.config)
    try:
        with torch.device("meta"):
            kind = model_class(config)
            # auto classes have `from_config`, models `_from_config`
            make: Any = kind.from_config if hasattr(kind, "from_config") else kind._from_config
            make(config, attn_implementation=named)
    except Exception as error:  # each implementation fails in its own way
        yield Finding("attention-unavailable", f"{key} is {str(named)[:100]!r}: {first_line(error)}", mend)


def _dtype(patient: Patient) -> Iterator[Finding]:
    """What `from_pretrained` loads without a dtype: the config's, else that of the file."""
    key = next((key for key in ("dtype", "torch_dtype") if patient.raw.get(key)), None)
    weights = patient.weights
    stored = [kind for name in weights or () if weights and (kind := weights.dtype(name)) in HALF_DTYPES]
    if key is None:
        if weights is None or not stored or len(stored) < len(weights):
            return
        said, loaded = "config.json states none", HALF_DTYPES[stored[0]]
    else:
        said, loaded = f"config.json says {key} {patient.raw[key]}", str(patient.raw[key]).removeprefix("torch.")
    if loaded in HALF_DTYPES.values():
        of = f"{len(stored)} of {len(weights)} tensors are stored in half precision" if weights else "no weights"
        mend = Mend(config={"dtype": "float32"}, config_without=("torch_dtype",))
        yield Finding("half-precision", f"{said}; {of}", mend)
