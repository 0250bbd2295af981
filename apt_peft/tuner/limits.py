"""What a config may ask for. An adapter comes from anywhere, and its few lines must cost neither hours nor all memory."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn as nn

from ..errors import CheckpointError, ConfigError
from .families import head_dimensions

try:
    from re import _parser as parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_parse as parser

# Entries of a list, and characters of a text. The largest models have some hundred modules.
MAX_ENTRIES = 10_000
MAX_TEXT = 10_000
# Lists whose entries PEFT makes regular expressions of, one for each entry and module.
MAX_PATTERNS = 100
# The largest data sets have 22,000 labels.
MAX_LABELS = 100_000
FIELD_ENTRIES = {
    "modules_to_save": MAX_PATTERNS,
    "layers_pattern": MAX_PATTERNS,
    "num_prompt_tokens_pattern": 1_000,
    "id2label": MAX_LABELS,
}

# A regular expression is tried on every module's name; a million steps on each take some seconds for a whole model.
MAX_WAYS = 10**6
MAX_EXPRESSION = 2_000  # characters
NAME_LENGTH = 64
DIGITS = 4  # in a row, in a name

# What weights are saved in. Others load, rounded or cut, and mean nothing.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Prompts may take four times what the model takes; below 1 GiB they may take anything.
TIMES_THE_MODEL = 4
FREE_BYTES = 1 << 30


def size_problems(config: Any) -> Iterator[str]:
    """What is too large in a config, as sentences; looked at before anything is done with its values.

    Args:
        config: an adapter's settings, fresh from a file.

    Yields:
        A sentence for each list that is too long, and for each that holds a text that is.
    """
    for name, value in vars(config).items():
        most = FIELD_ENTRIES.get(name, MAX_ENTRIES)
        if isinstance(value, list | tuple | set | range | dict):
            if len(value) > most:
                yield f"{name} (a {type(value).__name__} of {len(value):,}) must have at most {most:,} entries."
                continue
            texts = [*value, *value.values()] if isinstance(value, dict) else list(value)
        else:
            texts = [value]
        longest = max((len(text) for text in texts if isinstance(text, str)), default=0)
        if longest > MAX_TEXT:
            yield f"{name} (a text of {longest:,}) must have at most {MAX_TEXT:,} characters in a text."


def shortened(sentence: str, most: int = 1000) -> str:
    """A sentence of a message without the middle of a long value."""
    return sentence if len(sentence) <= most else f"{sentence[: most // 2]} ... {sentence[-most // 2 :]}"


@lru_cache(maxsize=256)
def expression_problem(expression: str) -> str | None:
    """What is wrong with a regular expression for module names.

    Args:
        expression: as a config gives it.

    Returns:
        What it must be, to end a sentence with; None where nothing is wrong.
    """
    if len(expression) > MAX_EXPRESSION:
        return f"have at most {MAX_EXPRESSION:,} characters when it is a string. Pass a list to give names."
    try:
        re.compile(expression)
        _walk(parser.parse(expression), {0: 1})
    except (re.error, RecursionError, OverflowError):
        return "be a valid regular expression when it is a string. Pass a list to give names."
    except _TooManyWaysError:
        return (
            "be a regular expression that is quick to try, but repeats in repeats, or too many of them, could try a name "
            "in millions of ways. Write it with fewer, or pass a list of names."
        )
    return None


class _TooManyWaysError(Exception):
    """An expression could divide a name among its parts in too many ways."""


def _walk(parsed: Any, ways: dict[int, int]) -> dict[int, int]:
    """Count the ways in which the parts of an expression can take the beginning of a name, whatever its characters are.

    A matcher that goes back tries them one after the other, so their number bounds its steps.

    Args:
        parsed: a parsed expression.
        ways: for a number of characters, in how many ways what comes before takes so many.

    Returns:
        The same after the expression.

    Raises:
        _TooManyWaysError: there are more than a million.
    """
    for operation, argument in parsed:
        name = str(operation)
        if name.endswith("_REPEAT"):
            least, most, body = int(argument[0]), int(argument[1]), argument[2]
            most = min(most, max(least, DIGITS) if _is_digit(body) else NAME_LENGTH)
            taken, ways = ways, dict(ways) if least == 0 else {}
            for count in range(1, most + 1):
                before, taken = taken, _walk(body, taken)
                if not taken or taken == before:  # beyond the name, or a body that takes nothing
                    ways = ways or taken
                    break
                if count >= least:
                    ways = _sum([ways, taken])
        elif name == "BRANCH":
            ways = _sum([_walk(branch, ways) for branch in argument[1]])
        elif name == "GROUPREF_EXISTS":
            ways = _sum([_walk(part, ways) for part in argument[1:] if part is not None])
        elif name in ("SUBPATTERN", "ATOMIC_GROUP"):
            ways = _walk(argument[-1] if name == "SUBPATTERN" else argument, ways)
        elif name in ("ASSERT", "ASSERT_NOT"):
            _walk(argument[1], ways)
        elif name == "GROUPREF":  # as long as the group was
            ways = _sum([{length + more: n for length, n in ways.items()} for more in range(NAME_LENGTH)])
        elif name != "AT":  # one character
            ways = {length + 1: n for length, n in ways.items()}
        ways = {length: n for length, n in ways.items() if length <= NAME_LENGTH}
        if sum(ways.values()) > MAX_WAYS:
            raise _TooManyWaysError
    return ways


def _sum(parts: list[dict[int, int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for part in parts:
        for length, number in part.items():
            total[length] = total.get(length, 0) + number
    return total


def _is_digit(body: Any) -> bool:
    """Whether a parsed expression is `\\d` or `[0-9]` alone."""
    return len(body) == 1 and str(body[0]) in ("(IN, [(CATEGORY, CATEGORY_DIGIT)])", "(IN, [(RANGE, (48, 57))])")


def check_memory(config: Any, model: nn.Module, attentions: Mapping[str, nn.Module]) -> None:
    """Refuse prompts that no model of this size is tuned with, before they are made.

    Args:
        config: an adapter's settings.
        model: the backbone.
        attentions: its modules that would get prompts, by name.

    Raises:
        ConfigError: prompts would take more than 1 GiB and more than four times the model.
    """
    wanted = layers = 0
    for name, module in attentions.items():
        heads, dim = head_dimensions(getattr(module, "base_layer", module))
        rows = config.prompt_tokens_of(name) * (1 if config.share_prompts_across_heads else heads)
        wanted += 2 * rows * (dim + 1) * 4  # keys, values and their scales, in float32
        layers += 1
    if wanted <= FREE_BYTES:
        return
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    if wanted > TIMES_THE_MODEL * own:
        raise ConfigError(
            f"num_prompt_tokens ({config.num_prompt_tokens}) must keep the prompts below 4 times the size of the model, but "
            f"in {layers} layers they would take {wanted / 1e9:.1f} GB, and the model has {own / 1e9:.1f} GB. Lower it."
        )


def refuse_unusable(tensors: Mapping[str, Any]) -> None:
    """Refuse prompts that no training can have left.

    Args:
        tensors: by name, as a state dict holds them; shards and tensors without data are passed over.

    Raises:
        CheckpointError: some are of another dtype than weights are, or hold NaN or infinite values.
    """
    plain = {name: t for name, t in tensors.items() if type(t) in (torch.Tensor, nn.Parameter) and not t.is_meta}
    if odd := [name for name, tensor in plain.items() if tensor.dtype not in DTYPES]:
        kinds = sorted({str(plain[name].dtype) for name in odd})
        raise CheckpointError(
            f"prompts ({', '.join(odd)}) must be float16, bfloat16, float32 or float64, but are {', '.join(kinds)}. Get the "
            "adapter again from whoever trained it."
        )
    if odd := [name for name, tensor in plain.items() if not tensor.isfinite().all()]:
        raise CheckpointError(
            f"prompts ({', '.join(odd)}) must be finite, but have NaN or infinite values: their training diverged, or their "
            "file is damaged. Load an earlier one."
        )
