"""What a model card is written from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.source import AdapterFiles, is_repository
from ..training.conflicts import OWN
from .licence import Licence


@dataclass(frozen=True)
class Facts:
    """What a card says, found in an adapter's folder or told by the user.

    Args:
        files: of the adapter.
        name: of the adapter, for the Hub's table of results.
        run: what run.json holds, None where `apt-peft train` did not make the adapter.
        licence: of the backbone, None where it is not known.
        dataset: that it was trained and scored on.
        scores: by the name of a split: `top1` and `top5` in per cent, and the number of `clips`, each where it is known.
    """

    files: AdapterFiles
    name: str
    run: Mapping[str, Any] | None
    licence: Licence | None
    dataset: str | None
    scores: Mapping[str, Mapping[str, Any]]

    @property
    def base(self) -> str | None:
        """The backbone that the adapter names."""
        return self.files.config.base_model_name_or_path

    @property
    def base_on_hub(self) -> bool:
        """Whether that is a name on the Hub, and not a folder's."""
        return self.base is not None and is_repository(self.base) and not Path(self.base).exists()

    @property
    def base_class(self) -> str:
        """Name of transformers' class that the adapter was made for; empty where it is not known."""
        return str((self.files.config.auto_mapping or {}).get("base_model_class") or "")

    @property
    def labels(self) -> list[str]:
        """Class names in label order."""
        names = getattr(self.files.config, "id2label", None) or {}
        if not names and self.run is not None:
            return list(self.run["labels"])
        return [names[index] for index in range(len(names))]

    @property
    def baseline(self) -> str | None:
        """Name of the baseline that the adapter is of, None for prompts and for a head alone."""
        method = (self.run or {}).get("method", "apt")
        return None if method in OWN else str(method)

    @property
    def method(self) -> str:
        """PEFT's name of the method."""
        return str(getattr(self.files.config.peft_type, "value", self.files.config.peft_type))

    @property
    def has_prompts(self) -> bool:
        """Whether there are prompts, or a head alone."""
        return any(".attention_prompt_" in key for key in self.files.tensors)

    @property
    def pools_by_order(self) -> bool:
        """Whether the backbone must be told to pool the mean of its tokens, or may be."""
        if self.run is not None:
            return bool(self.run.get("mean_pooling_forced"))
        return self.base_class.startswith("VideoMAE") and "fc_norm" in (self.files.config.modules_to_save or [])
