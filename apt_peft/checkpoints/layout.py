"""Two names for every tensor: the key in the reference's files and the keys in transformers' VideoMAE.

`layout` is the one table that both directions read: what a file must hold, of which shape, and where it goes.
"""

from dataclasses import dataclass
from types import MappingProxyType

from .dimensions import Dimensions

# One block: reference name -> transformers name(s). Three names: the fused tensor is split, query first.
BLOCK = MappingProxyType(
    {
        "norm1.weight": ("layernorm_before.weight",),
        "norm1.bias": ("layernorm_before.bias",),
        "attn.qkv.weight": tuple(f"attention.attention.{name}.weight" for name in ("query", "key", "value")),
        "attn.q_bias": ("attention.attention.query.bias",),
        "attn.v_bias": ("attention.attention.value.bias",),
        "attn.proj.weight": ("attention.output.dense.weight",),
        "attn.proj.bias": ("attention.output.dense.bias",),
        "norm2.weight": ("layernorm_after.weight",),
        "norm2.bias": ("layernorm_after.bias",),
        "mlp.fc1.weight": ("intermediate.dense.weight",),
        "mlp.fc1.bias": ("intermediate.dense.bias",),
        "mlp.fc2.weight": ("output.dense.weight",),
        "mlp.fc2.bias": ("output.dense.bias",),
    }
)
STEM = MappingProxyType(
    {
        "patch_embed.proj.weight": "videomae.embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "videomae.embeddings.patch_embeddings.projection.bias",
    }
)
FINAL_NORM = MappingProxyType({"norm.weight": "videomae.layernorm.weight", "norm.bias": "videomae.layernorm.bias"})
HEAD_NORM = MappingProxyType({"head_norm.weight": "fc_norm.weight", "head_norm.bias": "fc_norm.bias"})
HEAD = MappingProxyType({"head.weight": "classifier.weight", "head.bias": "classifier.bias"})
# The decoder's own names are the same in both.
DECODER = (
    "mask_token",
    "encoder_to_decoder.weight",
    *(f"decoder.{n}.{p}" for n in ("norm", "head") for p in ("weight", "bias")),
)
# One tensor for all prompted layers -> the parameter of each layer's attention.
PROMPTS = MappingProxyType(
    {
        "prompt_embeddings_k": "attention_prompt_key",
        "prompt_embeddings_v": "attention_prompt_value",
        "prompt_scale": "attention_prompt_scale",
    }
)
ATTENTION = "videomae.encoder.layer.{}.attention.attention"


@dataclass(frozen=True)
class Entry:
    """One tensor of a reference file.

    Args:
        shape: its shape there.
        targets: its key or keys in transformers; three share one fused tensor, and prompts have one a layer.
        split: how the tensor becomes the targets: "whole", "fused" (equal parts of the first axis) or "layers" (unbound).
    """

    shape: tuple[int, ...]
    targets: tuple[str, ...]
    split: str = "whole"


def layout(dimensions: Dimensions) -> dict[str, Entry]:
    """Every tensor that a reference file of these dimensions holds.

    Args:
        dimensions: sizes of the model and which of its parts the file has.

    Returns:
        Canonical key -> shape and transformers keys.
    """
    d = dimensions
    patch = (d.num_channels, d.tubelet_size, d.patch_size, d.patch_size)
    entries = {
        "patch_embed.proj.weight": Entry((d.hidden_size, *patch), (STEM["patch_embed.proj.weight"],)),
        "patch_embed.proj.bias": Entry((d.hidden_size,), (STEM["patch_embed.proj.bias"],)),
    }
    for index in range(d.num_hidden_layers):
        entries |= _block(
            f"blocks.{index}", f"videomae.encoder.layer.{index}", d.hidden_size, d.intermediate_size, d.qv_bias
        )
    if d.final_norm:
        entries |= {key: Entry((d.hidden_size,), (target,)) for key, target in FINAL_NORM.items()}
    if d.head_norm:
        entries |= {key: Entry((d.hidden_size,), (target,)) for key, target in HEAD_NORM.items()}
    if d.num_labels is not None:
        entries |= {
            "head.weight": Entry((d.num_labels, d.hidden_size), (HEAD["head.weight"],)),
            "head.bias": Entry((d.num_labels,), (HEAD["head.bias"],)),
        }
    if d.decoder is not None:
        width, pixels = d.decoder.hidden_size, d.num_channels * d.tubelet_size * d.patch_size**2
        shapes = ((1, 1, width), (width, d.hidden_size), (width,), (width,), (pixels, width), (pixels,))
        entries |= {key: Entry(shape, (key,)) for key, shape in zip(DECODER, shapes, strict=True)}
        for index in range(d.decoder.num_hidden_layers):
            source, target = f"decoder.blocks.{index}", f"decoder.decoder_layers.{index}"
            entries |= _block(source, target, width, d.decoder.intermediate_size, d.qv_bias)
    if d.prompts is not None:
        count, tokens = len(d.prompts.layers), d.prompts.num_prompt_tokens
        for key, parameter in PROMPTS.items():
            if key == "prompt_scale" and not d.prompts.scaled:
                continue
            shape = (count, 2, tokens) if key == "prompt_scale" else (count, tokens, d.head_size)
            targets = tuple(f"{ATTENTION.format(index)}.{parameter}" for index in d.prompts.layers)
            entries[key] = Entry(shape, targets, "layers")
    return entries


def _block(source: str, target: str, width: int, intermediate: int, qv_bias: bool) -> dict[str, Entry]:
    shapes = {
        "attn.qkv.weight": (3 * width, width),
        "attn.proj.weight": (width, width),
        "mlp.fc1.weight": (intermediate, width),
        "mlp.fc1.bias": (intermediate,),
        "mlp.fc2.weight": (width, intermediate),
    }
    return {
        f"{source}.{name}": Entry(
            shapes.get(name, (width,)),
            tuple(f"{target}.{part}" for part in parts),
            "fused" if len(parts) > 1 else "whole",
        )
        for name, parts in BLOCK.items()
        if qv_bias or not name.endswith(("q_bias", "v_bias"))
    }
