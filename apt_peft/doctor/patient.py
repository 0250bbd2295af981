"""The model that is examined: its folder, config, stored weights and what loading them would leave out or draw anew."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from peft.utils import CONFIG_NAME as ADAPTER_CONFIG
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification
from transformers.utils import CONFIG_NAME

from .. import hub
from ..checkpoints.backbone import check_backbone
from ..checkpoints.source import MAX_TEXT, MAX_WEIGHTS, AdapterFiles
from ..errors import CheckpointError
from ..hub import CARD
from ..opening import read_adapter_files
from ..training.base import HEADS, is_lost_folder, quiet
from ..training.clips import PROCESSOR_FILES, read_processor
from ..training.record import Run
from ..tuner.families import FAMILIES
from .stored import LAYOUTS, StoredWeights, Unusable

ATTENTION_KEYS = ("attn_implementation", "_attn_implementation")


@dataclass(frozen=True)
class Loading:
    """What transformers says of weights and config together, found without memory for the weights.

    Args:
        missing: the model's tensors that are not stored, heads left out.
        left_over: stored tensors that the model has no place for.
        mismatched: name -> shape as stored, shape as the config gives; heads left out.
        head_missing: the head's tensors that are not stored, or in another shape.
        attentions: implementations that the architecture has beside eager.
    """

    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    head_missing: tuple[str, ...]
    has_sdpa: bool


@dataclass
class Patient:
    """What is examined.

    Args:
        name: folder or name on the Hub of the backbone.
        folder: where its files are.
        raw: its config.json.
        config: the same as transformers reads it; None where it refuses to.
        refusal: why transformers cannot make a model of it.
        processor: its preprocessor's file; empty where there is none.
        processor_file: name of that file.
        weights: what is stored; None where it cannot be opened.
        unusable: why it cannot be.
        loading: what loading would do; None where it cannot be tried.
        adapter: files of the adapter, where one is examined with its base.
        run: its run.json.
    """

    name: str
    folder: Path
    raw: dict[str, Any]
    config: Any
    refusal: str | None = None
    processor: dict[str, Any] = field(default_factory=dict)
    processor_file: str = PROCESSOR_FILES[1]
    weights: StoredWeights | None = None
    unusable: Unusable | None = None
    loading: Loading | None = None
    adapter: AdapterFiles | None = None
    run: Run | None = None

    @property
    def model_type(self) -> str:
        """Architecture, as transformers names it."""
        return str(self.raw.get("model_type"))

    @property
    def is_video(self) -> bool:
        """Whether transformers makes a video classifier of it."""
        return type(self.config) in AutoModelForVideoClassification._model_mapping

    def used(self) -> list[str]:
        """Stored tensors that go into the model, without those of a head."""
        if self.weights is None:
            return []
        dropped = set(self.loading.left_over) if self.loading else set()
        return [name for name in self.weights if name not in dropped and name.split(".")[0] not in HEADS]


def open_patient(model: str, *, base: str | None = None, revision: str | None = None) -> Patient:
    """Find a model's files, and read all of them but the weights.

    Args:
        model: a backbone or an adapter: folder or name on the Hub.
        base: backbone of an adapter; None is the one that it names.
        revision: branch, tag or commit on the Hub.

    Returns:
        What there is to examine.

    Raises:
        CheckpointError: there is no such model, its config.json is none, or it is of no known architecture.
    """
    adapter, run, name = None, None, model
    if _is_adapter(model, revision):
        wanted = SimpleNamespace(adapter=model, model=base, revision=revision)
        try:
            adapter, run, name = read_adapter_files(wanted)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace("--model", "--base")) from None
        revision = adapter.config.revision if base is None else None
    elif base is not None:
        raise CheckpointError(
            f"base ({base}) must go with an adapter, but {model} has no {ADAPTER_CONFIG}. Leave --base out."
        )
    folder = _folder(name, revision)
    raw = _read_json(folder / CONFIG_NAME, name)
    kind = str(raw.get("model_type"))
    if kind not in FAMILIES and kind not in _video_types():
        raise CheckpointError(
            f"model ({name}) must be of an architecture that prompts are known to go into, but its type is {kind}. "
            "Take a VideoMAE, for example."
        )
    check_backbone(str(folder))
    config, refusal = _config(folder, raw)
    patient = Patient(name, folder, raw, config, refusal, read_processor(str(folder)), adapter=adapter, run=run)
    patient.processor_file = next((file for file in PROCESSOR_FILES if (folder / file).is_file()), PROCESSOR_FILES[1])
    try:
        patient.weights = StoredWeights(folder)
    except Unusable as unusable:
        patient.unusable = unusable
    if patient.weights is not None and config is not None:
        try:
            patient.loading = _try_loading(folder, config)
        except Exception as error:  # whatever a damaged config makes transformers stumble over
            patient.refusal = first_line(error)
    return patient


def model_class(config: Any) -> Any:
    """The class that `apt-peft` opens a backbone as; of one that is no video model, the one that it was saved as.

    Args:
        config: of transformers.

    Returns:
        A class with `from_pretrained`.
    """
    if type(config) in AutoModelForVideoClassification._model_mapping:
        return AutoModelForVideoClassification
    saved = getattr(transformers, (config.architectures or [""])[0], None)
    return saved if isinstance(saved, type) and issubclass(saved, transformers.PreTrainedModel) else AutoModel


def first_line(error: Exception) -> str:
    """What a library says, in one line without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]).rstrip(".") or type(error).__name__


def _is_adapter(model: str, revision: str | None) -> bool:
    if Path(model).is_dir():
        return (Path(model) / ADAPTER_CONFIG).is_file()
    if is_lost_folder(model):
        raise CheckpointError(
            f"model ({model}) must be a folder or a name on the Hub, but there is no such folder. Check the path."
        )
    try:
        return hub.download(model, ADAPTER_CONFIG, most=MAX_TEXT, revision=revision, optional=True) is not None
    except CheckpointError as error:
        raise CheckpointError(
            f"model ({model}) must be a folder or a name on the Hub, but there is no such folder, and of the Hub: {error}"
        ) from None


def _folder(name: str, revision: str | None) -> Path:
    """The folder itself, or the one of the cache that the files of a repository were loaded to."""
    if Path(name).is_dir():
        return Path(name)
    config = hub.download(name, CONFIG_NAME, most=MAX_TEXT, revision=revision)
    assert config is not None  # not an optional one
    commit = config.parent.name
    for file in (*PROCESSOR_FILES, CARD):
        hub.download(name, file, most=MAX_TEXT, revision=commit, optional=True)
    for file, indexed in LAYOUTS:
        most = MAX_TEXT if indexed else MAX_WEIGHTS
        if hub.download(name, file, most=most, revision=commit, optional=True) is None:
            continue
        if indexed:
            check_backbone(str(config.parent))
            parts = json.loads((config.parent / file).read_text(encoding="utf-8"))["weight_map"].values()
            for part in sorted(set(parts)):
                hub.download(name, part, most=MAX_WEIGHTS, revision=commit)
        break
    return config.parent


def _read_json(path: Path, name: str) -> dict[str, Any]:
    rule = f"model ({name}) must be a folder or a name on the Hub with a transformers {CONFIG_NAME}, but"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise CheckpointError(f"{rule} it has none. Give the folder that holds it.") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{rule} it cannot be read: {first_line(error)}. Copy the file again.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{rule} it is not a table. Copy the file again.")
    return values


def _video_types() -> Sequence[str]:
    return [config.model_type for config in AutoModelForVideoClassification._model_mapping]


def _config(folder: Path, raw: dict[str, Any]) -> tuple[Any, str | None]:
    """The config, without an attention that may not be there; or why there is none."""
    try:
        with quiet():
            config = AutoConfig.for_model(
                **{key: value for key, value in raw.items() if key not in (*ATTENTION_KEYS, "auto_map")}
            )
    except Exception as error:  # huggingface_hub's own kind for values of the wrong type, and others
        return None, first_line(error)
    return config, None


def _try_loading(folder: Path, config: Any) -> Loading:
    """Load a model that has no memory: tensors are compared by name and shape alone."""
    config = copy.deepcopy(config)
    if hasattr(config, "use_mean_pooling"):
        config.use_mean_pooling = True  # as `train` opens it
    with quiet():
        model, info = model_class(config).from_pretrained(
            folder,
            config=config,
            device_map="meta",
            dtype=torch.float32,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    mismatched = {name: (tuple(stored), tuple(wanted)) for name, stored, wanted in info["mismatched_keys"]}
    missing = sorted(info["missing_keys"])
    of_head = {name for name in (*missing, *mismatched) if name.split(".")[0] in HEADS}
    return Loading(
        missing=tuple(name for name in missing if name not in of_head),
        left_over=tuple(sorted(info["unexpected_keys"])),
        mismatched={name: shapes for name, shapes in mismatched.items() if name not in of_head},
        head_missing=tuple(sorted(of_head)),
        has_sdpa=bool(getattr(type(model), "_supports_sdpa", False)),
    )
