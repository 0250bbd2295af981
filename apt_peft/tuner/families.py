"""What differs from one architecture to the next, as a table: where its self-attention sits, and which heads to train.

A row is needed only for defaults. Any module whose forward goes through transformers' attention interface can be named
in `target_modules`, and so can those that have a seam of their own (`seams.py`).
"""

import inspect
import re
from collections.abc import Iterable
from typing import NamedTuple

import torch.nn as nn

from .seams import seam_of


class Family(NamedTuple):
    """One architecture's row."""

    attention: str  # regular expression for the full name of the self-attention modules; its group `layer` is the index
    heads: tuple[str, ...]  # modules of the classification head, in the order of the forward
    label_head: str | None = "classifier"  # the Linear among them whose outputs are the labels


_ANYWHERE = r"(?:.*\.)?"
_VIT = Family(_ANYWHERE + r"layers\.(?P<layer>\d+)\.attention", ("classifier",))
_DINOV2 = Family(_ANYWHERE + r"encoder\.layer\.(?P<layer>\d+)\.attention", ("classifier",))
# Both encoders have prompts: each frame by itself, then each place along the frames. `layer` counts in each of the two.
_VIDEOPRISM = _ANYWHERE + r"(?:spatial|temporal)_layers\.(?P<layer>\d+)\.attention"
# The text half of CLIP and SigLIP has layers of the same names, below `text_model`, and is causal or masked: not a target.
_CLIP = Family(r"(?:(?:.*\.)?vision_model\.)?encoder\.layers\.(?P<layer>\d+)\.self_attn", ("classifier",))

FAMILIES: dict[str, Family] = {
    # "attention.attention" alone would hit the decoder of VideoMAEForPreTraining, too
    "videomae": Family(_ANYWHERE + r"encoder\.layer\.(?P<layer>\d+)\.attention\.attention", ("fc_norm", "classifier")),
    "vivit": _VIT,
    # both attentions of a layer; where they are not divided, the one that there is
    "timesformer": Family(
        _ANYWHERE + r"encoder\.layer\.(?P<layer>\d+)\.(?:temporal_)?attention\.attention", ("classifier",)
    ),
    # the pooler (`head`) has no prompts: it comes untrained with the backbone, and is trained in full
    "videoprism_vision_model": Family(_VIDEOPRISM, ("head", "head_layernorm", "classifier")),
    "videoprism": Family(_VIDEOPRISM, ()),  # with its text half, which is causal: not a target
    # the predictor, and the pooler's own attention, stay without prompts
    "vjepa2": Family(_DINOV2.attention, ("pooler", "classifier")),
    "vit": _VIT,
    "deit": Family(_VIT.attention, ("classifier", "cls_classifier", "distillation_classifier")),
    "beit": _VIT,
    "ijepa": _VIT,
    "audio-spectrogram-transformer": _VIT,
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "dinov3_vit": Family(_ANYWHERE + r"layer\.(?P<layer>\d+)\.attention", ("classifier",)),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _CLIP,
    "siglip_vision_model": _CLIP,
    "siglip2": _CLIP,
    "siglip2_vision_model": _CLIP,
}

# Below these, PEFT keeps a wrapped module and its copies.
WRAPPED = ("original_module", "modules_to_save")

# Saved adapters hold these expressions: one that a later version changes must stay in here.
DEFAULT_PATTERNS = frozenset(family.attention for family in FAMILIES.values())


def model_type(model: nn.Module) -> str | None:
    """Name of a model's architecture in transformers (`"videomae"`), or None for a model that has none."""
    return getattr(getattr(model, "config", None), "model_type", None)


def heads_of(model: nn.Module) -> list[str]:
    """Names of the head modules that a model of a known architecture has; empty for a bare backbone.

    Args:
        model: the base model.

    Returns:
        Names of direct children, in the order of the table.
    """
    family = FAMILIES.get(model_type(model) or "")
    # a head that the configuration switches off is None, or an Identity without parameters
    heads = [name for name in (family.heads if family else ()) if _has_parameters(getattr(model, name, None))]
    # without a classifier, a pooler or a norm is a part of the backbone (VideoPrism's video model)
    return heads if any(name.endswith("classifier") for name in heads) else []


def norms_of(model: nn.Module, attentions: Iterable[str]) -> list[str]:
    """Names of the norms in the blocks that some attentions are part of, as `modules_to_save` takes them.

    A block is the smallest module around an attention that has a norm outside of it.

    Args:
        model: the base model, before or after it was wrapped.
        attentions: full names of its attention modules.

    Returns:
        The ends of the norms' names, where no other module's name ends so; else the full names.
    """
    modules: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if not any(part in name.split(".") for part in WRAPPED):
            modules[name] = getattr(module, "original_module", module)
    norms = [name for name, module in modules.items() if "Norm" in type(module).__name__]
    found: dict[str, None] = {}
    for attention in attentions:
        block, inside = attention, list[str]()
        while not inside and "." in block:
            block = block.rpartition(".")[0]
            inside = [n for n in norms if n.startswith(f"{block}.") and not n.startswith(f"{attention}.")]
        found.update(dict.fromkeys(inside))
    ends = tuple(dict.fromkeys(name.rpartition(".")[2] for name in found))
    return [*found] if any(name.endswith(ends) for name in modules if name not in found) else [*ends]


def _has_parameters(module: object) -> bool:
    return isinstance(module, nn.Module) and next(module.parameters(), None) is not None


def forward_function(module: nn.Module):
    """The plain function behind a module's forward, below decorators; its globals are those of the modelling file."""
    return inspect.unwrap(type(module).forward)


def uses_attention_interface(module: nn.Module) -> bool:
    """Whether a module is an attention that looks its implementation up in transformers' attention interface.

    That look-up is the seam through which prompts come in: `ALL_ATTENTION_FUNCTIONS` together with the module's own
    `config._attn_implementation`.
    """
    code = getattr(forward_function(module), "__code__", None)
    looks_up = code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names
    return looks_up and hasattr(getattr(module, "config", None), "_attn_implementation")


def can_take_prompts(module: nn.Module) -> bool:
    """Whether a module is an attention that prompts can be given to: through the interface, or a seam of its own."""
    return uses_attention_interface(module) or seam_of(module) is not None


def candidates(model: nn.Module) -> list[str]:
    """Names of the modules in a model that prompts could go to, numbered ones folded into one name with a count.

    Args:
        model: the base model.

    Returns:
        For example `["vit.layers.*.attention (12)"]`.
    """
    return fold_names(name for name, module in model.named_modules() if name and can_take_prompts(module))


def fold_names(names: Iterable[str]) -> list[str]:
    """Fold module names that differ in their numbers only: `a.0.b`, `a.1.b` -> `a.*.b (2)`."""
    counts: dict[str, int] = {}
    for name in names:
        folded = re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)", "*", name)
        counts[folded] = counts.get(folded, 0) + 1
    return [f"{name} ({count})" if "*" in name else name for name, count in counts.items()]


def head_dimensions(attention: nn.Module) -> tuple[int, int]:
    """Read the shape of an attention's keys.

    Args:
        attention: a module that can take prompts.

    Returns:
        Number of key/value heads H, and head dimension D.

    Raises:
        AttributeError: neither the module nor its config tells.
    """
    seam = seam_of(attention)
    if seam is not None:
        return seam.head_dimensions(attention)
    config = attention.config
    query_heads = _first_attribute((attention, config), "num_attention_heads", "num_heads")
    dimension = _first_attribute((attention, config), "attention_head_size", "head_dim")
    if dimension is None:
        dimension = config.hidden_size // query_heads
    groups = getattr(attention, "num_key_value_groups", None) or 1
    return int(query_heads // groups), int(dimension)


def width(attention: nn.Module) -> int:
    """Width of the tokens that an attention takes and gives.

    Args:
        attention: a module that goes through the attention interface.

    Returns:
        The hidden size.
    """
    return int(_first_attribute((attention, attention.config), "embed_dim", "hidden_size"))


def _first_attribute(owners: tuple[object, ...], *names: str):
    return next((getattr(o, n) for o in owners for n in names if getattr(o, n, None) is not None), None)


def patch_elements(config: object) -> int:
    """Numbers in one patch of one frame: colour channels x patch height x patch width.

    The published initialisation scales with it, and never counts the frames of a tubelet. A model without
    square patches (audio, text) is taken as 3 x 16 x 16, for which the method was published.
    """
    patch = getattr(config, "patch_size", None)
    if patch is None:  # ViViT states (frames, height, width) in one
        tubelet = getattr(config, "tubelet_size", None)
        patch = tuple(tubelet)[-2:] if isinstance(tubelet, list | tuple) else 16
    height, width = (patch, patch) if isinstance(patch, int) else tuple(patch)[-2:]
    channels = _first_attribute((config,), "num_channels", "in_chans") or 3
    return int(channels) * int(height) * int(width)
