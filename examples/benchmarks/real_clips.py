"""Runs of several kinds on real clips, over seeds, by `apt-peft train`'s own code: the probe, prompts, a recipe.

    python examples/benchmarks/real_clips.py --out runs/yoga6 --results docs/results/yoga6.jsonl \\
        --model ../shared/backbones/videomae-small-112 --data ../shared/clips \\
        --train-list ../shared/clips/yoga6.train.csv --test-list ../shared/clips/yoga6.test.csv \\
        --labels ../shared/clips/yoga6.labels.txt \\
        --resize squash --val-fraction 0 --num-prompt-tokens 20 --threads 1

    python examples/benchmarks/real_clips.py --runs default own-clips --out runs/own --results docs/results/own-clips.jsonl ...

Every flag of `apt-peft train` but --recipe, --method, --init-weights and --seed may be given. A run that is finished in
--out is not made again; one that was cut short goes on. Writes one JSON line a run, in place of the same run of the
same list of test clips, and prints the table.
"""

import argparse
import json
from pathlib import Path
from statistics import mean

from apt_peft import settings as flags
from apt_peft.training.settings import TrainSettings
from apt_peft.training.train import train

RUNS: dict[str, dict[str, str]] = {
    "linear": {"method": "linear"},
    "linear-0.03": {"method": "linear", "head_lr": "0.03"},
    "published": {"method": "apt", "init_weights": "published"},
    "data": {"method": "apt", "init_weights": "data"},
    "default": {},
    "own-clips": {"recipe": "own-clips"},
}
# of run.json: what decided the result and what came out, without the places of files
KEPT = ("trained_parameters", "training_seconds", "steps", "learning_rates", "precision", "device", "versions")
PLACES = ("model", "data", "out", "train_list", "val_list", "test_list", "labels", "cache", "progress", "resume")


def line(name: str, seed: int, run: dict) -> dict:
    """What is published of a run."""
    settings = {key: value for key, value in run["settings"].items() if key not in PLACES}
    clips = run["data"]["clips"]
    told = {
        "name": name,
        "seed": seed,
        "test_clips": Path(run["settings"]["test_list"] or run["settings"]["data"]).name,
        **run["result"]["test"],
    }
    return told | {"clips_of_split": clips, "settings": settings} | {key: run[key] for key in KEPT}


def which(row: dict) -> tuple:
    """What makes a run the same run."""
    return row.get("test_clips"), row["name"], row["seed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, ... up to this number")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=["linear", "linear-0.03", "published", "data"])
    parser.add_argument("--results", type=Path, required=True, help="file of JSON lines")
    flags.add_arguments(parser, TrainSettings)
    given = vars(parser.parse_args())
    seeds, runs, results = given.pop("seeds"), given.pop("runs"), given.pop("results")
    out = Path(given.pop("out"))

    rows = []
    for seed in range(seeds):
        for name in runs:
            folder = out / f"{name}-{seed}"
            told = given | RUNS[name] | {"seed": seed, "out": str(folder), "resume": folder.exists()}
            train(flags.from_arguments(TrainSettings, told))
            rows.append(line(name, seed, json.loads((folder / "run.json").read_text())))
    results.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(text) for text in results.read_text().splitlines()] if results.exists() else []
    new = {which(row) for row in rows}
    results.write_text(
        "".join(json.dumps(row) + "\n" for row in [row for row in known if which(row) not in new] + rows)
    )
    for name in runs:
        of = [row for row in rows if row["name"] == name]
        seen = ", ".join(f"{row['top1']:.1f}" for row in of)
        print(
            f"{name:10} top-1 {mean(row['top1'] for row in of):5.1f} ({seen}), "
            f"loss {mean(row['loss'] for row in of):.3f}, {of[0]['trained_parameters']:,} parameters"
        )


if __name__ == "__main__":
    main()
