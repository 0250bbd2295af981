"""What model a file holds: sizes from its shapes, the rest from its settings, from options, or from the publications."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..errors import CheckpointError
from .options import CheckpointOptions
from .reading import WeightFile

# Shapes do not tell the number of heads, so for files without prompts it comes from the published models, by width.
HEADS = MappingProxyType({384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16})
DECODER_HEADS = MappingProxyType({192: 3, 384: 6, 512: 8, 640: 8})
PUBLISHED_IMAGE_SIZE, PUBLISHED_NUM_FRAMES = 224, 16
# The position table is built from settings: a hostile file must not make it fill the memory.
MAX_PATCH_TOKENS = 1_000_000

KINDS = MappingProxyType(
    {
        "apt": "an APT model: backbone, prompts and head",
        "finetuned": "a VideoMAE fine-tuning file: backbone and head",
        "pretraining": "a VideoMAE pre-training file: encoder and decoder",
        "encoder": "a bare encoder",
    }
)


@dataclass(frozen=True)
class Decoder:
    """The decoder of a pre-training file."""

    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int


@dataclass(frozen=True)
class Prompts:
    """The prompts of an APT file.

    Args:
        layers: indices of the layers that have prompts, an unbroken range.
        num_prompt_tokens: P.
        scaled: whether the file holds scales, that is, was trained with reparameterization.
        dropout: prompt dropout it was trained with, None where the file does not tell.
    """

    layers: tuple[int, ...]
    num_prompt_tokens: int
    scaled: bool
    dropout: float | None


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a model and which parts of it a file holds."""

    kind: str
    image_size: int
    patch_size: int
    num_channels: int
    num_frames: int
    tubelet_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    qv_bias: bool
    final_norm: bool
    head_norm: bool
    num_labels: int | None
    decoder: Decoder | None
    prompts: Prompts | None
    sources: tuple[tuple[str, str], ...] = ()

    @property
    def head_size(self) -> int:
        """Width of one attention head, D."""
        return self.hidden_size // self.num_attention_heads


def measure(file: WeightFile, options: CheckpointOptions) -> Dimensions:
    """Find out what model a file holds.

    Args:
        file: the file's content.
        options: what the caller says of it.

    Returns:
        Its dimensions; `sources` says where each size that shapes do not tell came from.

    Raises:
        CheckpointError: the file is of another project, or options, settings and shapes disagree.
    """
    state, kind = file.state, _kind(file.state)
    _check_anchors(file, kind)
    hidden_size, num_channels, tubelet_size, patch_size, width = state["patch_embed.proj.weight"].shape
    problems = _idle_options(kind, options)
    if patch_size != width:
        problems.append(f"patch_embed.proj.weight must have square patches, but they are {patch_size} x {width}")
    if options.tubelet_size not in (None, tubelet_size):
        problems.append(
            f"tubelet_size ({options.tubelet_size}) must be {tubelet_size}, as patch_embed.proj.weight says"
        )
    sources: dict[str, str] = {}

    def told(name: str, option: int | None, setting: int | None, published: int, unit: tuple[str, int]) -> int:
        value, sources[name] = next(
            (value, source)
            for value, source in (
                (option, "given"),
                (setting, "from the file's settings"),
                (published, "assumed, as published: the file does not tell"),
            )
            if value is not None
        )
        if value < 1 or value % unit[1]:
            problems.append(f"{name} ({value}) must be a positive multiple of the {unit[0]} size, {unit[1]}")
        return value

    frames = _integer(file.settings, "num_frames")
    segments = _integer(file.settings, "num_segments") or 1
    pixels, patch, tubelet = _integer(file.settings, "input_size"), ("patch", patch_size), ("tubelet", tubelet_size)
    image_size = told("image_size", options.image_size, pixels, PUBLISHED_IMAGE_SIZE, patch)
    num_frames = told("num_frames", options.num_frames, frames and frames * segments, PUBLISHED_NUM_FRAMES, tubelet)
    if (tokens := (image_size // patch_size) ** 2 * (num_frames // tubelet_size)) > MAX_PATCH_TOKENS:
        problems.append(
            f"image_size ({image_size}) and num_frames ({num_frames}) must give at most {MAX_PATCH_TOKENS:,} patch "
            f"tokens, but give {tokens:,}"
        )
    depth, head_norm = _depth(state, "blocks."), kind in {"apt", "finetuned"} and "head_norm.weight" in state
    heads = _heads(file, options, hidden_size, sources, problems)
    decoder = _decoder(file, options, sources, problems) if kind == "pretraining" and options.keep_decoder else None
    prompts = _prompts(file, options, depth, problems) if kind == "apt" else None
    if problems:
        raise CheckpointError(f"checkpoint ({file.path}) and options must agree, but: {'; '.join(problems)}.")
    return Dimensions(
        kind=kind,
        image_size=image_size,
        patch_size=patch_size,
        num_channels=num_channels,
        num_frames=num_frames,
        tubelet_size=tubelet_size,
        hidden_size=hidden_size,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        qv_bias="blocks.0.attn.q_bias" in state,
        final_norm=kind == "pretraining" or ("norm.weight" in state and kind != "apt" and not head_norm),
        head_norm=head_norm or kind == "apt",
        num_labels=state["head.weight"].shape[0] if kind in {"apt", "finetuned"} else None,
        decoder=decoder,
        prompts=prompts,
        sources=tuple(sources.items()),
    )


def _kind(state: Iterable[str]) -> str:
    if any(key.startswith("prompt_") for key in state):
        return "apt"
    if any(key.startswith(("decoder.", "encoder_to_decoder.")) or key == "mask_token" for key in state):
        return "pretraining"
    return "finetuned" if any(key.startswith("head.") for key in state) else "encoder"


# The tensors that sizes are read from, by kind: key -> number of axes.
ANCHORS = MappingProxyType({"patch_embed.proj.weight": 5, "blocks.0.mlp.fc1.weight": 2})
KIND_ANCHORS = MappingProxyType(
    {
        "apt": {"prompt_embeddings_k": 3, "head.weight": 2},
        "finetuned": {"head.weight": 2},
        "pretraining": {"encoder_to_decoder.weight": 2, "decoder.blocks.0.mlp.fc1.weight": 2},
        "encoder": {},
    }
)


def _check_anchors(file: WeightFile, kind: str) -> None:
    missing = [
        f"{key} ({axes} axes)"
        for key, axes in {**ANCHORS, **KIND_ANCHORS[kind]}.items()
        if key not in file.state or file.state[key].ndim != axes or 0 in file.state[key].shape
    ]
    if missing:
        keys = list(file.state)
        shown = ", ".join(f"{key} {tuple(file.state[key].shape)}" for key in keys[:5])
        raise CheckpointError(
            f"checkpoint ({file.path}) must be of VideoMAE or APT, but has no {', '.join(missing)}: its {len(keys)} "
            f"tensors begin with {shown}. Give a file of the reference's or of VideoMAE's training scripts."
        )


def _idle_options(kind: str, options: CheckpointOptions) -> list[str]:
    """Options that could not do anything: the caller takes the file for something else."""
    idle = {
        "prompt_start": options.prompt_start is not None and kind != "apt",
        "labels": options.labels is not None and kind not in {"apt", "finetuned"},
        "decoder_num_attention_heads": options.decoder_num_attention_heads is not None and kind != "pretraining",
        "keep_decoder=False": not options.keep_decoder and kind != "pretraining",
    }
    return [f"{name} must be left out for {KINDS[kind]}" for name, is_idle in idle.items() if is_idle]


def _integer(settings: dict[str, Any], name: str) -> int | None:
    value = settings.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _depth(state: dict[str, Any], prefix: str) -> int:
    """How many blocks there are; gaps in their numbers show up later as missing and leftover keys."""
    return len({match[1] for key in state if (match := re.match(re.escape(prefix) + r"(\d+)\.", key))})


def _heads(
    file: WeightFile, options: CheckpointOptions, hidden_size: int, sources: dict[str, str], problems: list[str]
) -> int:
    prompts, heads = file.state.get("prompt_embeddings_k"), options.num_attention_heads
    sources["num_attention_heads"] = "given"
    if prompts is not None:
        head_size = prompts.shape[-1]
        if hidden_size % head_size:
            problems.append(f"prompts are {head_size} wide, which must divide the hidden size, {hidden_size}")
        elif heads not in (None, hidden_size // head_size):
            problems.append(
                f"num_attention_heads ({heads}) must be {hidden_size // head_size}: prompts are {head_size} wide and "
                f"the hidden size is {hidden_size}"
            )
        sources["num_attention_heads"] = "from the prompts' width"
        return max(hidden_size // head_size, 1)
    if heads is None:
        heads = HEADS.get(hidden_size)
        sources["num_attention_heads"] = "assumed, as published for this width"
    if heads is None:
        problems.append(f"num_attention_heads must be given, for no published model has a hidden size of {hidden_size}")
        return 1
    if heads < 1 or hidden_size % heads:
        problems.append(f"num_attention_heads ({heads}) must divide the hidden size, {hidden_size}")
        return 1
    return heads


def _decoder(file: WeightFile, options: CheckpointOptions, sources: dict[str, str], problems: list[str]) -> Decoder:
    width, heads = file.state["encoder_to_decoder.weight"].shape[0], options.decoder_num_attention_heads
    sources["decoder_num_attention_heads"] = "given"
    if heads is None:
        heads = DECODER_HEADS.get(width)
        sources["decoder_num_attention_heads"] = "assumed, as published for this width"
    if heads is None:
        problems.append(
            f"decoder_num_attention_heads must be given, or the decoder left out, for no published decoder has a "
            f"hidden size of {width}"
        )
    elif heads < 1 or width % heads:
        problems.append(f"decoder_num_attention_heads ({heads}) must divide the decoder's hidden size, {width}")
    return Decoder(
        hidden_size=width,
        num_hidden_layers=_depth(file.state, "decoder.blocks."),
        intermediate_size=file.state["decoder.blocks.0.mlp.fc1.weight"].shape[0],
        num_attention_heads=heads or 1,
    )


def _prompts(file: WeightFile, options: CheckpointOptions, depth: int, problems: list[str]) -> Prompts:
    count, tokens = file.state["prompt_embeddings_k"].shape[:2]
    start, end = _integer(file.settings, "prompt_start"), _integer(file.settings, "prompt_end")
    if options.prompt_start is not None:
        start = options.prompt_start
    elif start is None and count == depth:
        start = 0
    elif start is None:
        problems.append(
            f"prompt_start must be given: prompts stand in {count} of {depth} layers, the file not telling which"
        )
        start = 0
    elif end is not None and end - start + 1 != count:
        problems.append(
            f"the file's settings put prompts in layers {start}-{end}, but it holds prompts of {count} layers"
        )
    if start < 0 or start + count > depth:
        problems.append(
            f"prompt_start ({start}) must leave room for {count} layers with prompts, but the model has {depth} "
            f"layers (0-{depth - 1})"
        )
    dropout = file.settings.get("prompt_dropout")
    return Prompts(
        layers=tuple(range(start, start + count)),
        num_prompt_tokens=tokens,
        scaled="prompt_scale" in file.state or file.settings.get("prompt_reparam") is True,
        dropout=float(dropout) if isinstance(dropout, (int, float)) and 0 <= dropout < 1 else None,
    )
