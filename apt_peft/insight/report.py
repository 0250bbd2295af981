"""One table of what an adapter's prompts do: as text, as JSON and as a picture."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from apt_peft.insight.measures import DEAD_BELOW, prompt_attention, prompt_states

COLUMNS = {
    "layer": "layer",
    "prompts": "P",
    "attention": "attention on prompts",
    "uniform": "if uniform",
    "dead": "dead",
    "key_rank": "rank of keys",
    "value_rank": "rank of values",
    "key_rms": "keys, rms",
    "value_rms": "values, rms",
}


@dataclass(frozen=True)
class PromptReport:
    """What prompts do, layer by layer.

    Args:
        rows: for each layer `module` (its name), `layer` (what tells it from the others), `prompts` (P), `attention` (the
            softmax weight on all prompts, in the mean over clips, heads and queries), `uniform` (P / (N + P)), `dead` (how
            many prompts get less than `dead_below` / (N + P) in every head), `key_rank` and `value_rank` (effective ranks),
            `key_rms` and `value_rms` of the prompts, `backbone_key_rms` and `backbone_value_rms` of the tokens.
        dead_below: see `dead`.
    """

    rows: tuple[dict[str, Any], ...]
    dead_below: float

    def text(self) -> str:
        """The table; sizes are those of the prompts, divided by those of the backbone's own keys and values."""
        lines = [tuple(COLUMNS.values())]
        for row in self.rows:
            sizes = (row[f"{kind}_rms"] / max(row[f"backbone_{kind}_rms"], 1e-12) for kind in ("key", "value"))
            lines.append(
                (
                    row["layer"],
                    f"{row['prompts']:,}",
                    f"{100 * row['attention']:.2f} %",
                    f"{100 * row['uniform']:.2f} %",
                    f"{row['dead']:,}",
                    f"{row['key_rank']:.1f}",
                    f"{row['value_rank']:.1f}",
                    *(f"{size:.2f}x" for size in sizes),
                )
            )
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(rest, widths[1:], strict=True))]
            )
            for first, *rest in lines
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {"dead_below": self.dead_below, "layers": list(self.rows)}

    def save(self, folder: str | Path) -> None:
        """Write prompts.json, and prompts.png where matplotlib is installed.

        Args:
            folder: made if it is not there.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        (folder / "prompts.json").write_text(text, encoding="utf-8")
        try:
            from apt_peft.insight.plots import draw_report
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] != "matplotlib":
                raise
            return
        draw_report(self, folder / "prompts.png")


def prompt_report(
    model: nn.Module,
    dataloader: Iterable[Any],
    *,
    adapter_name: str | None = None,
    dead_below: float = DEAD_BELOW,
) -> PromptReport:
    """What an adapter's prompts do on some clips; the model is left as it was.

    Args:
        model: a model with attention prompts, as `get_peft_model` returns it.
        dataloader: its batches are mappings with `pixel_values`, or tensors; labels are not used.
        adapter_name: which adapter; it must be the only active one, which is the default.
        dead_below: a prompt is dead if its mean weight is below this part of 1 / (N + P) in every head.

    Returns:
        The table.

    Raises:
        ConfigError: there is no such adapter, it is not the only active one, there is no batch, or weights are not finite.
    """
    attention = prompt_attention(model, dataloader, adapter_name=adapter_name)
    states = prompt_states(model, adapter_name=adapter_name)
    names = short_names(list(attention))
    return PromptReport(
        tuple(
            {
                "module": key,
                "layer": name,
                "attention": found.mass,
                "uniform": found.uniform_mass,
                "dead": int(found.dead(dead_below).sum()),
                "backbone_key_rms": found.key_rms,
                "backbone_value_rms": found.value_rms,
                **states[key],
            }
            for (key, found), name in zip(attention.items(), names, strict=True)
        ),
        dead_below,
    )


def short_names(names: Sequence[str]) -> list[str]:
    """What tells names from each other, in whole parts between dots.

    Args:
        names: of modules, all different.

    Returns:
        `["0", "1"]` for `["encoder.layer.0.attention", "encoder.layer.1.attention"]`; a single name as it is.
    """
    if len(names) < 2:
        return list(names)
    parts = [name.split(".") for name in names]
    before = _shared(parts)
    after = _shared([part[before:][::-1] for part in parts])
    return [".".join(part[before : len(part) - after]) for part in parts]


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """How many parts all begin with."""
    columns = zip(*parts, strict=False)
    return next((index for index, column in enumerate(columns) if len(set(column)) > 1), min(map(len, parts)))
