"""Phrases of a model card: of the backbone, its licence, the prompts, the data."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from ..checkpoints.source import is_repository
from ..training.optimizer import MARKS
from .facts import Facts

MAX_LABELS = 30  # in the card; adapter_config.json has all


@dataclass(frozen=True)
class Kind:
    """What a backbone is loaded with, and what it classifies."""

    base_class: str
    task: str | None
    things: str


VIDEOS = Kind("AutoModelForVideoClassification", "video-classification", "videos")
# By the end of the name of the class that an adapter was made for.
KINDS = {
    "ForVideoClassification": VIDEOS,
    "ForImageClassification": Kind("AutoModelForImageClassification", "image-classification", "images"),
    "ForAudioClassification": Kind("AutoModelForAudioClassification", "audio-classification", "sounds"),
}


def kind_of(facts: Facts) -> Kind:
    """What the adapter's backbone is loaded with and classifies."""
    name = facts.base_class or "ForVideoClassification"
    known = next((kind for ending, kind in KINDS.items() if name.endswith(ending)), None)
    return known or Kind(name if re.fullmatch(r"\w{1,100}", name) else "AutoModel", None, "inputs")


def backbone(facts: Facts) -> str:
    """The backbone, linked where it is on the Hub."""
    if facts.base is None:
        return "not named"
    if not facts.base_on_hub:
        return f"{code(Path(facts.base).name)}, a folder where this adapter was made"
    revision = facts.files.config.revision
    return f"[{code(facts.base)}]({constants.ENDPOINT}/{facts.base})" + (f" at {code(revision)}" if revision else "")


def licence(facts: Facts) -> str:
    """The licence, and what it means for the adapter."""
    found = facts.licence
    if found is None:
        return (
            "not known: the backbone's card names none. It carries over to this adapter, so ask whoever made the backbone "
            "before you share the adapter or what is made with it"
        )
    text = f"[{found.text}]({found.link})" if found.link else code(found.text)
    said = "**it forbids commercial use**, and " if found.is_non_commercial else "it "
    return f"{text}, the backbone's: {said}carries over to this adapter, which is of no use without the backbone"


def parameters(facts: Facts) -> str:
    """How many numbers were trained, where they are, and their share of all."""
    tensors = facts.files.tensors
    prompts = sum(tensor.numbers for key, tensor in tensors.items() if _of_method(key))
    norms = sum(tensor.numbers for key, tensor in tensors.items() if facts.has_prompts and _of_norm(key))
    head = sum(tensor.numbers for tensor in tensors.values()) - prompts
    prompts -= norms
    total = facts.run["total_parameters"] if facts.run is not None else None
    share = f" of {total:,} ({100 * (prompts + head) / total:.2g} %)" if total else ""
    counts = {facts.baseline or "prompts": prompts, "norms": norms, "the head": head}
    parts = [f"{count:,} in {what}" for what, count in counts.items() if count]
    return f"{prompts + norms + head:,}{share}: {', '.join(parts)}"


def _of_method(key: str) -> bool:
    """Whether a saved tensor is what the method adds, or of a part of the encoder that was trained in full."""
    return any(mark in key for mark in MARKS) or ".encoder." in key or ".embeddings." in key or _of_norm(key)


def _of_norm(key: str) -> bool:
    """Whether a saved tensor is of a norm inside a block of the encoder."""
    parts = key.split(".")
    return len(parts) > 2 and "norm" in parts[-2] and any(part.isdigit() for part in parts)


def prompts(facts: Facts) -> str:
    """How many prompts there are, and in how many layers."""
    keys = [tensor for key, tensor in facts.files.tensors.items() if key.endswith("attention_prompt_key")]
    counts = sorted({tensor.shape[-2] for tensor in keys})
    many = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return f"{many} in each of {len(keys)} attention layers"


def pruned(record: Mapping[str, Any]) -> str:
    """What was taken out of an adapter, and by which measure."""
    return f"{record['prompts_after']:,} of {record['prompts_before']:,} prompts kept, by {record['by']}"


def data(name: str) -> str:
    """A data set, linked where it is on the Hub."""
    linked = "/" in name and is_repository(name)
    return f"[{code(name)}]({constants.ENDPOINT}/datasets/{name})" if linked else code(name)


def dataset_of(run: Mapping[str, Any]) -> str:
    """The name of a run's data: `owner/name` on the Hub, or the name of a folder."""
    place = str(run["settings"]["data"])
    return place.removeprefix("hf://datasets/") if place.startswith("hf://") else Path(place).resolve().name


def labels(names: Sequence[str]) -> str:
    """Class names, the first thirty of them."""
    shown = ", ".join(code(name) for name in names[:MAX_LABELS])
    return shown + (f" and {len(names) - MAX_LABELS:,} more" if len(names) > MAX_LABELS else "")


def code(text: str) -> str:
    """A text in backticks, which stays in them and in its cell of a table."""
    plain = re.sub(r"\s", " ", text).replace("`", "'").replace("|", "/")
    return f"`{plain[:100]}`"


def size(count: int) -> str:
    """Bytes, as people read them."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def table(rows: Sequence[Sequence[str]], heading: Sequence[str] = ()) -> str:
    """A table of Markdown."""
    heading = heading or ("",) * len(rows[0])
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("|  |  |", "| | |")


def recipe(found: Mapping[str, Any]) -> str:
    """A recipe's name, and what the run has otherwise.

    Args:
        found: what run.json says of it.
    """
    return f"{code(found['name'])} ({found['kind']}){_but(found)}"


def preset(found: Mapping[str, Any]) -> str:
    """A preset's name, and what the run has otherwise.

    Args:
        found: what run.json says of it.
    """
    return f"{code(found['name'])}{_but(found)}"


def _but(found: Mapping[str, Any]) -> str:
    changed = ", ".join(code(f"{name} {change['to']}") for name, change in found["overridden"].items())
    return f", but {changed}" if changed else ""


def augmentation(settings: Mapping[str, Any]) -> str:
    """What was drawn for training clips.

    Args:
        settings: of a run, perhaps of an older version.
    """
    flips = "" if settings.get("flip", True) or settings.get("augment") == "none" else " without flips"
    parts = [code(str(settings.get("augment"))) + flips]
    if settings.get("random_resized_crop"):
        parts.append("random resized crops")
    if settings.get("rand_augment"):
        parts.append(code(settings["rand_augment"]))
    if settings.get("augment_resolution") == "full":
        parts.append("in full resolution")
    if settings.get("repeated_augmentation", 1) > 1:
        parts.append(f"{settings['repeated_augmentation']} times a clip")
    return ", ".join(parts)
