"""Kills commands at random moments, starts them again, and compares what comes out with an undisturbed run.

    python tests/kills/run.py --kills 50
    python tests/kills/run.py --kills 9 --commands check lists shard --out docs/results/kills.jsonl

Each round runs one command in a fresh place, kills it (SIGKILL, with all its processes) one to three times at moments that
a seed draws, and lets the last start end. What is there then must be what an undisturbed run leaves: nothing lost, nothing
counted twice. Prints a line for each round; the exit code is 1 where a round differs. `--out` keeps the counts.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from clips import write_classes
from models import tiny_videomae
from safetensors import safe_open
from safetensors.torch import load_file

LABELS = ["down", "left", "up"]
# From here on a command has started: what comes before is Python's imports.
FIRST_MOMENT = 0.3
WORKING = ("--threads", "1", "--no-progress")


@dataclass(frozen=True)
class Case:
    """A command that is killed.

    Args:
        words: its command line in a place of its own (`out` stands for a folder there).
        again: what is added when it is started after a kill.
        outcome: what it leaves, from its folder and what it printed.
    """

    words: Callable[[Path], Sequence[str]]
    outcome: Callable[[Path, str], dict[str, object]]
    again: Sequence[str] = ()


def files(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(content(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def content(path: Path) -> bytes:
    """A file's bytes; of safetensors what is in it, for their header's entries stand in any order."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).tolist() for name in sorted(file.keys())}
        facts = dict(file.metadata() or {})
    if "provenance" in facts:  # when a file of scores was written differs
        facts["provenance"] = json.dumps(json.loads(facts["provenance"]) | {"written": None})
    return repr((tensors, sorted(facts.items()))).encode()


def trained(out: Path) -> dict[str, object]:
    """What a run of training came to: weights, scores, the losses of each epoch, and the names of its files."""
    run = json.loads((out / "run.json").read_text())
    weights = {name: tensor.tolist() for name, tensor in load_file(out / "adapter_model.safetensors").items()}
    losses = [entry["loss"] for entry in run["history"] if "loss" in entry]
    return {
        "result": run["result"],
        "clips": run["data"]["clips"],
        "losses": losses,
        "weights": weights,
        "tables": files(out / "evaluation"),
        "files": sorted(path.name for path in out.iterdir()),
    }


def scored(out: Path) -> dict[str, object]:
    """What an evaluation came to: every number of its file of scores, and its tables."""
    scores = {name: tensor.tolist() for name, tensor in load_file(out / "scores.safetensors").items()}
    return {"scores": scores, "tables": files(out / "tables"), "files": sorted(path.name for path in out.iterdir())}


def compared(out: Path) -> dict[str, object]:
    """What a comparison came to: its numbers, its scores and weights, and the touches of the test split, each of them once."""
    records = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    touches = sorted((record["event"], record["method"], record["seed"]) for record in records)
    return {
        "results": (out / "results.jsonl").read_text(),
        "table": (out / "table.md").read_text(),
        "scores": files(out / "test"),
        "weights": {path.parent.as_posix(): content(path) for path in out.glob("runs/*/*/adapter_model.safetensors")},
        # One that was killed is ended with the same weights.
        "touches": [touch for touch in touches if touch[0] != "resume"],
    }


def cases(place: Path) -> dict[str, Case]:
    """The commands, on clips and a backbone that are made in a place."""
    data, backbone, adapter = place / "data", place / "backbone", place / "adapter"
    train = ["train", "--model", str(backbone), "--data", str(data), "--batch-size", "4", "--num-prompt-tokens", "3"]
    return {
        "check": Case(
            lambda out: ["check", str(data), "--json"],
            lambda out, printed: {"printed": json.loads(printed), "data": files(data)},
        ),
        "lists": Case(
            lambda out: ["lists", str(data), "--out", str(out), "--pool", "--val", "0.2", "--test", "0.2"],
            lambda out, printed: {"files": files(out)},
            ("--overwrite",),  # it may have written all of them when it is killed
        ),
        "shard": Case(
            lambda out: ["shard", str(data), str(out), "--max-clips", "2", "--no-progress"],
            lambda out, printed: {"files": files(out)},
        ),
        "cache": Case(
            # Everything is read again in each start but what the cache has; one epoch, since the cache is what is killed.
            lambda out: [*train, "--out", str(out / "run"), "--epochs", "1", "--cache", str(out / "cache"), *WORKING],
            lambda out, printed: trained(out / "run") | {"cache": files(out / "cache")},
            ("--resume",),
        ),
        "train": Case(
            lambda out: [*train, "--out", str(out), "--epochs", "8", "--augment", "crop", *WORKING],
            lambda out, printed: trained(out),
            ("--resume",),
        ),
        "evaluate": Case(
            lambda out: [
                *("evaluate", "--adapter", str(adapter), "--data", str(data), "--split", "train", "--batch-size", "1"),
                *("--segments", "3", "--out", str(out / "tables"), "--save-scores", str(out / "scores.safetensors")),
                *WORKING,
            ],
            lambda out, printed: scored(out),
        ),
        "compare": Case(
            lambda out: [
                *(
                    "compare",
                    "--model",
                    str(backbone),
                    "--data",
                    str(data),
                    "--methods",
                    "linear,apt:2",
                    "--out",
                    str(out),
                ),
                *("--seeds", "1", "--budget-trials", "4", "--epochs", "1", "--batch-size", "8", "--ratio-rounds", "0"),
                *("--samples", "200", "--threads", "1"),
            ],
            lambda out, printed: compared(out),
        ),
    }


def prepare(place: Path, *, adapter: bool = True) -> None:
    """Clips, a backbone, and an adapter where one is evaluated."""
    size = {"num_frames": 24, "width": 160, "height": 120}
    write_classes(place / "data" / "train", LABELS, clips=8, **size)
    write_classes(place / "data" / "test", LABELS, clips=2, **size)
    tiny_videomae(num_labels=2).save_pretrained(place / "backbone")
    if not adapter:
        return
    words = ["train", "--model", str(place / "backbone"), "--data", str(place / "data"), "--num-prompt-tokens", "3"]
    start([*words, "--out", str(place / "adapter"), "--epochs", "1", *WORKING]).finish()


class Started:
    """A command that runs in processes of its own."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.process = subprocess.Popen(
            [sys.executable, "-m", "apt_peft", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,  # killed with all that it starts
        )

    def kill_after(self, seconds: float) -> bool:
        """Kill it at a moment; False where it had ended by then."""
        try:
            self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            return True
        return False

    def finish(self) -> str:
        """Let it end; returns what it printed."""
        printed, told = self.process.communicate(timeout=600)
        if self.process.returncode:
            raise SystemExit(f"apt-peft {' '.join(self.words)} ended with {self.process.returncode}:\n{told}")
        return printed


def start(words: Sequence[str]) -> Started:
    """Start a command of `apt-peft`."""
    return Started(words)


def main() -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="kills in all")
    parser.add_argument("--commands", nargs="+", help="which commands (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no further round after so many")
    parser.add_argument("--out", type=Path, help="append one JSON line")
    options = parser.parse_args()
    draw, latest = random.Random(options.seed), time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        table = cases(place)
        names = options.commands or list(table)
        prepare(place, adapter="evaluate" in names)
        whole, seconds = {}, {}
        for name in names:
            out = place / "whole" / name
            begun = time.perf_counter()
            printed = start(table[name].words(out)).finish()
            seconds[name] = time.perf_counter() - begun
            whole[name] = table[name].outcome(out, printed)
            # What names the place must be equal: the killed rounds work in the same one.
            shutil.rmtree(out, ignore_errors=True)
        kills, rounds, different = Counter[str](), 0, Counter[str]()
        while kills.total() < options.kills and time.monotonic() < latest:
            name = names[rounds % len(names)]
            rounds += 1
            case, out = table[name], place / "whole" / name
            wanted, moments = draw.randint(1, min(3, options.kills - kills.total())), []
            words = list(case.words(out))
            while len(moments) < wanted:
                moment = draw.uniform(FIRST_MOMENT, 1.0) * seconds[name]
                if not start(words).kill_after(moment):
                    break
                moments.append(moment)
                words = [*case.words(out), *case.again]
            kills[name] += len(moments)
            printed = start([*case.words(out), *case.again]).finish()
            found = case.outcome(out, printed)
            wrong = [part for part, value in whole[name].items() if found[part] != value]
            different[name] += bool(wrong)
            shown = ", ".join(f"{moment:.1f}" for moment in moments) or "none in time"
            print(
                f"{name:9} killed after {shown} of {seconds[name]:.1f} s: {f'DIFFERENT {wrong}' if wrong else 'same'}",
                flush=True,
            )
            shutil.rmtree(out, ignore_errors=True)
    print(f"{kills.total()} kills in {rounds} rounds: {different.total()} differ")
    if options.out:
        record = {"kills": dict(kills), "different": dict(different), "rounds": rounds, "seed": options.seed}
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record | {"python": platform.python_version(), "system": platform.system()}) + "\n")
    return 1 if different.total() else 0


if __name__ == "__main__":
    raise SystemExit(main())
