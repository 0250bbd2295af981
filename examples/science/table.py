"""The tables of `docs/science.md`, from the lines that run.py wrote.

python examples/science/table.py
"""

import json
from collections.abc import Iterator
from typing import Any

import torch
from plans import PLANS
from run import DEFAULTS, RESULTS, identity

from apt_peft.scores.seeds import bootstrap_seeds

NAMES = {
    "prompts": "prompts",
    "key_gate": "gate",
    "query_mix": "query mix",
    "value_mix": "value mix",
    "value_mix_from_keys": "value mix from keys",
    "value_gate": "value gate",
    "query_affine": "query",
    "value_affine": "value",
    "size": "r",
}
SAID = {"init", "method", "task", "epochs", "part", "seed", "head_lr", "lr"}
VALIDATION = {
    "glance": "demo",
    "glance-sums": "demo",
    "glance-norms": "demo",
    "screen": "moving-shapes-48",
    "again": "demo",
    "others-faster": "demo",
    "others-red": "moving-shapes-48",
}
FINAL = {
    ("final-red", "final-red-lower", "final-others-red", "aside-red"): "moving-shapes-48",
    ("final-faster", "final-others-faster", "aside-faster"): "demo",
    ("long",): "moving-shapes-48",
}


def described(run: dict[str, Any]) -> str:
    """What a run trains, in words."""
    words = [run["method"]] if run["method"] != "apt" else []
    for name, value in run.items():
        if name in NAMES:
            words.append(f"{NAMES[name] if run['method'] != 'vpt-deep' else 'prompts'} {value}")
        elif value is True:
            words.append(name.replace("_", " "))
    if run.get("init") == "data":
        words.append("data start")
    rates = [f"{run['lr']}", *(f"{name[:-3]} {run[name]}" for name in run if name.endswith("_lr") and name not in SAID)]
    return f"{', '.join(words)} | {', '.join(rates)}"


def lines() -> dict[str, dict[str, Any]]:
    """The lines of the results by what identifies a run."""
    return {identity(line): line for line in map(json.loads, RESULTS.read_text().splitlines())}


def found(plan: str, backbone: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The runs of a plan that were made, each with its line."""
    there = lines()
    for run in PLANS[plan]:
        line = there.get(identity({"backbone": backbone, **DEFAULTS, **run}))
        if line is not None:
            yield run, line


def validation(plan: str) -> list[str]:
    """A row for each run of a plan that chose."""
    rows = []
    for run, line in found(plan, VALIDATION[plan]):
        head = 1288
        rows.append(f"| {described(run)} | {line['trained'] - head:,} | {line['loss']:.2f} | {line['top1']:.1f} |")
    return rows


def final() -> list[str]:
    """A row for each method and task: every seed, the mean, the differences to LoRA and to the norms, with intervals."""
    rows = []
    for plans, backbone in FINAL.items():
        several: dict[str, list[dict[str, Any]]] = {}
        for run, line in (pair for plan in plans for pair in found(plan, backbone)):
            several.setdefault(described(run), []).append(line)
        if not several:
            continue
        rights = {key: torch.stack([right_of(line) for line in made]) for key, made in several.items()}
        # against the better of LoRA's rates
        lora = max((right for key, right in rights.items() if key.startswith("lora")), key=lambda r: float(r.mean()))
        for key, made in several.items():
            low, high = _ends(rights[key])
            cells = [
                made[0]["task"] + (", 12 epochs" if made[0]["epochs"] == 12 else ""),
                *key.split(" | "),
                f"{made[0]['trained'] - 1288:,}",
            ]
            cells += [
                ", ".join(f"{line['top1']:.1f}" for line in made),
                f"{100 * rights[key].mean():.1f} [{low:.1f}, {high:.1f}]",
            ]
            others = {"lora": lora, "norms": next((r for k, r in rights.items() if k.startswith("norms")), None)}
            for other, theirs in others.items():
                if theirs is None or key.startswith((other, "lora")):
                    cells.append("")
                    continue
                value, interval = bootstrap_seeds(rights[key], theirs)
                cells.append(f"{value:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]")
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def diagnostics() -> list[str]:
    """A row for each of the first seed's runs with prompts: by layer attention on them, dead ones, ranks, sizes."""
    rows = []
    for plans, backbone in FINAL.items():
        for run, line in (pair for plan in plans for pair in found(plan, backbone)):
            if line["seed"] or line["epochs"] > 6 or not line["end"]:
                continue
            start, end = line["start"], line["end"]
            what = described(run).partition(" | ")[0]
            mass = ", ".join(f"{100 * a['mass']:.0f} → {100 * b['mass']:.0f}" for a, b in zip(start, end, strict=True))
            ranks = ", ".join(f"{layer['key_rank']:.1f}" for layer in end)
            sizes = ", ".join(f"{a['key_rms']:.1f} → {b['key_rms']:.1f}" for a, b in zip(start, end, strict=True))
            dead = ", ".join(str(layer["dead"]) for layer in end)
            uniform = f"{100 * end[0]['uniform']:.0f}"
            rows.append(f"| {' | '.join([run.get('task', 'red'), what, uniform, mass, dead, ranks, sizes])} |")
    return rows


def right_of(line: dict[str, Any]) -> torch.Tensor:
    """(clips,) of 0 and 1: which clips a run has right."""
    return torch.tensor([float(digit) for digit in line["right"]], dtype=torch.float64)


def _ends(right: torch.Tensor) -> tuple[float, float]:
    _, interval = bootstrap_seeds(right)
    return interval.low, interval.high


def main() -> None:
    """Print all tables."""
    for plan in VALIDATION:
        print(f"\n{plan}\n\n" + "\n".join(validation(plan)))
    print("\nfinal\n\n" + "\n".join(final()))
    print("\ndiagnostics\n\n" + "\n".join(diagnostics()))


if __name__ == "__main__":
    main()
