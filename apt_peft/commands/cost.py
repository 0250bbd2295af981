"""`apt-peft cost`: what methods cost in multiply-adds, memory and time, from shapes and measured."""

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_peft import settings
from apt_peft.cost.arithmetic import BACKBONES, PROMPTED, Shapes
from apt_peft.errors import ConfigError, require
from apt_peft.settings import INTEGER, INTEGERS, SWITCH, TEXT, TEXTS, Rule, Settings, at_least, setting

EXAMPLE = """examples:
  apt-peft cost
  apt-peft cost --model vit-b --methods bare apt vpt-deep --prompts 1 2 100 200 400 --out cost
  apt-peft cost --methods apt lora:8 --layers-to-transform 9 10 11 --measure forward step memory
"""
WHAT, WHERE, RESULT = "what", "where", "result"
KINDS = ("forward", "step", "memory")
logger = logging.getLogger("apt_peft")
_positive = Rule("be one number or more, all from 1 on", lambda values: bool(values) and min(values) >= 1)


@dataclass(frozen=True, kw_only=True)
class CostSettings(Settings):
    """Every flag of `apt-peft cost`."""

    model: str = setting(
        TEXT,
        "vit-s, vit-b, vit-l, or a folder with the config.json of a VideoMAE",
        "vit-s",
        group=WHAT,
        metavar="NAME|DIR",
    )
    methods: tuple[str, ...] = setting(
        TEXTS, "bare, apt, published (eager attention with concatenation), vpt-shallow, vpt-deep, lora, adaptformer, bitfit, ln, "
        "ia3, partial, linear or full; a size of its own behind a colon, as in lora:16",
        ("bare", "linear", "apt", "published", "vpt-deep", "lora", "adaptformer", "full"), group=WHAT, metavar="METHOD",
    )  # fmt: skip
    prompts: tuple[int, ...] = setting(
        INTEGERS, "P of attention and visual prompts", (100, 400), rule=_positive, group=WHAT
    )
    layers: int | None = setting(
        INTEGER, "blocks of the backbone (default: the model's)", None, rule=at_least(1), group=WHAT
    )
    layers_to_transform: tuple[int, ...] | None = setting(
        INTEGERS, "attention prompts also with prompts in these layers alone", None, group=WHAT
    )
    frames: tuple[int, ...] | None = setting(
        INTEGERS, "of a clip (default: the model's)", None, rule=_positive, group=WHAT
    )
    image_size: tuple[int, ...] | None = setting(
        INTEGERS, "height and width in pixels (default: the model's)", None, rule=_positive, group=WHAT
    )
    lora_rank: int = setting(INTEGER, "of the LoRA that all are compared with", 8, rule=at_least(1), group=WHAT)
    measure: tuple[str, ...] | None = setting(
        TEXTS, "measure ratios of: forward, step, memory (a process each); nothing by default", None,
        rule=Rule("name forward, step or memory", lambda values: set(values) <= set(KINDS)), group=WHERE, metavar="WHAT",
    )  # fmt: skip
    batch: int = setting(INTEGER, "clips", 1, rule=at_least(1), group=WHERE)
    rounds: int = setting(INTEGER, "how often each side is measured", 11, rule=at_least(1), group=WHERE)
    device: str = setting(TEXT, "cpu or cuda", "cpu", group=WHERE)
    dtype: str = setting(
        TEXT, "of weights and clips", "float32", choices=("float32", "bfloat16", "float16"), group=WHERE
    )
    attention: str = setting(
        TEXT, "implementation, the published design's apart", "sdpa", choices=("sdpa", "eager"), group=WHERE
    )
    threads: int | None = setting(INTEGER, "of the CPU (default: torch's)", None, rule=at_least(1), group=WHERE)
    json: bool = setting(SWITCH, "print JSON", False, group=RESULT)
    out: str | None = setting(
        TEXT, "folder for cost.jsonl and curves over P, frames and image size", None, group=RESULT, metavar="DIR"
    )

    def conflicts(self) -> list[str]:
        """Values that are fine alone and not together."""
        if self.layers_to_transform is None or any(text.partition(":")[0] in PROMPTED for text in self.methods):
            return []
        return [
            f"layers_to_transform ({list(self.layers_to_transform)}) must go with attention prompts, but methods has none. "
            "Add apt to --methods."
        ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, CostSettings)


def run(args: argparse.Namespace) -> int:
    """Count, measure where asked, print and write.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: flags that cannot be, or a measurement that failed.
    """
    flags = settings.from_arguments(CostSettings, vars(args))
    import torch

    from apt_peft.cost.contenders import contenders
    from apt_peft.cost.report import measured_lines, rows_from_shapes, table

    if flags.out is not None:
        require("matplotlib", "viz")
    if flags.device.startswith("cuda") and flags.measure and not torch.cuda.is_available():
        raise ConfigError(f"device ({flags.device}) must be there, but torch finds no GPU. Leave it out for the CPU.")
    if flags.measure and "memory" in flags.measure:
        from apt_peft.cost.peak import check_peak

        check_peak(flags.device)
    before = torch.get_num_threads()
    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    try:
        base, rows = _shapes(flags), []
        for shapes in _variants(base, flags):
            chosen = contenders(flags.methods, flags.prompts, shapes, flags.layers_to_transform)
            found = rows_from_shapes(
                chosen, shapes, batch=flags.batch, implementation=flags.attention, dtype=flags.dtype, lora=flags.lora_rank
            )  # fmt: skip
            rows += found
            if not flags.json:
                print(_title(shapes, flags), *table(found, flags.lora_rank), sep="\n", end="\n\n", flush=True)
            for kind in flags.measure or ():
                measured = _measured(kind, chosen, shapes, flags)
                rows += measured
                if not flags.json:
                    print(*measured_lines(measured), sep="\n", flush=True)
    finally:
        torch.set_num_threads(before)
    if flags.json:
        print(json.dumps(rows, indent=2))
    if flags.out is not None:
        _write(base, rows, flags, Path(flags.out))
    return 0


def _shapes(flags: CostSettings) -> Shapes:
    """The backbone's shapes."""
    if flags.model in BACKBONES:
        shapes = BACKBONES[flags.model]
    elif not (Path(flags.model) / "config.json").is_file():
        raise ConfigError(
            f"model ({flags.model}) must be one of {', '.join(BACKBONES)}, or a folder with a config.json, but there is none. "
            "Check the path."
        )
    else:
        from transformers import AutoConfig

        shapes = Shapes.of_config(AutoConfig.from_pretrained(flags.model))
    return shapes if flags.layers is None else shapes.changed(layers=flags.layers)


def _variants(base: Shapes, flags: CostSettings) -> list[Shapes]:
    """The shapes for each clip length and image size.

    Raises:
        ConfigError: one that does not divide into tokens.
    """
    found = []
    for frames in flags.frames or (base.frames,):
        if frames % base.tubelet:
            raise ConfigError(f"frames ({frames}) must be a multiple of the tubelet's {base.tubelet} frames.")
        for size in flags.image_size or (base.image,):
            shapes = base.changed(frames=frames, image=size)
            if shapes.image[0] % base.patch[0] or shapes.image[1] % base.patch[1]:
                raise ConfigError(f"image_size ({size}) must be a multiple of the patch's {max(base.patch)} pixels.")
            found.append(shapes)
    return found


def _measured(kind: str, chosen: Any, shapes: Shapes, flags: CostSettings) -> list[dict[str, Any]]:
    """Rows of measured ratios of one kind."""
    import torch
    import transformers

    from apt_peft.cost.measure import Place, measured
    from apt_peft.cost.peak import peaks
    from apt_peft.cost.report import of

    threads = torch.get_num_threads()
    place = Place(flags.batch, flags.rounds, flags.device, flags.dtype, flags.attention)
    rounds = flags.rounds
    if kind == "memory":
        rounds = 1  # equal within a per cent from process to process
        ratios = peaks(chosen, shapes, place, lora=flags.lora_rank, threads=threads)
    else:
        ratios = measured(chosen, shapes, kind, place, lora=flags.lora_rank)
    return [
        {
            "kind": "measured",
            "what": {"forward": "forward", "step": "training step", "memory": "memory that a step adds"}[kind],
            **of(contender, shapes),
            "baseline": baseline,
            "ratio": round(value, 4),
            "batch": flags.batch,
            "rounds": rounds,
            "device": flags.device if flags.device == "cpu" else torch.cuda.get_device_name(flags.device),
            "dtype": flags.dtype,
            "threads": threads,
            "attention": flags.attention,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        for contender, values in ratios.items()
        for baseline, value in values.items()
    ]


def _title(shapes: Shapes, flags: CostSettings) -> str:
    return (
        f"{flags.model}, {shapes.layers} layers, {shapes.frames} frames of {shapes.image[0]} x {shapes.image[1]}, "
        f"{shapes.tokens} tokens; multiply-adds of a clip; kept for the backward: batch {flags.batch}, {flags.dtype}"
    )


def _write(base: Shapes, rows: list[dict[str, Any]], flags: CostSettings, folder: Path) -> None:
    """Write cost.jsonl and the curves.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    from apt_peft.cost.curves import curve_rows, draw

    curves = curve_rows(base, flags.prompts[0], flags.lora_rank)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row) + "\n" for row in (*rows, *curves)]
        (folder / "cost.jsonl").write_text("".join(lines), encoding="utf-8")
        files = draw(curves, dots(base, rows, flags), folder)
    except OSError as error:
        raise ConfigError(
            f"out ({flags.out}) must be a folder that can be written to, but: {error.strerror}."
        ) from None
    logger.info("%s", f"wrote {folder / 'cost.jsonl'} and {len(files)} pictures")


def dots(base: Shapes, rows: list[dict[str, Any]], flags: CostSettings) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Measured rows that lie on a curve: with all else as the curve has it, and prompts in all layers.

    Args:
        base: the shapes that the curves are of.
        rows: all rows.
        flags: of the command.

    Returns:
        Rows with `value`, `method` and `ratio`, by what they are over and the panel.
    """
    panels = {"forward": ("forward / bare", "bare"), "training step": ("step / lora", f"lora r={flags.lora_rank}")}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["kind"] != "measured" or row["what"] not in panels or row["layers_to_transform"] is not None:
            continue
        panel, baseline = panels[row["what"]]
        same_frames, same_image = row["frames"] == base.frames, tuple(row["image_size"]) == base.image
        prompts = row["method"] in ("apt", "vpt-deep")
        same_size = row["size"] == (flags.prompts[0] if prompts else flags.lora_rank)
        if row["baseline"] != baseline or not (prompts or row["method"] == "lora"):
            continue
        values = []
        if prompts and same_frames and same_image:
            values.append(("prompts", row["size"]))
        if same_image and same_size:
            values.append(("frames", row["frames"]))
        if same_frames and same_size:
            values.append(("image_size", row["image_size"][0]))
        for over, value in values:
            point = {"value": value, "method": row["method"], "ratio": row["ratio"]}
            found.setdefault((over, panel), []).append(point)
    return found
