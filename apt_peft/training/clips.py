"""How videos become clips: taken from the flags and, where these are silent, from the backbone's own files."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from apt_peft.errors import ConfigError
from apt_peft.settings import raise_all

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PROCESSOR_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")


def _up_to(most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 1 <= value <= most


def _channels(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and 1 <= len(value) <= 4
        and all(type(x) in (int, float) and abs(x) < 1e3 for x in value)
    )


# What a value of run.json, which may come from anywhere, can be: nobody makes a million views of a clip.
FITS: dict[str, Callable[[Any], bool]] = {
    "num_frames": _up_to(100_000),
    "sampling": lambda value: value in ("even", "uniform", "dense"),
    "frame_stride": _up_to(100_000),
    "size": _up_to(100_000),
    "resize": lambda value: value in ("crop", "squash"),
    "mean": _channels,
    "std": lambda value: _channels(value) and all(value),
    "segments": _up_to(1_000),
    "crops": _up_to(100),
}


@dataclass(frozen=True)
class ClipSettings:
    """What an adapter must see again to score as it was trained.

    Args:
        num_frames: frames T.
        sampling: `even`, `uniform` or `dense`.
        frame_stride: frames between two frames of a dense clip.
        size: height and width in pixels.
        resize: `crop` or `squash`.
        mean: of each colour channel, in 0..1.
        std: likewise.
        segments: test clips in time.
        crops: squares of a test clip.
    """

    num_frames: int
    sampling: str
    frame_stride: int
    size: int
    resize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    segments: int
    crops: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ClipSettings":
        """The settings that `as_dict` wrote.

        Raises:
            ValueError, TypeError: a value is none that `as_dict` can have written.
        """
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        found = cls(**plain)
        odd = [name for name, fits in FITS.items() if not fits(getattr(found, name))]
        if odd:
            raise ValueError(f"clips cannot have {', '.join(f'{name} {getattr(found, name)!r:.50}' for name in odd)}")
        return found

    def processor(self) -> dict[str, Any]:
        """The same as a transformers preprocessor config, for pipelines."""
        square = {"height": self.size, "width": self.size}
        return {
            "image_processor_type": "VideoMAEImageProcessor",
            "do_resize": True,
            "size": square if self.resize == "squash" else {"shortest_edge": self.size},
            "do_center_crop": self.resize == "crop",
            "crop_size": square,
            "do_rescale": True,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def read_processor(model: str) -> dict[str, Any]:
    """A backbone's preprocessor config.

    Args:
        model: folder or name on the Hub.

    Returns:
        Its keys; nothing where the backbone has none.

    Raises:
        ConfigError: the file is damaged.
    """
    for name in PROCESSOR_FILES:
        path = cached_file(model, name, _raise_exceptions_for_missing_entries=False)
        if path is None:
            continue
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if isinstance(values, dict):
                return values
            reason = "it is not a table"
        except ValueError as error:
            reason = str(error)
        raise ConfigError(f"model ({model}) must have a {name} of JSON, but: {reason}. Restore or delete the file.")
    return {}


def _sides(size: Any) -> bool:
    """Whether a preprocessor's size tells height and width; older files have a number in its place."""
    return isinstance(size, dict) and "height" in size


def clip_settings(
    settings: Any, *, model: str, frames: int, size: int, trained: ClipSettings | None = None
) -> ClipSettings:
    """The clips of a run.

    Args:
        settings: flags: num_frames, size, sampling, frame_stride, resize, mean, std, segments, crops; None where silent.
        model: the backbone.
        frames: frames that it was made for.
        size: pixels that it was made for.
        trained: what an adapter was trained with, where one is scored.

    Returns:
        Flags where given, else what the adapter was trained with, else what the backbone's files say, else even
        sampling, a cropped square, and ImageNet's mean and std.

    Raises:
        ConfigError: frames or size differ from the backbone's, or crops are asked of a squashed picture.
    """
    recipe = getattr(settings, "recipe", None)
    problems = [
        f"{name} ({given}) must be what the backbone was made for, but {model} takes {own}. "
        + (
            f"Take the backbone of recipe {recipe}, or override it by --{name.replace('_', '-')} {own}."
            if recipe
            else f"Leave --{name.replace('_', '-')} out, or convert the backbone."
        )
        for name, given, own in (("num_frames", settings.num_frames, frames), ("size", settings.size, size))
        if given is not None and given != own
    ]
    problems += [
        f"{name} ({value}) of run.json must be what the backbone was made for, but {model} takes {own}. Give the backbone that "
        "the adapter was trained on by --model."
        for name, value, own in (
            ("num_frames", getattr(trained, "num_frames", frames), frames),
            ("size", getattr(trained, "size", size), size),
        )
        if value != own
    ]
    raise_all(problems)
    processor = read_processor(model) if trained is None else {}
    squash = processor.get("do_center_crop") is False and _sides(processor.get("size"))
    known = trained or ClipSettings(
        num_frames=frames,
        sampling="even",
        frame_stride=4,
        size=size,
        resize="squash" if squash else "crop",
        mean=tuple(processor.get("image_mean") or IMAGENET_MEAN),
        std=tuple(processor.get("image_std") or IMAGENET_STD),
        segments=1,
        crops=1,
    )
    given = {field.name: getattr(settings, field.name) for field in fields(ClipSettings)}
    clips = replace(known, **{name: value for name, value in given.items() if value is not None})
    if clips.crops > 1 and clips.resize == "squash":
        raise ConfigError(
            f"crops ({clips.crops}) must be 1 with resize squash, but squashed frames have no longer side. "
            "Use --resize crop."
        )
    return clips
