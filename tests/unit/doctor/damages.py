"""A good backbone, and every way of spoiling it that the doctor knows: the rows of the tests that walk them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from apt_peft.demo.settings import BACKBONE

WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
ATTENTION = "encoder.layer.{}.attention.attention.{}"
Damage = Callable[[Path], Any]


def good(folder: Path) -> Path:
    """A copy of the demo's backbone, with which nothing is wrong."""
    shutil.copytree(BACKBONE, folder)
    return folder


def edit(file: str, *without: str, **values: Any) -> Damage:
    """Set keys of a JSON file, and delete others."""

    def damage(folder: Path) -> None:
        table = json.loads((folder / file).read_text()) | values
        (folder / file).write_text(json.dumps({key: value for key, value in table.items() if key not in without}))

    return damage


def config(*without: str, **values: Any) -> Damage:
    return edit(CONFIG, *without, **values)


def processor(*without: str, **values: Any) -> Damage:
    return edit(PROCESSOR, *without, **values)


def tensors(change: Callable[[dict[str, Tensor]], Any]) -> Damage:
    """Change the stored tensors, in place or by returning others."""

    def damage(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        state = change(state) or state
        save_file({name: value.clone() for name, value in state.items()}, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def without(part: str) -> Damage:
    return tensors(lambda state: {name: value for name, value in state.items() if part not in name})


def fill(part: str, value: float) -> Damage:
    return tensors(lambda state: [tensor.fill_(value) for name, tensor in state.items() if part in name] and None)


def scale(part: str, factor: float, dtype: torch.dtype = torch.float32) -> Damage:
    return tensors(
        lambda state: {name: tensor.to(dtype) * (factor if part in name else 1) for name, tensor in state.items()}
    )


def redrawn(*layers: int) -> Damage:
    """Draw layers as transformers does."""

    def change(state: dict[str, Tensor]) -> None:
        generator = torch.Generator().manual_seed(0)
        for name, tensor in state.items():
            if not any(f"layer.{layer}." in name for layer in layers):
                continue
            if tensor.dim() > 1:
                tensor.copy_(0.02 * torch.randn(tensor.shape, generator=generator))
            else:
                tensor.fill_(float("layernorm" in name and name.endswith("weight")))

    return tensors(change)


def copied(layer: int, onto: int) -> Damage:
    def change(state: dict[str, Tensor]) -> None:
        for name in list(state):
            if f"layer.{layer}." in name:
                state[name.replace(f"layer.{layer}.", f"layer.{onto}.")] = state[name]

    return tensors(change)


def one_direction(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Let the last layer answer everything by one and the same direction, louder than all else."""
    name = "encoder.layer.5.output.dense.weight"
    generator = torch.Generator().manual_seed(0)
    state = {key: value.float() for key, value in state.items()}
    width, hidden = state[name].shape
    state[name] = 1e3 * torch.randn(width, 1, generator=generator) * torch.rand(1, hidden, generator=generator)
    return state


def fused(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As conversions do that know of one `qkv.weight` and of no bias."""
    return {name: value for name, value in state.items() if not name.endswith(("q_bias", "v_bias"))}


def head(rows: int, *, norm: bool = True) -> Damage:
    def change(state: dict[str, Tensor]) -> dict[str, Tensor]:
        drawn = torch.Generator().manual_seed(1)
        more = {
            "classifier.weight": 0.02 * torch.randn(rows, 128, generator=drawn),
            "classifier.bias": torch.zeros(rows),
        }
        if norm:
            more |= {"fc_norm.weight": torch.full((128,), 0.9), "fc_norm.bias": torch.full((128,), 0.1)}
        return {f"videomae.{name}": value for name, value in state.items()} | more

    return tensors(change)


def pickled(extra: Any = None) -> Damage:
    def damage(folder: Path) -> None:
        state: dict[str, Any] = load_file(folder / WEIGHTS)
        torch.save(state | ({} if extra is None else {"extra": extra}), folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()

    return damage


def cut(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def in_parts(*lost: int) -> Damage:
    """Two files and an index, of which some are then lost."""

    def damage(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        names = sorted(state)
        parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
        for file, own in parts.items():
            save_file({name: state[name] for name in own}, folder / file, metadata={"format": "pt"})
        weight_map = {name: file for file, own in parts.items() for name in own}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        for part in lost:
            (folder / list(parts)[part]).unlink()
        (folder / WEIGHTS).unlink()

    return damage


def card(text: str) -> Damage:
    return lambda folder: (folder / "README.md").write_text(text)


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


class Unsafe:
    """A pickle that would import something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("never"),)


LABELS = {"id2label": {str(i): f"action {i}" for i in range(5)}, "label2id": {f"action {i}": i for i in range(5)}}
SIZE_50 = {"height": 50, "width": 50}

# What is done -> the damage, the one code that must be found, and whether a copy can be mended.
DAMAGES: dict[str, tuple[Damage, str, bool]] = {
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "weights-missing", False),
    "half of the file": (cut, "weights-damaged", False),
    "a part of an index lost": (in_parts(1), "weights-damaged", False),
    "a pickle with code": (pickled(Unsafe()), "pickle-unsafe", False),
    "a pickle": (pickled(), "pickle-only", True),
    "no card": (lambda folder: (folder / "README.md").unlink(), "licence-unknown", False),
    "a card without a licence": (card("# Backbone\n"), "licence-unknown", False),
    "CC BY-NC": (card("---\nlicense: cc-by-nc-4.0\n---\n"), "licence-non-commercial", False),
    "heads that do not divide the width": (config(num_attention_heads=3), "config-refused", False),
    "a value of the wrong type": (config(layer_norm_eps="small"), "config-refused", False),
    "pooling of the first token": (config(use_mean_pooling=False), "first-token-pooling", True),
    "transformers' eps": (config("layer_norm_eps"), "norm-eps", True),
    "an eps that blurs": (config(layer_norm_eps=1e-3), "norm-eps", True),
    "biases switched off": (config(qv_bias=False), "qv-bias-off", True),
    "a frame too many": (config(num_frames=9), "frames-unused", True),
    "two pixels too many": (
        both(config(image_size=50), processor(size=SIZE_50)), "pixels-unused", True
    ),
    "frames that are wider than high": (config(image_size=[48, 64]), "frames-not-square", False),
    "another tubelet": (config(tubelet_size=2), "patch-kernel", True),
    "another patch": (config(patch_size=16), "patch-kernel", True),
    "fewer layers": (config(num_hidden_layers=4), "layer-count", True),
    "more layers": (config(num_hidden_layers=8), "layer-count", True),
    "eager": (config(attn_implementation="eager"), "attention-eager", True),
    "eager, as older versions wrote it": (config(_attn_implementation="eager"), "attention-eager", True),
    "an attention that is not installed": (config(attn_implementation="flash_attention_2"), "attention-unavailable", True),
    "float16": (config(dtype="float16"), "half-precision", True),
    "bfloat16 by the older key": (config("dtype", torch_dtype="bfloat16"), "half-precision", True),
    "float16 since nothing else is said": (config("dtype"), "half-precision", True),
    "no preprocessor": (lambda folder: (folder / PROCESSOR).unlink(), "no-preprocessor", False),
    "transformers' mean": (processor(image_mean=[0.5] * 3, image_std=[0.5] * 3), "normalization", True),
    "red for blue": (
        processor(image_mean=[0.406, 0.456, 0.485], image_std=[0.225, 0.224, 0.229]), "normalization", True
    ),
    "ImageNet's mean alone": (processor(image_mean=[0.485, 0.456, 0.406]), "normalization", True),
    "normalisation off": (processor(do_normalize=False), "normalization-off", True),
    "means of 0..255": (
        processor(image_mean=[123.7, 116.3, 103.5], image_std=[58.4, 57.1, 57.4]), "normalization-unusable", True
    ),
    "a std of zero": (processor(image_std=[0.25, 0.0, 0.25]), "normalization-unusable", False),
    "two colours": (processor(image_mean=[0.3, 0.3], image_std=[0.25, 0.25]), "normalization-unusable", False),
    "means that are words": (processor(image_mean="imagenet"), "normalization-unusable", False),
    "frames of another size": (processor(size={"height": 96, "width": 96}), "preprocessor-size", True),
    "a size that is a word": (processor(size="large"), "preprocessor-size", True),
    "crops of another size": (
        processor(do_center_crop=True, size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32}),
        "preprocessor-size",
        True,
    ),
    "a matrix lost": (without("layer.2.attention.output.dense.weight"), "tensors-missing", False),
    "keys under another name": (
        tensors(lambda state: {f"backbone.{name}": value for name, value in state.items() if "layer.1." in name}
                | {name: value for name, value in state.items() if "layer.1." not in name}),
        "tensors-missing", False,
    ),
    "a tensor too many": (
        tensors(lambda state: state | {"encoder.layer.0.gate.weight": torch.ones(128)}), "tensors-left-over", False
    ),
    "narrower MLPs in the config": (config(intermediate_size=256), "shapes-disagree", False),
    "biases lost": (tensors(fused), "qv-bias-lost", False),
    "query biases lost": (without("q_bias"), "qv-bias-lost", False),
    "biases lost, and the config says so": (
        both(tensors(fused), config(qv_bias=False)), "qv-bias-lost", False
    ),
    "biases zero": (both(fill("q_bias", 0), fill("v_bias", 0)), "qv-bias-lost", False),
    "value biases of one layer zero": (fill("layer.3.attention.attention.v_bias", 0), "qv-bias-lost", False),
    "key biases": (
        tensors(lambda state: state | {ATTENTION.format(i, "key.bias"): torch.full((128,), 0.5) for i in range(6)}),
        "key-bias", True,
    ),
    "everything redrawn": (redrawn(*range(6)), "untrained", False),
    "a layer redrawn": (redrawn(4), "untrained", False),
    "NaN": (fill("layer.0.layernorm_after.bias", float("nan")), "not-finite", False),
    "infinity": (fill("layer.5.output.dense.bias", float("inf")), "not-finite", False),
    "a matrix of zeros": (fill("layer.1.intermediate.dense.weight", 0), "zeros", False),
    "a norm of zeros": (fill("layer.1.layernorm_before.weight", 0), "zeros", False),
    "a patch kernel of zeros": (fill("projection.weight", 0), "zeros", False),
    "a layer copied onto the next": (copied(2, 3), "layers-duplicated", False),
    "a trained head": (both(head(5), config(**LABELS)), "head-present", False),
    "a head of another size": (both(head(7), config(**LABELS)), "head-shape", False),
    "a head without its norm": (both(head(5, norm=False), config(**LABELS)), "fc-norm-missing", False),
    "weights of enormous size": (scale("encoder.layer.2.intermediate", 1e38), "features-not-finite", False),
    "a faint patch kernel": (scale("projection.weight", 1e-4), "features-collapsed", False),
    "one direction for all": (tensors(one_direction), "features-collapsed", False),
}  # fmt: skip

# What looks odd and is fine: nothing must be found.
HARMLESS: dict[str, Damage] = {
    "as it is": lambda folder: None,
    "in parts": in_parts(),
    "in float32": scale("nothing", 1),
    "in bfloat16": scale("nothing", 1, torch.bfloat16),
    "under the prefix of a classifier": tensors(lambda state: {f"videomae.{name}": v for name, v in state.items()}),
    "with the decoder of pre-training": tensors(
        lambda state: {f"videomae.{name}": value for name, value in state.items()}
        | {"decoder.head.weight": torch.ones(2, 2), "mask_token": torch.zeros(1, 1, 8),
           "encoder_to_decoder.weight": torch.ones(8, 128), "videomae.layernorm.weight": torch.ones(128),
           "videomae.layernorm.bias": torch.zeros(128)}
    ),
    "with key biases of zero": tensors(
        lambda state: state | {ATTENTION.format(i, "key.bias"): torch.zeros(128) for i in range(6)}
    ),
    "with a pickle beside": lambda folder: torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin"),
    "with ImageNet's pixels": processor(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]),
    "with a size as older files state it": processor(size=48),
    "with sdpa named": config(attn_implementation="sdpa"),
    "with norms folded away": tensors(
        lambda state: [tensor.fill_(float(name.endswith("weight"))) for name, tensor in state.items()
                       if "layernorm" in name] and None
    ),
}  # fmt: skip
