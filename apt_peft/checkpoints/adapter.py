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


def load_adapter(
    base: torch.nn.Module,
    adapter: str | Path,
    *,
    name: str,
    config: Any = None,
    adapter_name: str = "default",
) -> PeftModel:
    """Put an adapter onto its backbone, every tensor of it in its place.

    Args:
        base: the backbone; or a model with adapters already, which gets one more.
        adapter: folder or name on the Hub.
        name: of the backbone, for messages.
        config: the adapter's config where it was read already.
        adapter_name: of the adapter in the model.

    Returns:
        The model; of a model with adapters, the same object.

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
            model = _put_on(base, str(adapter), config, adapter_name)
    except AptError:
        raise
    except UserWarning as error:
        if MISSING not in str(error):
            raise
        raise _unfit(adapter, name, f"it lacks {_missing(str(error), adapter_name)}") from None
    except KeyError as error:
        raise _unfit(adapter, name, f"it lacks {error.args[0]}") from None
    except SafetensorError as error:
        raise _unfit(adapter, name, f"its weights cannot be read ({error})") from None
    except (OSError, ValueError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).strip().split("\n")]
        raise _unfit(adapter, name, " ".join(lines[:2]).rstrip(".")) from None
    # False: there are no embeddings, and looking for them would ask the Hub for a base that has moved.
    taken = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False).keys()
    if left := sorted(key for key in weights if PROMPT in key and key not in taken):
        raise _unfit(adapter, name, f"its adapter_config.json has no place for {listing(left)} of its weights")
    return model


def _put_on(base: Any, adapter: str, config: Any, adapter_name: str) -> PeftModel:
    if not isinstance(base, PeftModel):
        return PeftModel.from_pretrained(base, adapter, config=config, adapter_name=adapter_name)
    missing = base.load_adapter(adapter, adapter_name=adapter_name, torch_device="cpu").missing_keys
    # PEFT looks for the name anywhere in a key, and so finds those of other adapters too
    if missing := [key for key in missing if key.endswith(f".{adapter_name}")]:
        warnings.warn(f"{MISSING}: {missing}", stacklevel=1)  # as from_pretrained does
    return base


def _missing(warning: str, adapter_name: str) -> str:
    """The tensors that PEFT's warning lists, as their file names them: without the adapter's name."""
    names = re.findall(r"'([^']+)'", warning.partition("[")[2].partition("]")[0])
    return listing(sorted(name.removesuffix(f".{adapter_name}") for name in names))


def _unfit(adapter: str | Path, name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"adapter ({adapter}) must be whole and fit its backbone ({name}), but {reason}. "
        "Copy the adapter again, or give the backbone it was trained on."
    )
