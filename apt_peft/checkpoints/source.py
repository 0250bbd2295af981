"""An adapter's files, from a folder or from the Hub: there, whole, plain, and checked before anything is made of them."""

import json
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from peft import PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME

from .. import hub
from ..errors import CheckpointError
from ..tuner.config import AttentionPromptConfig
from ..tuner.limits import shortened
from .header import Tensor, read_header

METHOD = "ATTENTION_PROMPT"
# What `apt-peft train --method` writes besides; opened where it wrote them, with its record beside.
BASELINES = ("VISUAL_PROMPT", "ADAPTFORMER", "BITFIT", "LORA", "IA3", "OFT", "LN_TUNING")
RECORD = "run.json"
# Bytes: of a config or another text, and of weights, which a download stops at.
MAX_TEXT, MAX_WEIGHTS = 8 << 20, 4 << 30


@dataclass(frozen=True)
class AdapterFiles:
    """The files of an adapter.

    Args:
        name: as the user gave it: a folder, or `user/name`.
        folder: where they are; of an adapter from the Hub a snapshot in the cache, all of one commit.
        on_hub: whether they came from there.
        config: its settings.
        tensors: what its weights file holds, by name.
    """

    name: str
    folder: Path
    on_hub: bool
    config: Any = field(repr=False)  # AttentionPromptConfig, or a baseline's
    tensors: Mapping[str, Tensor] = field(repr=False)

    @property
    def weights(self) -> Path:
        """The file of the weights."""
        return self.folder / SAFETENSORS_WEIGHTS_NAME

    def backbone(self, remedy: str = "Add --model.") -> str:
        """The backbone that the adapter names.

        Args:
            remedy: what to do where it names none that can be used.

        Returns:
            A name on the Hub; of an adapter in a folder, also a path.

        Raises:
            CheckpointError: it names none, or, from the Hub, a place on the machine that it was trained on.
        """
        name = self.config.base_model_name_or_path
        if not name:
            raise CheckpointError(f"adapter ({self.name}) must name its backbone, but it names none. {remedy}")
        if self.on_hub and not is_repository(name):
            raise CheckpointError(
                f"adapter ({self.name}) must name its backbone as it is found on the Hub, but it names {name!r}, a place on "
                f"the machine that it was trained on. {remedy}"
            )
        return name


def find_adapter(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    subfolder: str | None = None,
    local_files_only: bool = False,
    companions: Sequence[str] = (),
) -> AdapterFiles:
    """Find an adapter's files, and see that they can be loaded before anything is.

    Args:
        name: a folder, or `user/name` on the Hub.
        revision: branch, tag or commit of an adapter on the Hub.
        token: of a user of the Hub; the one that is logged in by default.
        cache_dir: where files of the Hub are kept; huggingface_hub's cache by default.
        subfolder: where in the folder or the repository the adapter is.
        local_files_only: do not ask the Hub.
        companions: other files that are wanted where the adapter has them.

    Returns:
        The files; those of the Hub are in the cache, and are what the Hub says they are.

    Raises:
        CheckpointError: the adapter is not there, or not whole; its config cannot be read or is another method's; its
            weights are a pickle, or no plain tensors of floating-point numbers.
    """
    path = Path(name) / (subfolder or "")
    if on_hub := not Path(name).is_dir():
        _refuse_lost_folder(str(name))
        path = _download(str(name), subfolder, companions, revision, token, cache_dir, local_files_only)
    config = _read_config(path / CONFIG_NAME, str(name), baselines=not on_hub and (path / RECORD).is_file())
    weights = path / SAFETENSORS_WEIGHTS_NAME
    if not weights.exists():
        raise CheckpointError(_no_weights(str(name), (path / WEIGHTS_NAME).exists()))
    return AdapterFiles(str(name), path, on_hub, config, read_header(weights, str(name)))


def _refuse_lost_folder(name: str) -> None:
    if not is_repository(name):
        raise CheckpointError(
            f"adapter ({name}) must be a folder or a name on the Hub, but there is no such folder, and no repository can have "
            "that name. Check the path."
        )


def _download(
    name: str,
    subfolder: str | None,
    companions: Sequence[str],
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> Path:
    """The folder of the cache that holds the adapter's files, all of one commit."""
    options: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    inside = f"{subfolder.strip('/')}/" if subfolder else ""
    config = hub.download(name, inside + CONFIG_NAME, most=MAX_TEXT, revision=revision, **options)
    assert config is not None  # not an optional one
    commit = config.parents[inside.count("/")].name
    options["revision"] = commit
    weights = hub.download(name, inside + SAFETENSORS_WEIGHTS_NAME, most=MAX_WEIGHTS, optional=True, **options)
    if weights is None:
        raise CheckpointError(_no_weights(name, pickled=None))
    for file in companions:
        hub.download(name, inside + file, most=MAX_TEXT, optional=True, **options)
    return config.parent


def _no_weights(name: str, pickled: bool | None) -> str:
    found = {
        True: f"there is only {WEIGHTS_NAME}, a pickle. Pickles can hold code and are never opened",
        False: "it is not there",
        None: f"it is not there; {WEIGHTS_NAME}, a pickle, is never opened",
    }[pickled]
    return (
        f"adapter ({name}) must have its weights in {SAFETENSORS_WEIGHTS_NAME}, but {found}. Ask whoever trained it to save "
        "it anew, which writes that file."
    )


def _read_config(path: Path, name: str, *, baselines: bool) -> Any:
    rule = f"adapter ({name}) must be a folder or a name on the Hub with an {CONFIG_NAME}, but"
    if not path.exists():
        raise CheckpointError(f"{rule} it has none. Give the folder that training or a conversion wrote.")
    if not stat.S_ISREG(path.stat().st_mode) or path.stat().st_size > MAX_TEXT:
        raise CheckpointError(f"{rule} that is no plain file of at most {MAX_TEXT:,} bytes. It was not read.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(f"{rule} it cannot be read ({reason}). Copy the adapter again.") from None
    method = values.get("peft_type") if isinstance(values, dict) else None
    baseline = baselines and method in BASELINES
    if method != METHOD and not baseline:
        raise CheckpointError(
            f"adapter ({name}) must be of type {METHOD}, but its {CONFIG_NAME} says {str(method)[:200]!r}. Load adapters of "
            "other methods with PEFT itself."
        )
    texts = [values.get("base_model_name_or_path"), values.get("revision"), *_texts(values.get("id2label"))]
    if odd := [text for text in texts if not _is_printable(text)]:
        raise CheckpointError(
            f"adapter ({name}) must name its backbone and its labels in plain text, but there is {odd[0]!r:.200}. Get it "
            "from somebody else."
        )
    try:
        # PEFT's own reading of the file: what it adds, drops and warns of
        if baseline:
            return PeftConfig.from_pretrained(str(path.parent))
        return AttentionPromptConfig.from_pretrained(str(path.parent))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = shortened(str(error).strip().split("\n")[0])
        raise CheckpointError(f"adapter ({name}) must have a {CONFIG_NAME} that can be used, but: {reason}") from None


def _texts(labels: Any) -> list[Any]:
    return list(labels.values()) if isinstance(labels, dict) else []


def _is_printable(text: Any) -> bool:
    """Whether a terminal shows it as it is: control characters could write over what stands there."""
    return text is None or (isinstance(text, str) and not any(unicodedata.category(c) == "Cc" for c in text))


def is_repository(name: str) -> bool:
    """Whether a repository of the Hub can have the name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
