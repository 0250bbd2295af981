"""From the reference's or VideoMAE's files to Hugging Face folders, and to models in memory."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from transformers import (
    PreTrainedModel,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEModel,
)

from ..errors import CheckpointError
from ..tuner.config import AttentionPromptConfig
from .dimensions import KINDS, Dimensions, measure
from .folders import check_free, written_whole
from .layout import HEAD, HEAD_NORM, PROMPTS, Entry, layout
from .options import AS_THE_FILE_SAYS, CheckpointOptions
from .reading import WeightFile, listing, read_weight_file
from .report import ConversionReport, TensorLine
from .translate import account, set_aside, to_transformers

# All LayerNorms of the reference; transformers builds fc_norm and the decoder's norm with 1e-5, whatever its config says.
REFERENCE_EPS = 1e-6
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EPS_NOTE = (
    "the reference's LayerNorms have eps 1e-6. The base's config says so, but transformers builds {0} with 1e-5: set "
    "model.{0}.eps = 1e-6 on the loaded base for the reference's outputs to the last digit."
)

CARD = """---
library_name: peft
license: unknown
pipeline_tag: video-classification
{base_model}tags:
- attention-prompt-tuning
- apt-peft
---

# Attention prompts for VideoMAE, converted

Converted from a checkpoint of the reference implementation by apt-peft: the prompts of {layers} attention layers
({tokens} prompt tokens each) and the classification head. The frozen base is `{base}`.

```python
import apt_peft  # registers the method with PEFT: loading fails without it

model = apt_peft.AutoPeftModelForVideoClassification.from_pretrained("path/to/this/folder")
```

The licence of the checkpoint carries over to this adapter and to its base. The file does not say which that is; the reference
implementation and VideoMAE are published under CC BY-NC 4.0, which forbids commercial use.
"""


def convert_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    options: CheckpointOptions = AS_THE_FILE_SAYS,
    base_name: str | None = None,
) -> ConversionReport:
    """Convert a weight file to OUT/base and, where it holds prompts, OUT/adapter.

    Args:
        checkpoint: file of the reference (backbone, prompts, head) or of VideoMAE (pre-training, fine-tuning, encoder).
        out: new or empty folder.
        options: what the file does not tell.
        base_name: what the adapter names as its base; OUT/base by default. Give the Hub name before publishing.

    Returns:
        What was read, written and left out.

    Raises:
        CheckpointError: the file is unsafe, damaged, of another project, or does not hold exactly its model's tensors;
            or `out` is not free. Nothing is left behind.
    """
    check_free(out)
    file, dimensions, entries, aside, leftover = _read(checkpoint, options)
    model = _build(file, dimensions, entries, options)
    base, adapter = Path(out) / "base", Path(out) / "adapter"
    with written_whole(out) as draft:
        written = [(str(base), _save_base(model, dimensions, draft / "base"))]
        if dimensions.prompts is not None:
            peft_model = _add_prompts(model, file, dimensions, entries)
            _save_adapter(peft_model, base_name or str(base), dimensions, draft / "adapter")
            _write_card(dimensions, base_name, draft / "adapter")
            written.append((str(adapter), f"PEFT adapter for {base_name or base}: prompts, fc_norm and classifier"))
    return ConversionReport(
        source=str(checkpoint),
        kind=KINDS[dimensions.kind],
        tensors=tuple(TensorLine(key, entry.shape, entry.targets) for key, entry in entries.items()),
        leftover=leftover,
        left_out=aside,
        other_entries=file.other_entries,
        settings=_settings(dimensions),
        written=tuple(written),
        notes=_notes(dimensions, base),
    )


def load_checkpoint(
    checkpoint: str | Path, *, options: CheckpointOptions = AS_THE_FILE_SAYS
) -> PreTrainedModel | PeftModel:
    """Load a weight file straight into a model in memory.

    Args:
        checkpoint: as in `convert_checkpoint`.
        options: what the file does not tell.

    Returns:
        In evaluation mode: a PeftModel with the prompts for a file of the reference; for others VideoMAE's
        pre-training model, classifier or bare encoder.

    Raises:
        CheckpointError: as in `convert_checkpoint`.
    """
    file, dimensions, entries, *_ = _read(checkpoint, options)
    model = _build(file, dimensions, entries, options)
    return (_add_prompts(model, file, dimensions, entries) if dimensions.prompts else model).eval()


def _read(
    checkpoint: str | Path, options: CheckpointOptions
) -> tuple[WeightFile, Dimensions, dict[str, Entry], tuple[str, ...], tuple[str, ...]]:
    """The file, its model, every tensor's place, keys that need none, and keys that have none."""
    file = read_weight_file(checkpoint)
    dimensions = measure(file, options)
    entries = layout(dimensions)
    aside = set_aside(file, dimensions, options)
    return file, dimensions, entries, aside, account(file, entries, aside, options.allow_leftover)


def _build(
    file: WeightFile, dimensions: Dimensions, entries: dict[str, Entry], options: CheckpointOptions
) -> PreTrainedModel:
    """The model without prompts, with the file's weights in the file's precision."""
    config = _config(dimensions, options, file)
    model: Any
    if dimensions.num_labels is not None:
        model = VideoMAEForVideoClassification(config)
    elif dimensions.decoder is not None:
        model = VideoMAEForPreTraining(config)
    else:
        model = VideoMAEModel(config)
    weights = to_transformers(file.state, {key: entry for key, entry in entries.items() if key not in PROMPTS})
    if isinstance(model, VideoMAEModel):
        weights = {key.removeprefix("videomae."): tensor for key, tensor in weights.items()}
    dtypes = {tensor.dtype for tensor in weights.values()}
    model.to(dtypes.pop() if len(dtypes) == 1 else torch.float32).load_state_dict(weights)
    return model


def _config(dimensions: Dimensions, options: CheckpointOptions, file: WeightFile) -> VideoMAEConfig:
    d = dimensions
    sizes: dict[str, Any] = {
        "image_size": d.image_size,
        "patch_size": d.patch_size,
        "num_channels": d.num_channels,
        "num_frames": d.num_frames,
        "tubelet_size": d.tubelet_size,
        "hidden_size": d.hidden_size,
        "num_hidden_layers": d.num_hidden_layers,
        "num_attention_heads": d.num_attention_heads,
        "intermediate_size": d.intermediate_size,
        "qv_bias": d.qv_bias,
    }
    if d.decoder is not None:
        sizes |= {f"decoder_{name}": value for name, value in vars(d.decoder).items()}
    if d.num_labels is not None:
        names = _labels(d.num_labels, options.labels, file)
        sizes |= {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    return VideoMAEConfig(**sizes, layer_norm_eps=REFERENCE_EPS, use_mean_pooling=not d.final_norm)


def _labels(count: int, given: Sequence[str] | None, file: WeightFile) -> list[str]:
    if given is None:
        stored = file.settings.get("labels")  # our own exports keep them; the reference does not
        if isinstance(stored, list) and len({*filter(_is_name, stored)}) == len(stored) == count:
            return stored
        return [f"LABEL_{index}" for index in range(count)]
    given = list(given)
    repeated = sorted({name for name in given if given.count(name) > 1})
    problems = [f"there are {len(given)}"] if len(given) != count else []
    problems += [f"some are repeated: {listing(repeated)}"] if repeated else []
    if problems:
        raise CheckpointError(
            f"labels must be {count} different names, one for each row of the head, but {' and '.join(problems)}."
        )
    return given


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _add_prompts(
    model: PreTrainedModel, file: WeightFile, dimensions: Dimensions, entries: dict[str, Entry]
) -> PeftModel:
    prompts = dimensions.prompts
    assert prompts is not None
    every_layer = len(prompts.layers) == dimensions.num_hidden_layers
    config = AttentionPromptConfig(
        num_prompt_tokens=prompts.num_prompt_tokens,
        reparameterization="max" if prompts.scaled else "none",
        layers_to_transform=None if every_layer else list(prompts.layers),
    )
    if prompts.dropout is not None:
        config.prompt_dropout = prompts.dropout
    peft_model = get_peft_model(model, config)
    trained = {key: entry for key, entry in entries.items() if key in (*PROMPTS, *HEAD_NORM, *HEAD)}
    weights = to_transformers(file.state, trained)
    set_peft_model_state_dict(peft_model, {f"base_model.model.{key}": tensor for key, tensor in weights.items()})
    return peft_model


def _save_base(model: PreTrainedModel, dimensions: Dimensions, folder: Path) -> str:
    """Write the part that stays frozen; the head of an APT file goes into the adapter instead."""
    saved: Any = model
    if dimensions.kind == "apt":
        saved = copy.deepcopy(model.videomae)
        saved.config.num_labels = 2  # transformers' default: a backbone knows no labels
    elif dimensions.kind != "finetuned":
        # The mean of the tokens is what adapters pool; only a file with a head of its own has a say in this.
        saved.config.use_mean_pooling = True
    saved.save_pretrained(folder)
    _write_preprocessor(dimensions, folder)
    return f"{type(saved).__name__}, config and image processor"


def _save_adapter(model: PeftModel, base_name: str, dimensions: Dimensions, folder: Path) -> None:
    model.peft_config["default"].base_model_name_or_path = base_name
    # False: there are no embeddings to save, and looking for them would ask the Hub for the base's config.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    _write_preprocessor(dimensions, folder)


def _write_card(dimensions: Dimensions, base_name: str | None, folder: Path) -> None:
    """Replace PEFT's empty template; the Hub takes the name of a base, but no path of this machine."""
    assert dimensions.prompts is not None
    text = CARD.format(
        base_model=f"base_model: {base_name}\n" if base_name else "",
        layers=len(dimensions.prompts.layers),
        tokens=dimensions.prompts.num_prompt_tokens,
        base=base_name or "../base",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _write_preprocessor(dimensions: Dimensions, folder: Path) -> None:
    size = dimensions.image_size
    processor = {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")


def _settings(d: Dimensions) -> tuple[tuple[str, str], ...]:
    lines = [
        (
            "model",
            f"{d.num_hidden_layers} layers, width {d.hidden_size}, patch {d.patch_size}, tubelet {d.tubelet_size}",
        )
    ]
    lines += [
        (name, f"{getattr(d, name, None) or getattr(d.decoder, name[8:], None)} ({source})")
        for name, source in d.sources
    ]
    if d.prompts is not None:
        first, last = d.prompts.layers[0], d.prompts.layers[-1]
        kind = "max" if d.prompts.scaled else "none"
        lines.append(("prompts", f"{d.prompts.num_prompt_tokens} in layers {first}-{last}, reparameterization {kind}"))
    return tuple(lines)


def _notes(dimensions: Dimensions, base: Path) -> tuple[str, ...]:
    if dimensions.decoder is not None:
        return (
            "AutoModelForVideoClassification reads the encoder and pools the mean of its tokens, so the encoder's "
            "final norm and the decoder wait unused. The pre-training model comes back with "
            f'VideoMAEForPreTraining.from_pretrained("{base}", use_mean_pooling=False).',
            EPS_NOTE.format("decoder.norm"),
        )
    if dimensions.kind == "finetuned" and not dimensions.head_norm:
        return (
            "this head classifies from the first token, so the base's config says use_mean_pooling: false. Prompts "
            "want use_mean_pooling=True and a new head.",
        )
    return (EPS_NOTE.format("fc_norm"),)
