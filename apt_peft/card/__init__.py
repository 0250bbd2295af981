"""The model card of an adapter: what it is, how to load it, what it scored, how it was trained, what it is for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.source import find_adapter
from ..errors import CheckpointError, ConfigError
from ..hub import CARD
from ..training.record import read_run
from .facts import Facts
from .licence import Licence, is_identifier, licence_of
from .metadata import metadata
from .sections import model_card
from .words import dataset_of

__all__ = ["Facts", "Licence", "licence_of", "metadata", "model_card", "write_model_card"]


def write_model_card(
    folder: str | Path,
    *,
    name: str | None = None,
    dataset: str | None = None,
    scores: Mapping[str, float] | None = None,
    split: str = "test",
    license: str | None = None,
) -> Path:
    """Write the README.md of an adapter folder, over the one that is there.

    It is written from what the folder holds: adapter_config.json, the weights, and run.json where `apt-peft train` made
    the adapter. The licence is that of the backbone, read off its card.

    Args:
        folder: of a saved adapter.
        name: of the adapter; its folder's by default.
        dataset: name of the data; a name on the Hub (`owner/name`) is linked. Of a run, its own.
        scores: what was measured, in per cent: `{"top1": 61.9, "top5": 88.1}`. Of a run, its own.
        split: that was scored.
        license: the backbone's, by the Hub's name (`cc-by-nc-4.0`), where its card does not say.

    Returns:
        The file.

    Raises:
        CheckpointError: there is no such folder, or it holds no adapter that can be loaded.
        ConfigError: scores or a licence that no card can have.
    """
    _check(scores, license)
    if not Path(folder).is_dir():
        raise CheckpointError(
            f"folder ({folder}) must be an adapter's folder, but there is no such folder. Download it first."
        )
    files = find_adapter(folder)
    run = read_run(folder)
    values = run.values if run else None
    config = files.config
    base = config.base_model_name_or_path
    licence = Licence(license) if license else licence_of(base, revision=config.revision) if base else None
    measured: dict[str, Mapping[str, Any]] = {}
    if values is not None:
        measured = {part: numbers for part in ("validation", "test") if (numbers := values["result"].get(part))}
    if scores is not None:
        measured[split] = dict(scores)
    facts = Facts(
        files=files,
        name=name or Path(folder).resolve().name,
        run=values,
        licence=licence,
        dataset=dataset or (dataset_of(values) if values else None),
        scores=measured,
    )
    path = Path(folder) / CARD
    path.write_text(model_card(facts), encoding="utf-8")
    return path


def _check(scores: Mapping[str, float] | None, license: str | None) -> None:
    problems = []
    wrong = {
        key: value for key, value in (scores or {}).items() if key not in ("top1", "top5") or not 0 <= value <= 100
    }
    if wrong:
        problems.append(f"scores ({wrong}) must be top1 and top5 in per cent, from 0 to 100.")
    if license is not None and not is_identifier(license):
        problems.append(f"license ({license!r}) must be the Hub's name of a licence, such as cc-by-nc-4.0.")
    if problems:
        raise ConfigError(" ".join(problems))
