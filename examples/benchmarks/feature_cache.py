"""What an epoch of the linear probe takes from stored features against one from clips, as a ratio of two sides run in turns.

    python examples/benchmarks/feature_cache.py --out runs/features --results docs/results/feature_cache.jsonl \\
        --model ../shared/backbones/videomae-small-112 --data ../shared/clips \\
        --train-list ../shared/clips/yoga6.train.csv --labels ../shared/clips/yoga6.labels.txt \\
        --resize squash --val-fraction 0 --threads 1

Every flag of `apt-peft train` but --method, --augment, --epochs and --feature-cache may be given. Each round runs
`apt-peft train`'s own code from clips (whose decoded frames are kept, as is the default) and from features stored in a new
folder, in an order that changes from round to round. An epoch is timed from its begin to the next one's, with its checkpoint
and, where there are validation clips, their scores; the first one is left out. The ratio is the median over rounds of the
ratio of the median epochs. What storing the features takes, once, stands beside it. Adds a JSON line to the results.
"""

import argparse
import json
import shutil
import statistics
import time
from itertools import pairwise
from pathlib import Path

import torch

from apt_peft import settings as flags
from apt_peft.training import train as training
from apt_peft.training.record import versions
from apt_peft.training.settings import TrainSettings
from apt_peft.training.trainer import RunCallback

EPOCHS = 4
PLACES = ("model", "data", "out", "train_list", "val_list", "test_list", "labels", "cache", "feature_cache", "progress")


def run(settings: TrainSettings) -> dict:
    """Train, and note when epochs begin and how long the features take.

    Returns:
        Seconds of each epoch and of storing the features, and the losses.
    """
    begins: list[float] = []
    stored = [0.0]
    begin, use = RunCallback.on_epoch_begin, training.use_features

    def noted(self, *args, **kwargs):
        begins.append(time.perf_counter())
        begin(self, *args, **kwargs)

    def timed(*args):
        start = time.perf_counter()
        use(*args)
        stored[0] = time.perf_counter() - start

    RunCallback.on_epoch_begin, training.use_features = noted, timed
    RunCallback.on_train_end = lambda self, *args, **kwargs: begins.append(time.perf_counter())
    try:
        out = training.train(settings).out
    finally:
        RunCallback.on_epoch_begin, training.use_features = begin, use
    values = json.loads((out / "run.json").read_text(encoding="utf-8"))
    epochs = [end - start for start, end in pairwise(begins)]
    losses = [entry["loss"] for entry in values["history"] if "loss" in entry]
    return {"epochs": epochs, "stored": stored[0], "losses": losses, "run": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, help="file of JSON lines to add to")
    flags.add_arguments(parser, TrainSettings)
    given = vars(parser.parse_args())
    rounds, results, out = given.pop("rounds"), given.pop("results"), Path(given.pop("out"))
    given |= {"method": "linear", "augment": "none", "epochs": str(EPOCHS), "test": False, "progress": False}

    ratios, epochs, once, apart = [], {"clips": [], "features": []}, [], 0.0
    for number in range(rounds):
        found = {}
        for side in ("clips", "features") if number % 2 else ("features", "clips"):
            shutil.rmtree(out, ignore_errors=True)
            more = {"feature_cache": "auto"} if side == "features" else {}
            found[side] = run(flags.from_arguments(TrainSettings, given | more | {"out": str(out)}))
            epochs[side].append(statistics.median(found[side]["epochs"][1:]))
        ratios.append(epochs["features"][-1] / epochs["clips"][-1])
        once.append(found["features"]["stored"])
        pairs = zip(found["clips"]["losses"], found["features"]["losses"], strict=True)
        apart = max(apart, *(abs(a - b) for a, b in pairs))
    shutil.rmtree(out, ignore_errors=True)

    values = found["features"]["run"]
    line = {
        "ours": "an epoch from features",
        "baseline": "an epoch from clips",
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "seconds": {side: round(statistics.median(times), 3) for side, times in epochs.items()}
        | {"features, once": round(statistics.median(once), 3)},
        "largest difference of an epoch's loss": apart,
        "clips": values["data"]["clips"],
        "rounds": rounds,
        "device": values["device"],
        "dtype": values["precision"],
        "threads": torch.get_num_threads() if values["settings"]["threads"] is None else values["settings"]["threads"],
        "settings": {name: value for name, value in values["settings"].items() if name not in PLACES},
        "versions": versions(),
    }
    print(
        f"epoch from features / from clips = {line['ratio']:.3f}x (median of {rounds}, {line['device']}, {line['dtype']}); "
        f"{line['seconds']} s; losses within {apart:.1e}"
    )
    if results:
        results.parent.mkdir(parents=True, exist_ok=True)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
