"""Our roads for an adapter's folder, and ways to make one bad."""

import json
import struct
from pathlib import Path

from helpers import raises_exactly
from models import prompted, tiny_videomae

from apt_peft import AutoPeftModelForVideoClassification, CheckpointError
from apt_peft.checkpoints import convert_adapter
from apt_peft.checkpoints.adapter import load_adapter
from apt_peft.scoring import EvaluateSettings, PredictSettings, evaluate_adapter, predict

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def write_adapter(place: Path) -> Path:
    """A good adapter, and its backbone beside it."""
    tiny_videomae().save_pretrained(place / "base")
    model = prompted(num_prompt_tokens=2)
    model.peft_config["default"].base_model_name_or_path = str(place / "base")
    model.save_pretrained(place / "adapter")
    return place / "adapter"


def by_evaluate(adapter: Path) -> None:
    evaluate_adapter(EvaluateSettings(adapter=str(adapter), data=str(adapter), progress=False))


def by_predict(adapter: Path) -> None:
    clip = adapter.parent / "clip.mp4"
    clip.touch()
    predict(PredictSettings(adapter=str(adapter), clips=str(clip), progress=False))


def by_convert(adapter: Path) -> None:
    convert_adapter(adapter, adapter.parent / "out.pth")


def by_auto(adapter: Path) -> None:
    AutoPeftModelForVideoClassification.from_pretrained(adapter)


def by_load(adapter: Path) -> None:
    load_adapter(tiny_videomae(), adapter, name="b")


ROADS = [by_evaluate, by_predict, by_convert, by_auto, by_load]


def change(adapter: Path, **values) -> None:
    path = adapter / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def write(path: Path, header: dict | bytes, size: int = 0) -> None:
    """A safetensors file with any header, and so many bytes of zeros, which need no place on the disk."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)


def refused_by_all(adapter: Path, message: str) -> None:
    for road in ROADS:
        with raises_exactly(CheckpointError, message):
            road(adapter)


def unusable(adapter: Path, problem: str) -> str:
    return (
        f"adapter ({adapter}) must have its weights whole in {WEIGHTS}, but {problem}. Copy the adapter again, or ask whoever "
        "trained it."
    )


def unfit(adapter: Path, base: object, problem: str) -> str:
    return (
        f"adapter ({adapter}) must be whole and fit its backbone ({base}), but {problem}. Copy the adapter again, or give the "
        "backbone it was trained on."
    )
