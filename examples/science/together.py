"""The preset against LoRA, VPT-deep and the probe over all sets of `docs/science.md`: each set's difference, and their mean.

    python examples/science/together.py --keep yoga6=runs/yoga6 --keep basketball5=runs/basketball5
    python examples/science/together.py

`--keep` takes folders of `apt-peft compare` and writes which test clips each of their runs has right to RIGHTS; those of the
synthetic tasks are in the lines that run.py wrote. A mean over sets weighs each set alike; in its interval each set's seeds and
clips are drawn again.
"""

import argparse
import json
from pathlib import Path

import torch
from run import RESULTS
from table import FINAL, right_of
from table import found as made
from torch import Tensor

from apt_peft.scores.compare import read_together
from apt_peft.scores.seeds import correct, draw_means, percentiles

RIGHTS = RESULTS.with_name("compare-rights.jsonl")
PRESET, OTHERS = "apt+best", ("lora", "vpt-deep", "linear")
LEVEL = 0.95


def keep(name: str, folder: Path) -> None:
    """Write down which test clips the runs of a comparison have right, in place of what is there of that set."""
    lines = [json.loads(text) for text in (folder / "results.jsonl").read_text().splitlines()]
    contenders = [line["name"] for line in lines if line.get("kind") == "contender"]
    rows = []
    for contender in contenders:
        files = sorted((folder / "test" / contender.replace(":", "=")).glob("seed-*.safetensors"))
        stored = [item.result for item in read_together([str(file) for file in files])]
        right = correct([result.scores for result in stored], stored[0].targets)
        for seed, clips in enumerate(right):
            text = "".join(str(int(value)) for value in clips)
            rows.append({"set": name, "method": contender, "seed": seed, "right": text})
    known = [json.loads(text) for text in RIGHTS.read_text().splitlines()] if RIGHTS.exists() else []
    kept = [row for row in known if row["set"] != name] + rows
    RIGHTS.write_text("".join(json.dumps(row) + "\n" for row in kept))


def real() -> dict[str, dict[str, Tensor]]:
    """Set -> method -> (seeds, clips) of 0 and 1."""
    found: dict[str, dict[str, list[Tensor]]] = {}
    for text in RIGHTS.read_text().splitlines() if RIGHTS.exists() else []:
        row = json.loads(text)
        found.setdefault(row["set"], {}).setdefault(row["method"], []).append(right_of(row))
    return {name: {method: torch.stack(rows) for method, rows in of.items()} for name, of in found.items()}


def synthetic() -> dict[str, dict[str, Tensor]]:
    """The same of the synthetic tasks; of LoRA, where two rates were run, the better."""
    several: dict[str, dict[str, dict[float, list[Tensor]]]] = {}
    for plans, backbone in FINAL.items():
        for run, line in (pair for plan in plans if plan.startswith("final") for pair in made(plan, backbone)):
            method = run["method"] if run["method"] != "apt" else PRESET if run.get("prompts") else "norms"
            rates = several.setdefault(line["task"], {}).setdefault(method, {})
            rates.setdefault(run["lr"], []).append(right_of(line))
    return {task: {method: _better(rates) for method, rates in of.items()} for task, of in several.items()}


def _better(rates: dict[float, list[Tensor]]) -> Tensor:
    return max(map(torch.stack, rates.values()), key=lambda right: float(right.mean()))


def table(sets: dict[str, dict[str, Tensor]]) -> list[str]:
    """A row for each set and one for the mean over them: the preset's top-1, and its differences with intervals."""
    rows = ["| set | test clips | " + PRESET + " | " + " | ".join(f"against {name}" for name in OTHERS) + " |"]
    rows.append("|" + "---|" * (3 + len(OTHERS)))
    means = {name: float(100 * of[PRESET].mean()) for name, of in sets.items()}
    drawn: dict[str, list[Tensor]] = {other: [] for other in OTHERS}
    values: dict[str, list[float]] = {other: [] for other in OTHERS}
    for number, (name, of) in enumerate(sets.items()):
        cells = [name, str(of[PRESET].shape[1]), f"{means[name]:.1f}"]
        for other in OTHERS:
            parts = [of[PRESET][:, None], of[other][:, None]]
            draws = torch.cat([one[:, 0] - two[:, 0] for one, two in draw_means(parts, seed=1000 * number)])
            drawn[other].append(draws)
            values[other].append(float(100 * of[PRESET].mean()) - float(100 * of[other].mean()))
            cells.append(said(values[other][-1], draws))
        rows.append(f"| {' | '.join(cells)} |")
    cells = ["**mean**", "", f"{sum(means.values()) / len(means):.1f}"]
    cells += [said(sum(values[o]) / len(sets), torch.stack(drawn[o]).mean(dim=0)) for o in OTHERS]
    return [*rows, f"| {' | '.join(cells)} |"]


def said(value: float, draws: Tensor) -> str:
    """A difference and its interval."""
    interval = percentiles(draws, LEVEL)
    return f"{value:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="append", default=[], metavar="NAME=FOLDER")
    for given in parser.parse_args().keep:
        name, _, folder = given.partition("=")
        keep(name, Path(folder))
    print("\n".join(table(real() | synthetic())))


if __name__ == "__main__":
    main()
