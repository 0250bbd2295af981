"""What a run leaves beside its weights: run.json for people and for `evaluate`, README.md for the Hub."""

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


def model_card(
    *, base: str, labels: Sequence[str], method: str, values: dict[str, Any], clips: ClipSettings, mean_pooling: bool
) -> str:
    """The README.md of an adapter folder.

    Args:
        base: the backbone's name.
        labels: class names.
        method: `apt` or `linear`.
        values: what run.json holds.
        clips: how its clips are made.
        mean_pooling: whether the backbone must be told to pool the mean, because its own config does not.

    Returns:
        Markdown with the metadata that the Hub reads.
    """
    # A local path means nothing on the Hub, whose metadata wants a model's name.
    on_hub = not Path(base).exists() and base.count("/") == 1
    title = "Attention prompts" if method == "apt" else "Linear probe"
    result, counts = values["result"], values["data"]["clips"]
    scores = [
        f"| {split} | {numbers['clips']} | {percent(numbers['top1'])} | {percent(numbers['top5'])} |"
        for split in ("validation", "test")
        if (numbers := result.get(split))
    ]
    skipped = values["data"].get("skipped_clips", {})
    pooling = ', model_kwargs={"use_mean_pooling": True}' if mean_pooling else ""
    extra = ", use_mean_pooling=True" if mean_pooling else ""
    lines = [
        "---",
        *([f"base_model: {base}"] if on_hub else []),
        "library_name: peft",
        "pipeline_tag: video-classification",
        "tags:",
        "- video-classification",
        "- attention-prompt-tuning",
        "- apt-peft",
        "---",
        "",
        f"# {title} for {len(labels)} classes of videos",
        "",
        f"An adapter for `{base if on_hub else Path(base).name}`, trained by [Attention Prompt Tuning]"
        "(https://arxiv.org/abs/2403.06978) with `apt-peft`: "
        f"{values['trained_parameters']:,} parameters were trained, the backbone was not.",
        "",
        "Labels: " + ", ".join(f"`{label}`" for label in labels),
        "",
        "## Use",
        "",
        "```",
        "pip install apt-peft",
        "```",
        "",
        "`import apt_peft` makes the method known to PEFT; without it PEFT cannot read this adapter.",
        "",
        "```python",
        "import apt_peft",
        "from peft import PeftModel",
        "from transformers import AutoModelForVideoClassification",
        "",
        'adapter = "."  # this folder, or its name on the Hub',
        f'base = AutoModelForVideoClassification.from_pretrained("{base}"{extra})',
        "model = PeftModel.from_pretrained(base, adapter).eval()",
        "print(model.config.id2label)",
        "```",
        "",
        'or as a pipeline on video files, which needs `pip install "apt-peft[video]"`:',
        "",
        "```python",
        "from apt_peft import ClipProcessor",
        "from transformers import pipeline",
        "",
        'adapter = "."',
        "processor = ClipProcessor.from_pretrained(adapter)",
        f'classify = pipeline("video-classification", model=adapter, video_processor=processor{pooling})',
        'print(classify("clip.mp4"))',
        "```",
        "",
    ]
    lines += [
        "The numbers below come from the clips described here, as `apt-peft evaluate --adapter . --data DATA` and "
        "`apt-peft predict --adapter . CLIP` make them:",
        f"{clips.num_frames} frames of {clips.size} x {clips.size} pixels, {clips.sampling} sampling"
        + (f" with stride {clips.frame_stride}" if clips.sampling == "dense" else "")
        + f", resized by {clips.resize}, {clips.segments} x {clips.crops} views, "
        f"mean {list(clips.mean)}, std {list(clips.std)}.",
        "",
        "## Result",
        "",
        *(
            ["| split | clips | top-1 | top-5 |", "|---|---|---|---|", *scores]
            if scores
            else ["Not evaluated: there was neither a validation nor a test split."]
        ),
        "",
        "Trained on "
        + ", ".join(f"{count} {split} clips" for split, count in counts.items() if count)
        + (
            "; " + ", ".join(f"{count} {split}" for split, count in skipped.items() if count) + " clips could not be "
            "read and were left out"
            if any(skipped.values())
            else ""
        )
        + f"; data fingerprint `{values['data']['fingerprint']}`, backbone fingerprint "
        f"`{values['backbone']['fingerprint']}`. All settings and versions: `{RUN_FILE}`.",
        "",
    ]
    return "\n".join(lines)
