"""Adapters with their backbone, their labels and the way their clips are made, ready to score."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, get_peft_model_state_dict

from apt_peft.checkpoints.adapter import load_adapter
from apt_peft.checkpoints.source import AdapterFiles, find_adapter
from apt_peft.errors import CheckpointError, ConfigError
from apt_peft.evaluation import finite, score
from apt_peft.training import processes
from apt_peft.training.base import (
    frames_and_size,
    is_lost_folder,
    open_base,
    quiet,
    read_config,
    weights_fingerprint,
)
from apt_peft.training.clips import ClipSettings, clip_settings
from apt_peft.training.record import RUN_FILE, Run, read_run
from apt_peft.tuner.order import parts_of_names

if TYPE_CHECKING:
    from apt_peft.scoring import ScoringSettings

logger = logging.getLogger(__name__)
BATCH_SIZE = 8


@dataclass(frozen=True)
class Adapter:
    """An adapter ready to score.

    Args:
        model: backbone, prompts and head on their device, in eval mode; several adapters may share one.
        labels: class names in label order.
        clips: how videos become clips.
        precision: of the forward pass.
        batch_size: clips x views of one.
        name: of the adapter in the model.
        backbone: fingerprint of the backbone's weights.
    """

    model: PeftModel
    labels: tuple[str, ...]
    clips: ClipSettings
    precision: str
    batch_size: int
    name: str
    backbone: str

    @torch.no_grad()
    def score(self, clips: torch.Tensor) -> torch.Tensor:
        """Score some clips by this adapter, whichever of the model's was used last.

        Args:
            clips: float32 (clips, views, T, C, height, width).

        Returns:
            (clips, labels): softmax of each view, mean over the views; float32 on the CPU.

        Raises:
            CheckpointError: scores are NaN.
        """
        self.model.set_adapter(self.name)
        device = next(self.model.parameters()).device
        return finite(score(self.model, clips.to(device), batch_size=self.batch_size, precision=self.precision))

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with all that its scores depend on: weights, backbone, labels, clips, precision."""
        digest = sha256(repr((self.backbone, self.labels, self.clips, self.precision)).encode())
        weights = get_peft_model_state_dict(self.model, adapter_name=self.name, save_embedding_layers=False)
        for key, tensor in sorted(weights.items()):
            digest.update(f"{key} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def open_adapter(settings: "ScoringSettings") -> Adapter:
    """Load an adapter with its backbone, its labels and the way its clips are made.

    Args:
        settings: adapter, backbone and what overrides the adapter's run.json.

    Returns:
        What can score clips.

    Raises:
        CheckpointError: adapter or backbone cannot be read.
        ConfigError: flags that the backbone cannot follow.
    """
    return open_adapters({"default": settings})["default"]


def open_adapters(settings: Mapping[str, "ScoringSettings"]) -> dict[str, Adapter]:
    """Load several adapters onto one backbone, which is read once.

    Args:
        settings: the name that an adapter gets in the model -> what `open_adapter` takes.

    Returns:
        What can score clips, by name; all share one model.

    Raises:
        CheckpointError: an adapter or the backbone cannot be read, or an adapter was trained on other weights.
        ConfigError: adapters of different backbones, flags that the backbone cannot follow, or a name that PEFT
            cannot use.
    """
    wrong = [name for name in settings if "." in name or not name]
    if wrong:
        raise ConfigError(f"adapter names ({wrong}) must have no dots and not be empty: they become names of modules.")
    opened: dict[str, Adapter] = {}
    model: Any = None
    for adapter_name, flags in settings.items():
        files, run, backbone = read_adapter_files(flags)
        mean_pooling = "fc_norm" in (files.config.modules_to_save or [])
        if model is None:
            first, model = (flags.adapter, backbone), _open_backbone(backbone, flags, files.config, mean_pooling, run)
            pooling, found = getattr(model.config, "use_mean_pooling", mean_pooling), weights_fingerprint(model)
        else:
            _check_shared(*first, pooling, flags.adapter, backbone, mean_pooling, run)
        _check_backbone(found, first[1], flags, run)
        frames, size = frames_and_size(model.config)
        clips = clip_settings(flags, model=backbone, frames=frames, size=size, trained=run.clips if run else None)
        # a name that stands in those of the weights is only the caller's
        inside = f"adapter_{len(opened)}" if adapter_name in parts_of_names(model) else adapter_name
        with quiet():
            model = load_adapter(model, files, name=backbone, adapter_name=inside)
        model.set_adapter(inside)
        names: dict[int, str] = model.config.id2label
        opened[adapter_name] = Adapter(
            model=model,
            labels=tuple(names[index] for index in range(len(names))),
            clips=clips,
            precision=run.precision if run else "float32",
            batch_size=flags.batch_size or (run.batch_size if run else BATCH_SIZE),
            name=inside,
            backbone=found,
        )
        model.to(processes.device(flags.device)).eval()
    return opened


def read_adapter_files(settings: Any, companions: Sequence[str] = (RUN_FILE,)) -> tuple[AdapterFiles, Run | None, str]:
    """Find an adapter's files, and read what it says of itself.

    Args:
        settings: `adapter`, a folder or a name on the Hub; `revision` of it there, None for the newest; and `model`, its
            backbone, None for the one that it names.
        companions: files that are wanted beside the weights where the adapter has them.

    Returns:
        Its files, its run.json if there is one, and the name of its backbone.

    Raises:
        CheckpointError: a file is missing or damaged, or the backbone is not there.
    """
    files = find_adapter(settings.adapter, revision=settings.revision, companions=companions)
    run = read_run(settings.adapter, folder=files.folder)
    name = settings.model or files.backbone()
    if settings.model is None and _is_lost(name, run):
        place = "" if Path(name).is_absolute() else f" in {Path.cwd()}"
        raise CheckpointError(
            f"adapter ({settings.adapter}) must find the backbone that it names, but there is no folder {name}{place}. "
            "Give its place by --model."
        )
    return files, run, name


def _open_backbone(
    name: str, settings: "ScoringSettings", config: Any, mean_pooling: bool, run: Run | None
) -> torch.nn.Module:
    own = getattr(config, "id2label", None)
    if own is None and run is not None:  # PEFT's own methods keep no labels
        own = dict(enumerate(run.values.get("labels", ()))) or None
    labels = tuple(own[index] for index in range(len(own))) if own else None
    try:
        # the revision that the adapter's config names is one of its own backbone
        revision = config.revision if settings.model is None else None
        return open_base(name, labels=labels, mean_pooling=mean_pooling, revision=revision)
    except CheckpointError as error:
        if settings.model is not None:
            raise
        raise CheckpointError(
            f"{error} The adapter names this backbone; give another place of it by --model."
        ) from None


def _check_shared(
    first: str, backbone: str, pooling: bool, adapter: str, name: str, mean_pooling: bool, run: Run | None
) -> None:
    """Refuse a further adapter of another backbone, as far as names tell, or of another pooling."""
    if not _same_place(name, backbone) and _trained_fingerprint(run) is None:
        raise ConfigError(
            f"adapters ({first}, {adapter}) must share one backbone, but the first names {backbone} and the second {name}. "
            "Score them apart, or name one backbone for both by --model."
        )
    if (mean_pooling or getattr(read_config(name), "use_mean_pooling", mean_pooling)) != pooling:
        raise ConfigError(
            f"adapters ({first}, {adapter}) must pool alike, but one classifies from the mean of the tokens and one from the "
            "first token. Score them apart."
        )


def _same_place(one: str, other: str) -> bool:
    return one == other or (Path(one).is_dir() and Path(other).is_dir() and Path(one).samefile(other))


def _trained_fingerprint(run: Run | None) -> str | None:
    return run.values.get("backbone", {}).get("fingerprint") if run else None


def _check_backbone(found: str, name: str, settings: "ScoringSettings", run: Run | None) -> None:
    """Compare the backbone's weights with those that the adapter was trained on, where run.json knows them."""
    trained = _trained_fingerprint(run)
    if trained in (None, found):
        return
    differ = f"its weights have the fingerprint {found}, those of training had {trained}"
    if settings.model is None:
        raise CheckpointError(
            f"backbone ({name}) must be the one that adapter ({settings.adapter}) was trained on, but {differ}. "
            "Give the place of the right one by --model."
        )
    logger.warning("%s is not the backbone that the adapter was trained on: %s.", name, differ)


def _is_lost(name: str, run: Run | None) -> bool:
    """Whether an adapter's backbone was a folder and is not there; the Hub would be asked for its name in vain."""
    was_local = run is not None and run.values.get("backbone", {}).get("local")
    return is_lost_folder(name) or bool(was_local and not Path(name).is_dir())
