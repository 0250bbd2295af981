"""An adapter onto its backbone, or an error: PEFT itself only warns of what is missing and drops what is left over."""

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME, load_peft_weights
from safetensors import SafetensorError

from ..errors import AptError, CheckpointError
from .reading import listing

MISSING = "Found missing adapter keys"
FILES = (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME)
PROMPT = ".attention_prompt_"


def load_adapter(base: torch.nn.Module, adapter: str | Path, *, name: str, config: Any = None) -> PeftModel:
    """Put an adapter onto its backbone, every tensor of it in its place.

    Args:
        base: the backbone.
        adapter: folder or name on the Hub.
        name: of the backbone, for messages.
        config: the adapter's config where it was read already.

    Returns:
        The model.

    Raises:
        CheckpointError: the weights are damaged, lack tensors, hold prompts that the config has no place for, or have
            other shapes.
    """
    if Path(adapter).is_dir() and not any((Path(adapter) / file).is_file() for file in FILES):
        raise _unfit(adapter, name, f"it has no {FILES[0]}")
    try:
        weights = load_peft_weights(str(adapter), device="cpu")
        with warnings.catch_warnings():
            # What PEFT only warns of would be scored, or exported, with random prompts in its place.
            warnings.filterwarnings("error", message=MISSING)
            model = PeftModel.from_pretrained(base, str(adapter), config=config)  # type: ignore[arg-type]
    except AptError:
        raise
    except UserWarning as error:
        if MISSING not in str(error):
            raise
        raise _unfit(adapter, name, f"it lacks {_missing(str(error))}") from None
    except KeyError as error:
        raise _unfit(adapter, name, f"it lacks {error.args[0]}") from None
    except SafetensorError as error:
        raise _unfit(adapter, name, f"its weights cannot be read ({error})") from None
    except (OSError, ValueError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).strip().split("\n")]
        raise _unfit(adapter, name, " ".join(lines[:2]).rstrip(".")) from None
    # False: there are no embeddings, and looking for them would ask the Hub for a base that has moved.
    taken = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    if left := sorted(key for key in weights if PROMPT in key and key not in taken):
        raise _unfit(adapter, name, f"its adapter_config.json has no place for {listing(left)} of its weights")
    return model


def _missing(warning: str) -> str:
    """The tensors that PEFT's warning lists, as their file names them: without the adapter's name."""
    names = re.findall(r"'([^']+)'", warning.partition("[")[2].partition("]")[0])
    return listing(sorted(name.removesuffix(".default") for name in names))


def _unfit(adapter: str | Path, name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"adapter ({adapter}) must be whole and fit its backbone ({name}), but {reason}. "
        "Copy the adapter again, or give the backbone it was trained on."
    )
