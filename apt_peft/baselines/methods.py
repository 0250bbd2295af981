"""The contenders by name, as a table: what each is, how large it is by default, and how fast it learns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn as nn
from peft import IA3Config, LNTuningConfig, LoraConfig, OFTConfig, PeftConfig, get_peft_model

from apt_peft.errors import ConfigError, TargetError
from apt_peft.settings import check_known
from apt_peft.tuner import AttentionPromptConfig
from apt_peft.tuner.families import heads_of, model_type

from . import AdaptFormerConfig, BitFitConfig, VisualPromptConfig
from .common import VIDEOMAE

QUERY_VALUE = r"(?:.*\.)?encoder\.layer\.\d+\.attention\.attention\.(?:query|value)"
KEY_VALUE_MLP = r"(?:.*\.)?encoder\.layer\.\d+\.(?:attention\.attention\.(?:key|value)|output\.dense)"
MLP_END = r"(?:.*\.)?encoder\.layer\.\d+\.output\.dense"
NORMS = r"(?:.*\.)?encoder\.layer\.\d+\.layernorm_(?:before|after)"


@dataclass(frozen=True)
class Method:
    """One way to train a frozen backbone.

    Args:
        title: in a few words.
        source: whose method it is; PEFT's own implementation where it says so.
        make: settings for a backbone, of a size.
        size: what its size counts, or None where it has none.
        default_size: the size where none is given.
        lr: a learning rate to begin a search with, for AdamW; not a tuned one.
        videomae_only: whether its places are known in VideoMAE alone.
    """

    title: str
    source: str
    make: Callable[[nn.Module, int], PeftConfig]
    size: str | None = None
    default_size: int = 0
    lr: float = 0.01
    videomae_only: bool = True


def _saving(base: nn.Module, parts: list[str]) -> PeftConfig:
    """An adapter without prompts that holds whole parts of the backbone, and the head."""
    heads = heads_of(base)
    return AttentionPromptConfig(target_modules=[], modules_to_save=[*parts, *(h for h in heads if h not in parts)])


def _children(base: nn.Module, size: int) -> PeftConfig:
    return _saving(base, [name for name, part in base.named_children() if next(part.parameters(), None) is not None])


def _last_blocks(base: nn.Module, size: int) -> PeftConfig:
    blocks = [name for name, part in base.named_modules() if name.rpartition(".")[0].endswith("encoder.layer")]
    if size > len(blocks):
        raise ConfigError(f"method_size ({size}) of partial must be at most the backbone's {len(blocks)} blocks.")
    return _saving(base, blocks[len(blocks) - size :])


def _lora(base: nn.Module, size: int) -> PeftConfig:
    return LoraConfig(
        r=size, lora_alpha=2 * size, target_modules=QUERY_VALUE, lora_dropout=0.0, modules_to_save=heads_of(base)
    )


def _ia3(base: nn.Module, size: int) -> PeftConfig:
    return IA3Config(target_modules=KEY_VALUE_MLP, feedforward_modules=MLP_END, modules_to_save=heads_of(base))


def _oft(base: nn.Module, size: int) -> PeftConfig:
    width = cast(Any, base).config.hidden_size
    if width % size:  # PEFT would take another size
        raise ConfigError(f"method_size ({size}) of oft must divide the backbone's width of {width}.")
    return OFTConfig(
        oft_block_size=size, target_modules=QUERY_VALUE, module_dropout=0.0, bias="none", modules_to_save=heads_of(base)
    )


METHODS: dict[str, Method] = {
    "apt": Method(
        "attention prompts, as published",
        "Bandara & Patel, FG 2024",
        lambda base, size: AttentionPromptConfig(num_prompt_tokens=size),
        "prompt keys and values of a layer",
        100,
        0.1,
        videomae_only=False,
    ),
    "linear": Method(
        "head alone",
        "linear probe",
        lambda base, size: AttentionPromptConfig(target_modules=[]),
        videomae_only=False,
    ),
    "vpt-shallow": Method(
        "visual prompts before the first block",
        "Jia et al., ECCV 2022",
        lambda base, size: VisualPromptConfig(num_prompt_tokens=size, deep=False),
        "tokens",
        100,
        0.1,
    ),
    "vpt-deep": Method(
        "visual prompts of every block",
        "Jia et al., ECCV 2022",
        lambda base, size: VisualPromptConfig(num_prompt_tokens=size, deep=True),
        "tokens of a block",
        100,
        0.1,
    ),
    "adaptformer": Method(
        "AdaptFormer",
        "Chen et al., NeurIPS 2022",
        lambda base, size: AdaptFormerConfig(bottleneck=size),
        "width of a branch",
        64,
        0.01,
    ),
    "bitfit": Method(
        "all biases", "Ben Zaken et al., ACL 2022", lambda base, size: BitFitConfig(), lr=0.01, videomae_only=False
    ),
    "lora": Method("LoRA on query and value (alpha = 2 r)", "Hu et al., ICLR 2022; PEFT's", _lora, "rank r", 8, 0.005),
    "ia3": Method("IA3 on key, value and the MLP's second half", "Liu et al., NeurIPS 2022; PEFT's", _ia3, lr=0.01),
    "oft": Method("OFT on query and value", "Qiu et al., NeurIPS 2023; PEFT's", _oft, "block size", 32, 0.002),
    "ln": Method(
        "norms of all blocks",
        "Zhao et al., ICLR 2024; PEFT's",
        lambda base, size: LNTuningConfig(target_modules=NORMS, modules_to_save=heads_of(base)),
        lr=0.005,
    ),
    "partial": Method("the last blocks in full", "partial fine-tuning", _last_blocks, "blocks", 1, 0.0005),
    "full": Method("everything", "full fine-tuning", _children, lr=0.0003, videomae_only=False),
}


def method_of(name: str) -> Method:
    """A method by its name.

    Args:
        name: a key of `METHODS`.

    Returns:
        Its row.

    Raises:
        ConfigError: there is none of that name.
    """
    check_known("method", name, METHODS)
    return METHODS[name]


def method_config(name: str, base: nn.Module, size: int | None = None) -> PeftConfig:
    """The PEFT settings of a method for a backbone; it stays as it is.

    Args:
        name: a key of `METHODS`.
        base: the classifier; its tensors may be on the meta device.
        size: of the method; its default where None.

    Returns:
        Settings for `get_peft_model`.

    Raises:
        ConfigError: no such method, or no such size.
        TargetError: the method does not know the backbone's architecture.
    """
    method = method_of(name)
    if size is not None and method.size is None:
        raise ConfigError(f"method_size ({size}) must be left out for {name}, which has no size.")
    if size is not None and size < 1:
        raise ConfigError(f"method_size ({size}) must be a whole number from 1 on.")
    if method.videomae_only and model_type(base) != VIDEOMAE:
        raise TargetError(
            f"method ({name}) must go with a VideoMAE, but the backbone is a {model_type(base)}. "
            f"These work with it: {', '.join(key for key, row in METHODS.items() if not row.videomae_only)}."
        )
    return method.make(base, method.default_size if size is None else size)


def trained_parameters(name: str, config: Any, size: int | None = None) -> int:
    """Numbers that a method trains besides the head, counted on an empty model.

    Args:
        name: a key of `METHODS`.
        config: of the backbone, of transformers.
        size: of the method; its default where None.

    Returns:
        The count.

    Raises:
        ConfigError: no such method, or no such size.
        TargetError: the method does not know the backbone's architecture.
    """
    from transformers import AutoModelForVideoClassification

    with torch.device("meta"):
        base = AutoModelForVideoClassification.from_config(config)
    settings = method_config(name, base, size)
    head = sum(p.numel() for part in heads_of(base) for p in getattr(base, part).parameters())
    model = get_peft_model(base, settings)  # type: ignore[arg-type]
    return cast(int, model.get_nb_trainable_parameters()[0]) - head


def size_for(name: str, config: Any, parameters: int) -> int:
    """The size of a method that trains nearest to so many numbers besides the head.

    Args:
        name: a key of `METHODS` with a size that its parameters grow with in proportion.
        config: of the backbone, of transformers.
        parameters: numbers wanted.

    Returns:
        The size, 1 at least.

    Raises:
        ConfigError: the method has no size, or none whose parameters grow in proportion.
    """
    method = method_of(name)
    if method.size is None or name == "oft":
        raise ConfigError(
            f"method ({name}) must have a size that its parameters grow with, but it has none. Compare it as it is."
        )
    one, two = trained_parameters(name, config, 1), trained_parameters(name, config, 2)
    step = two - one
    return max(1, round((parameters - one) / step) + 1)
