"""What a run leaves beside its weights: run.json, for people and for `evaluate`."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from apt_peft.errors import CheckpointError
from apt_peft.training.clips import ClipSettings

RUN_FILE = "run.json"
EVALUATION = "evaluation"
FORMAT = 1
PRECISIONS = ("float32", "bfloat16", "float16")
PACKAGES = ("torch", "torchvision", "transformers", "peft", "accelerate", "av")


@dataclass(frozen=True)
class Run:
    """What `evaluate` and `predict` take from run.json."""

    clips: ClipSettings
    precision: str
    batch_size: int
    values: dict[str, Any]


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """Versions of Python, of this package and of what it stands on; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("apt-peft", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def read_run(adapter: str | Path, *, folder: Path | None = None) -> Run | None:
    """Read an adapter's run.json.

    Args:
        adapter: its folder; or its name, for messages, where the files are somewhere else.
        folder: where they are.

    Returns:
        How its clips are made and how it was scored; None for an adapter that `train` did not make.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(folder or adapter) / RUN_FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        clips = ClipSettings.from_dict(values["clips"])
        batch_size = int(values["settings"]["batch_size"])
        if values["precision"] not in PRECISIONS or batch_size < 1:
            raise ValueError(f"precision is {values['precision']!r:.50} and batch_size {batch_size}")
        return Run(clips, values["precision"], batch_size, values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"adapter ({adapter}) must have a {RUN_FILE} as apt-peft train wrote it, but reading it fails: "
            f"{type(error).__name__}: {error}. Restore the file, or delete it and give the clip settings by flags."
        ) from None


def percent(value: float | None) -> str:
    """A share in per cent as text, `-` where there is none."""
    return "-" if value is None else f"{value:.1f} %"
