"""What pruning costs on the demo's task: validation top-1 against the part of the prompts that is kept, by each measure.

    python examples/benchmarks/prune.py --seeds 0 1 2

For each seed it draws the demo's training clips and validation clips, trains the demo's adapter without the latter,
prunes it by each measure, and trains a few of the pruned ones further. Lines go to docs/results/prune.jsonl: `curve` rows of
`apt-peft prune --curve`, `finetuned` rows with the top-1 before and after (the better of the epochs, chosen on the same clips,
for every measure alike), and `prompts` rows of `apt-peft prompts`.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch

from apt_peft.demo.clips import write_split
from apt_peft.demo.settings import BACKBONE, RECIPES, SHARED
from apt_peft.insight import prompt_report
from apt_peft.opening import open_adapter
from apt_peft.pruning.clips import clip_batches, draw_clips
from apt_peft.pruning.folder import PruneSettings, prune_adapter
from apt_peft.scoring import ScoringSettings
from apt_peft.training.record import versions
from apt_peft.training.settings import TrainSettings
from apt_peft.training.train import train
from apt_peft.video import read_data

PARTS = (0.75, 0.5, 0.25, 0.125)
CURVES = (("attention", "layer"), ("taylor", "layer"), ("removal", "layer"), ("removal", "model"))
TUNED = (("attention", 0.25), ("removal", 0.25), ("random", 0.25))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clips", type=int, default=512, help="training clips")
    parser.add_argument("--validation-clips", type=int, default=256)
    parser.add_argument("--finetune", type=int, default=1, help="epochs that some pruned adapters are trained further")
    parser.add_argument("--out", type=Path, default=Path("docs/results/prune.jsonl"))
    args = parser.parse_args()
    args.out.unlink(missing_ok=True)
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), seed, args)


def measure(folder: Path, seed: int, args: argparse.Namespace) -> None:
    """All lines of one seed."""
    data, adapter = folder / "clips", folder / "apt"
    write_split(data, "train", args.clips, seed=seed)
    train(
        TrainSettings(
            model=str(BACKBONE),
            data=str(data),
            out=str(adapter),
            seed=seed,
            device="cpu",
            progress=False,
            **SHARED,
            **RECIPES["apt"],
        )
    )
    write_split(data, "test", args.validation_clips, seed=seed + 1000)
    shutil.move(data / "test", data / "val")  # clips that training never saw
    add = Lines(args.out, {"task": "demo", "seed": seed, **RECIPES["apt"]})
    opened = open_adapter(ScoringSettings(adapter=str(adapter), device="cpu"))
    drawn = draw_clips(read_data(data).train, 64, seed=seed)
    for row in prompt_report(opened.model, clip_batches(opened, drawn)).rows:
        add("prompts", row)
    full = None
    for by, scope in CURVES:
        flags = told(adapter, data, folder / f"{by}-{scope}", seed, by=by, scope=scope, curve=PARTS)
        for row in prune_adapter(flags).curve:
            full = row["top1"] if row["kept"] == 1 else full
            if row["by"] != "random" or by == "attention":  # drawn prompts are the same for each measure
                add("curve", row)
    for by, keep in TUNED:
        flags = told(
            adapter, data, folder / f"{by}-{keep}", seed, by=by, keep=keep, curve=(keep,), finetune=args.finetune
        )
        result = prune_adapter(flags)
        before = next(row["top1"] for row in result.curve if row["by"] == by and row["kept"] == keep)
        after = round(result.finetuned.validation_top1, 2)
        add(
            "finetuned", {"by": by, "kept": keep, "epochs": args.finetune, "all": full, "pruned": before, "top1": after}
        )


def told(adapter: Path, data: Path, out: Path, seed: int, **given) -> PruneSettings:
    return PruneSettings(
        adapter=str(adapter),
        data=str(data),
        out=str(out),
        seed=seed,
        device="cpu",
        progress=False,
        batch_size=32,
        **given,
    )


class Lines:
    """Adds JSON lines that all say what they are of."""

    def __init__(self, path: Path, facts: dict) -> None:
        self.path = path
        self.facts = facts | {"device": f"cpu, {torch.get_num_threads()} threads", "versions": versions(("torch",))}

    def __call__(self, kind: str, row: dict) -> None:
        """One line."""
        print(kind, row, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **row, **self.facts}) + "\n")


if __name__ == "__main__":
    main()
