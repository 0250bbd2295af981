"""From an adapter and its base back to one file of the reference's format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import get_peft_model_state_dict
from transformers import AutoModelForVideoClassification, PreTrainedModel

from ..errors import CheckpointError
from ..tuner.config import AttentionPromptConfig
from ..tuner.functional import effective_prompts
from .adapter import load_adapter
from .backbone import check_backbone
from .convert import REFERENCE_EPS
from .dimensions import HEADS, Dimensions, Prompts
from .folders import check_free, written_whole
from .layout import PROMPTS, layout
from .reading import listing
from .report import ConversionReport, TensorLine
from .source import find_adapter
from .translate import to_reference

PREFIX = "base_model.model."
MODEL_NAMES = {384: "small", 768: "base", 1024: "large"}


def convert_adapter(adapter: str | Path, out: str | Path, *, base: str | Path | None = None) -> ConversionReport:
    """Write an adapter and its base as one file that the reference's code loads.

    The file holds "model", the state dict, and "args", a plain dict of settings and label names; so
    `torch.load(out, weights_only=True)` opens it.

    Args:
        adapter: folder of an adapter for a VideoMAE classifier: prompts, head, or both.
        out: the new file.
        base: folder or Hub name of the base; the adapter's own `base_model_name_or_path` by default.

    Returns:
        What was read and written.

    Raises:
        CheckpointError: the adapter or its base cannot be expressed in the format, or `out` is not free.
    """
    check_free(out)
    files = find_adapter(adapter)
    name = str(base or files.backbone("Give its folder or Hub name by --base."))
    model, missing = _load_base(name)
    weights = dict(model.state_dict())
    peft_model = load_adapter(model, files, name=name)
    config = cast(AttentionPromptConfig, peft_model.peft_config["default"])
    # False: there are no embeddings, and looking for them would ask the Hub for a base that has moved.
    saved = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    saved = {key.removeprefix(PREFIX): value for key, value in saved.items()}
    dimensions = _measure(model, saved, config)
    entries = layout(dimensions) if not (problems := _obstacles(dimensions, saved, config)) else {}
    places = {target for entry in entries.values() for target in entry.targets}
    if untrained := sorted((missing & places) - saved.keys()):
        problems.append(f"neither it nor its base holds {listing(untrained)}")
    if problems:
        raise CheckpointError(
            f"adapter ({adapter}) must be one that the reference's format can hold, but {'; '.join(problems)}."
        )
    state = to_reference({**weights, **saved, **_folded(saved, config)}, entries)
    settings = _settings(dimensions, model, config)
    with written_whole(out) as draft:
        torch.save({"model": state, "args": settings}, draft)
    return ConversionReport(
        source=str(adapter),
        kind=f"an adapter for {name}",
        tensors=tuple(TensorLine(key, entry.shape, entry.targets) for key, entry in entries.items()),
        leftover=(),
        left_out=(),
        other_entries=(),
        settings=tuple((name, str(value)) for name, value in settings.items() if name != "labels"),
        written=((str(out), "one file of the reference's format: backbone, prompts and head"),),
        notes=_notes(config, model),
    )


def _load_base(name: str) -> tuple[PreTrainedModel, set[str]]:
    """The base as a classifier, and the keys that its files lack."""
    check_backbone(name)
    try:
        model, loading = AutoModelForVideoClassification.from_pretrained(
            name, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"base ({name}) must be a model for video classification in transformers, but it cannot be loaded as one. "
            "Give the folder or the Hub name of the adapter's base."
        ) from error
    kind, pools_mean = model.config.model_type, getattr(model.config, "use_mean_pooling", False)
    if kind != "videomae" or not pools_mean:
        found = f"of type {kind}" if kind != "videomae" else "one with use_mean_pooling: false"
        raise CheckpointError(
            f"base ({name}) must be a VideoMAE with use_mean_pooling: true, but it is {found}. The reference's format "
            "holds nothing else."
        )
    return model, set(loading["missing_keys"])


def _measure(model: PreTrainedModel, saved: Mapping[str, torch.Tensor], config: AttentionPromptConfig) -> Dimensions:
    c = model.config
    layers = sorted({int(key.split(".")[3]) for key in saved if key.endswith("attention_prompt_key")})
    return Dimensions(
        kind="apt" if layers else "finetuned",
        image_size=c.image_size,
        patch_size=c.patch_size,
        num_channels=c.num_channels,
        num_frames=c.num_frames,
        tubelet_size=c.tubelet_size,
        hidden_size=c.hidden_size,
        num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.num_attention_heads,
        intermediate_size=c.intermediate_size,
        qv_bias=c.qv_bias,
        final_norm=False,
        head_norm=True,
        num_labels=c.num_labels,
        decoder=None,
        prompts=Prompts(
            layers=tuple(layers),
            num_prompt_tokens=_prompt_counts(saved)[-1],
            scaled=config.reparameterization == "max",
            dropout=config.prompt_dropout,
        )
        if layers
        else None,
    )


def _obstacles(dimensions: Dimensions, saved: Mapping[str, torch.Tensor], config: AttentionPromptConfig) -> list[str]:
    layers = dimensions.prompts.layers if dimensions.prompts else ()
    problems = []
    if len(counts := _prompt_counts(saved)) > 1:
        problems.append(f"its layers have different numbers of prompts ({counts})")
    if config.key_gate:
        problems.append("its prompts come with a gate on the keys (key_gate)")
    if config.train_norms:
        problems.append("norms of the backbone were trained with them (train_norms=True)")
    if config.score_bias:
        problems.append("its prompts have a bias on their scores (score_bias=True)")
    if layers and not config.share_prompts_across_heads:
        problems.append("its heads have prompts of their own (share_prompts_across_heads=False)")
    if layers and layers != tuple(range(layers[0], layers[-1] + 1)):
        problems.append(f"its prompts stand in layers {list(layers)}, which are no unbroken range")
    return problems


def _prompt_counts(saved: Mapping[str, torch.Tensor]) -> list[int]:
    """P of the layers, each number once."""
    return sorted({tensor.shape[-2] for key, tensor in saved.items() if key.endswith("attention_prompt_key")})


def _scales(saved: Mapping[str, torch.Tensor]) -> list[str]:
    return [key for key in saved if key.endswith(PROMPTS["prompt_scale"])]


def _folded(saved: Mapping[str, torch.Tensor], config: AttentionPromptConfig) -> dict[str, torch.Tensor]:
    """Prompts times their smooth factor, which the format does not know; nothing for the published kinds."""
    if config.reparameterization != "softplus":
        return {}
    folded = {}
    for key in _scales(saved):
        for row, name in enumerate(("prompt_embeddings_k", "prompt_embeddings_v")):
            prompt = key.removesuffix(PROMPTS["prompt_scale"]) + PROMPTS[name]
            folded[prompt] = effective_prompts(saved[prompt], saved[key][row], "softplus", 0.0, training=False)
    return folded


def _settings(dimensions: Dimensions, model: PreTrainedModel, config: AttentionPromptConfig) -> dict[str, Any]:
    """What the reference's command line would have said; plain values, so that nothing must be allowed to load them."""
    d = dimensions
    labels: dict[Any, str] = dict(config.id2label or model.config.id2label or {})
    settings: dict[str, Any] = {
        "nb_classes": d.num_labels,
        "num_frames": d.num_frames,
        "num_segments": 1,
        "input_size": d.image_size,
        "tubelet_size": d.tubelet_size,
        "use_mean_pooling": True,
        "transfer_type": "prompt" if d.prompts else "linear",
    }
    if d.prompts is not None:
        settings |= {
            "prompt_start": d.prompts.layers[0],
            "prompt_end": d.prompts.layers[-1],
            "prompt_num_tokens": d.prompts.num_prompt_tokens,
            "prompt_dropout": d.prompts.dropout,
            "prompt_reparam": d.prompts.scaled,
        }
    if d.hidden_size in MODEL_NAMES and HEADS[d.hidden_size] == d.num_attention_heads:
        settings["model"] = f"vit_{MODEL_NAMES[d.hidden_size]}_patch{d.patch_size}_{d.image_size}"
    return settings | {"labels": [labels[index] for index in sorted(labels)]}


def _notes(config: AttentionPromptConfig, model: PreTrainedModel) -> tuple[str, ...]:
    notes = []
    if config.reparameterization == "softplus":
        notes.append(
            "the softplus factor was multiplied into the prompts, which stand there without reparameterization."
        )
    if model.config.layer_norm_eps != REFERENCE_EPS:
        notes.append(
            f"the base was used with a LayerNorm eps of {model.config.layer_norm_eps:g}, the reference has 1e-06: "
            "expect small differences."
        )
    return tuple(notes)
