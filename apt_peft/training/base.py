"""Opening a backbone for video classification, and naming what is wrong where it cannot be opened."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForVideoClassification
from transformers.utils import WEIGHTS_NAME
from transformers.utils import logging as transformers_logging

from apt_peft.checkpoints.backbone import check_backbone
from apt_peft.errors import CheckpointError, ConfigError
from apt_peft.hub import reason

# What a backbone without the right head lacks, and a run trains from its own start.
HEADS = ("classifier", "fc_norm", "head", "head_layernorm", "pooler")
# Numbers of a tensor that its fingerprint is made of, evenly from all of it.
SAMPLE = 1024


def read_config(model: str, *, revision: str | None = None) -> Any:
    """The config of a backbone.

    Args:
        model: folder or name on the Hub.
        revision: branch, tag or commit on the Hub.

    Returns:
        transformers' config.

    Raises:
        CheckpointError: there is no such model, its config has wrong values, or it is no model for video classification
            with square frames.
    """
    if is_lost_folder(model):
        raise CheckpointError(
            f"model ({model}) must be a folder or a name on the Hub, but there is no such folder. Check the path."
        )
    try:
        # False: a config may name code of its own, and transformers would ask at the terminal whether to run it.
        config = AutoConfig.from_pretrained(model, revision=revision or "main", trust_remote_code=False)
    except (StrictDataclassError, TypeError, LookupError) as error:
        said = " ".join(line.strip() for line in str(error).splitlines()).rstrip(".")
        raise CheckpointError(
            f"model ({model}) must have a config.json whose values transformers can take, but: {said}. Correct it, or copy it "
            "again."
        ) from None
    except (OSError, ValueError) as error:
        where = "" if Path(model).is_dir() else " there is no such folder, and of the Hub"
        raise CheckpointError(
            f"model ({model}) must be a folder or a name on the Hub with a transformers config.json, but{where}: "
            f"{reason(error, model, 'config.json', revision)}"
        ) from None
    if type(config) not in AutoModelForVideoClassification._model_mapping:
        raise CheckpointError(
            f"model ({model}) must be a video classifier of transformers, but its type is {config.model_type}. "
            "Take a VideoMAE, for example."
        )
    return config


def is_lost_folder(model: str) -> bool:
    """Whether a backbone's name can only be a folder's, and there is no such folder."""
    return (model.startswith((".", "/", "~")) or model.count("/") > 1) and not Path(model).is_dir()


def frames_and_size(config: Any) -> tuple[int, int]:
    """Frames and pixels that a backbone was made for, from the names its config uses for them.

    Args:
        config: a video model's config.

    Returns:
        Frames of a clip, and height = width of a frame.
    """
    size: Any = getattr(config, "image_size", None) or getattr(config, "crop_size", 224)
    frames: Any = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", 16)
    return int(frames), int(size[0] if isinstance(size, (list, tuple)) else size)


def not_square(config: Any) -> str | None:
    """Height and width of the frames that a backbone takes, where they differ.

    Args:
        config: a video model's config.

    Returns:
        `48 x 64`, for example; None for squares.
    """
    size: Any = getattr(config, "image_size", None) or getattr(config, "crop_size", None)
    return " x ".join(map(str, size)) if isinstance(size, (list, tuple)) and len(set(size)) > 1 else None


def open_base(
    model: str, *, labels: Sequence[str] | None, mean_pooling: bool = False, revision: str | None = None
) -> torch.nn.Module:
    """Load a backbone in float32 with a head for some labels.

    Args:
        model: folder or name on the Hub.
        labels: class names in label order; None leaves the backbone's own.
        mean_pooling: classify from the mean of all tokens, as the method wants it, where the backbone's config asks
            for the first token instead (VideoMAE's pre-training configs do).
        revision: branch, tag or commit on the Hub.

    Returns:
        The classifier; its head is new unless the backbone's own has the same shape.

    Raises:
        CheckpointError: the weights cannot be read, weights of the encoder are missing, or it takes frames that are not square.
    """
    config = read_config(model, revision=revision)
    check_backbone(model)
    if sides := not_square(config):
        raise CheckpointError(
            f"model ({model}) must take square frames, as clips are made, but it takes {sides}. Take another backbone."
        )
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    if mean_pooling and hasattr(config, "use_mean_pooling"):
        config.use_mean_pooling = True
    try:
        with quiet():
            base, loading = AutoModelForVideoClassification.from_pretrained(
                model,
                config=config,
                revision=revision or "main",
                trust_remote_code=False,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except UnpicklingError:
        raise CheckpointError(
            f"model ({model}) must hold weights and nothing else, but its {WEIGHTS_NAME} holds what loading it would run. "
            "Nothing of it was run. Take a model with safetensors."
        ) from None
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise CheckpointError(
            f"model ({model}) must hold weights that transformers can read, but: {reason(error, model)}"
        ) from None
    lost = sorted({_name(key) for key in [*loading["missing_keys"], *loading["mismatched_keys"]]})
    lost = [name for name in lost if name.split(".")[0] not in HEADS]
    if lost:
        shown = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        raise CheckpointError(
            f"model ({model}) must hold every weight of its encoder, but these are missing or of another shape: {shown}."
        )
    return base


def head_of(base: torch.nn.Module) -> torch.nn.Linear:
    """The last linear layer of a video classifier, which gives the logits."""
    return [module for module in base.modules() if isinstance(module, torch.nn.Linear)][-1]


def weights_fingerprint(base: torch.nn.Module) -> str:
    """A short name for a backbone's weights, from each tensor's name, shape and a sample of its values; heads left out.

    Args:
        base: the classifier before prompts are added.

    Returns:
        16 hexadecimal digits.
    """
    digest = sha256()
    for name, tensor in sorted(base.named_parameters()):
        if name.split(".")[0] not in HEADS:
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().flatten()[:: 1 + tensor.numel() // SAMPLE].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_precision(settings: Any) -> None:
    """Refuse float16 where there is no GPU for it: nothing else is taken in its place without a word.

    Args:
        settings: a run's flags.

    Raises:
        ConfigError: float16 is asked for, and there is none.
    """
    if settings.fp16 and not torch.accelerator.is_available():
        raise ConfigError(
            "fp16 (True) must run on a GPU, but there is none here. Take --no-fp16 for float32, or --no-fp16 --bf16; "
            "run.json records what a recipe has otherwise."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' reports, and what libraries are about to rename, off the screen for a while; errors appear."""
    before = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for kind in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        transformers_logging.set_verbosity(before)
        if bar:
            transformers_logging.enable_progress_bar()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Use so many CPU threads for a while."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _name(key: Any) -> str:
    return key if isinstance(key, str) else key[0]
