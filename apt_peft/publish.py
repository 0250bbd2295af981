"""An adapter to the Hub in one call: saved, described, uploaded in one commit."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peft import PeftModel

from . import hub
from .card import write_model_card
from .checkpoints.source import find_adapter
from .errors import ConfigError


def push_to_hub(
    adapter: PeftModel | str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload adapter",
    adapter_name: str | None = None,
    dataset: str | None = None,
    scores: Mapping[str, float] | None = None,
    license: str | None = None,
) -> str:
    """Upload an adapter with its model card.

    PEFT's own `model.push_to_hub` uploads the adapter, too, but under a card that does not say how to load it.

    Args:
        adapter: a model with the adapter; or its folder, which is uploaded with the card that it has.
        repo_id: `user/name`; made if it does not exist.
        private: whether a new repository is.
        token: of a user; the one that is logged in by default.
        revision: branch to commit to; made if it does not exist; main by default.
        commit_message: of the commit.
        adapter_name: of the adapter in the model; the active one by default.
        dataset: as in `write_model_card`, of a model.
        scores: likewise.
        license: likewise.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: a folder holds no adapter that can be loaded.
        ConfigError: the model has no such adapter.
        AptError: the Hub refuses or cannot be reached. A commit is made whole or not at all.
    """
    options: dict[str, Any] = {"private": private, "token": token, "revision": revision, "message": commit_message}
    if not isinstance(adapter, PeftModel):
        return hub.push(find_adapter(adapter).folder, repo_id, **options)
    name = adapter_name or adapter.active_adapters[0]
    if name not in adapter.peft_config:
        raise ConfigError(f"adapter_name ({name!r}) must be one of the model's adapters: {list(adapter.peft_config)}.")
    with TemporaryDirectory() as place:
        adapter.save_pretrained(place, selected_adapters=[name])
        folder = Path(place) if name == "default" else Path(place) / name
        own = repo_id.rpartition("/")[2]
        write_model_card(folder, name=own, dataset=dataset, scores=scores, license=license)
        return hub.push(folder, repo_id, temporary=True, **options)
