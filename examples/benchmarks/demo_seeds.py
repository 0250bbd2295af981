"""The demo over several seeds: what its table may promise, and how its settings were chosen.

    python examples/benchmarks/demo_seeds.py             # seeds 0, 1, 2: probe, prompts from either start
    python examples/benchmarks/demo_seeds.py --choose    # the candidates, on draws that the demo never uses

Appends one JSON line a run to --results, and prints the means. A run that is in the file already is not made again.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean

from apt_peft.demo.command import demo
from apt_peft.demo.settings import RECIPES, DemoSettings

RESULTS = Path(__file__).parents[2] / "docs" / "results"
APT = RECIPES["apt"]
MEASURED = {
    "linear": RECIPES["linear"],
    "apt, published start": {**APT, "init_weights": "published"},
    "apt, data start": {**APT, "init_weights": "data"},
}
CANDIDATES = {
    **{f"linear, head lr {lr}": {**RECIPES["linear"], "head_lr": lr} for lr in (0.003, 0.01, 0.03, 0.1)},
    **{
        f"apt, {start} start, lr {lr}": {**APT, "init_weights": start, "lr": lr}
        for start in ("published", "data")
        for lr in (0.1, 0.3)
    },
}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="compare the candidates on seeds 100 and 101")
    parser.add_argument("--seeds", type=int, nargs="+", help="(default: 0 1 2; 100 101 with --choose)")
    parser.add_argument("--results", type=Path, help="(default: demo.jsonl or demo_settings.jsonl in docs/results)")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    args = parser.parse_args()
    recipes = CANDIDATES if args.choose else MEASURED
    results = args.results or RESULTS / ("demo_settings.jsonl" if args.choose else "demo.jsonl")
    results.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for seed in args.seeds or ([100, 101] if args.choose else [0, 1, 2]):
        done = {row["name"] for row in rows if row["seed"] == seed}
        missing = {name: recipe for name, recipe in recipes.items() if name not in done}
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            settings = DemoSettings(out=f"{folder}/demo", seed=seed, progress=False, threads=args.threads)
            for method in demo(settings, missing).methods:
                row = {"name": method.name, "seed": seed, **vars(method)}
                rows.append(row)
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    for name in recipes:
        of = [row for row in rows if row["name"] == name]
        shown = ", ".join(f"{row['top1']:.1f}" for row in of)
        print(
            f"{name:36} top-1 {mean(row['top1'] for row in of):5.1f} ({shown}), {of[0]['trained_parameters']:,} parameters"
        )


if __name__ == "__main__":
    main()
