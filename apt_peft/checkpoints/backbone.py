"""What a backbone's folder must not do: its files may come from anywhere, as an adapter's do."""

import json
from pathlib import Path

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME

from ..errors import CheckpointError
from .reading import listing


def check_backbone(model: str) -> None:
    """Refuse a folder whose index leads out of it; transformers would read the files that it names.

    Args:
        model: a backbone's folder; a name on the Hub passes, where huggingface_hub refuses such names itself.

    Raises:
        CheckpointError: files are named that do not lie in the folder.
    """
    for name in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME):
        path = Path(model) / name
        if not path.is_file():
            continue
        try:
            files = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
            outside = sorted(file for file in files if Path(file).name != file or "\\" in file)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CheckpointError(
                f"model ({model}) must have a whole {name}, but it is damaged. Copy it again."
            ) from None
        if outside:
            raise CheckpointError(
                f"model ({model}) must name files of its own folder in {name}, but it names {listing(outside)}. They were not "
                "read."
            )
