"""The table of `apt-peft cost`: rows as plain values, and as lines of text."""

from collections.abc import Iterable, Sequence
from typing import Any

from apt_peft.cost.arithmetic import BARE, Shapes, multiply_adds, parameters, total
from apt_peft.cost.contenders import Contender
from apt_peft.cost.memory import saved_bytes

Row = dict[str, Any]
HEADINGS = ("method", "trained", "forward", "/ bare", "step", "/ LoRA's", "kept", "/ LoRA's")


def rows_from_shapes(
    chosen: Sequence[Contender], shapes: Shapes, *, batch: int, implementation: str, dtype: str, lora: int
) -> list[Row]:
    """What follows from shapes: multiply-adds, parameters and kept bytes.

    Args:
        chosen: the contenders.
        shapes: of the backbone.
        batch: clips, for the kept bytes; multiply-adds are of one.
        implementation: of the attention.
        dtype: of weights and clips.
        lora: rank of the LoRA that they are compared with.

    Returns:
        A row each.

    Raises:
        ConfigError: a contender that cannot be.
    """
    known: dict[Contender, int] = {}

    def kept(contender: Contender) -> int:
        if contender not in known:
            known[contender] = saved_bytes(
                contender, shapes, batch=batch, implementation=implementation, dtype=dtype
            ).total
        return known[contender]

    bare, rival = total(multiply_adds(shapes)), Contender("lora", lora)
    rival_step = total(multiply_adds(shapes, "lora", lora)).step
    rows = []
    for contender in chosen:
        parts = multiply_adds(shapes, contender.method, contender.size, contender.layers)
        work, trains = total(parts), contender.method != BARE
        rows.append(
            {
                "kind": "shapes",
                **of(contender, shapes),
                "batch": batch,
                "dtype": dtype,
                "attention": implementation,
                "parameters": parameters(shapes, contender.method, contender.size, contender.layers),
                "multiply_adds": {name: list(part) for name, part in parts.items()},
                "forward": work.forward,
                "step": work.step if trains else None,
                "kept_bytes": kept(contender) if trains else None,
                "forward / bare": work.forward / bare.forward,
                f"step / {rival.label}": work.step / rival_step if trains else None,
                f"kept_bytes / {rival.label}": kept(contender) / kept(rival) if trains else None,
            }
        )
    return rows


def of(contender: Contender, shapes: Shapes) -> Row:
    """What a row is about."""
    return {
        "method": contender.method,
        "size": contender.size or None,
        "layers_to_transform": None if contender.layers is None else list(contender.layers),
        "label": contender.label,
        "hidden": shapes.hidden,
        "layers": shapes.layers,
        "frames": shapes.frames,
        "image_size": list(shapes.image),
        "tokens": shapes.tokens,
    }


def table(rows: Sequence[Row], lora: int) -> list[str]:
    """Rows from shapes as lines.

    Args:
        rows: of one backbone, clip length and image size.
        lora: rank of the LoRA that they are compared with.

    Returns:
        A line of headings and one for each row.
    """
    rival = Contender("lora", lora).label
    cells = [
        (
            row["label"],
            f"{row['parameters']:,}",
            f"{row['forward'] / 1e9:.2f} G",
            _ratio(row["forward / bare"]),
            "-" if row["step"] is None else f"{row['step'] / 1e9:.2f} G",
            _ratio(row[f"step / {rival}"]),
            "-" if row["kept_bytes"] is None else f"{row['kept_bytes'] / 2**20:.1f} MiB",
            _ratio(row[f"kept_bytes / {rival}"]),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *cells, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if number == 0 else text.rjust(width)
            for number, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (HEADINGS, *cells)
    ]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}x"


def measured_lines(rows: Iterable[Row]) -> list[str]:
    """Measured ratios as lines, in the form that all benchmarks of this project have."""
    return [
        f"{row['what']}: {row['label']} / {row['baseline']} = {row['ratio']:.2f}x "
        f"(median of {row['rounds']}, {row['device']}, {row['dtype']}, {row['threads']} threads)"
        for row in rows
    ]
