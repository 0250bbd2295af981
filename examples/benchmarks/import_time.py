"""What `import apt_peft` adds to the import of peft and of transformers' VideoMAE, which its users import anyway.

    python examples/benchmarks/import_time.py

Two measures. `with / without`: new processes in turns, one importing peft and VideoMAE, one apt_peft after them; the
ratio is the median over rounds of the ratio within a round. `added`: within the second process, the time of
`import apt_peft` over that of the imports before it; it leaves out how one process differs from the next. Seconds are
those of the processor, so that a busy machine counts less.
"""

import argparse
import importlib.util
import json
import os
import platform
import random
import statistics
import subprocess
import sys
from pathlib import Path

BEFORE = """
import time
start = time.process_time()
import peft
from transformers import VideoMAEConfig, VideoMAEForVideoClassification
others = time.process_time()
"""
SIDES = {"without": BEFORE + "ours = others", "with": BEFORE + "import apt_peft\nours = time.process_time()"}
REPORT = "\nprint(others - start, ours - others)"
OPTIONAL = ("bitsandbytes", "torchao", "torchvision", "datasets", "sklearn", "scipy")  # imported by the others if there


def seconds(code: str) -> tuple[float, float]:
    """Of the imports before ours, and of ours."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code + REPORT], capture_output=True, text=True, check=True
    )
    others, ours = done.stdout.split()
    return float(others), float(ours)


def measure(rounds: int) -> list[dict[str, tuple[float, float]]]:
    """Seconds of each side in each round; one round before them fills the file cache."""
    names, order, table = list(SIDES), random.Random(0), []
    for _ in range(rounds + 1):
        order.shuffle(names)
        table.append({name: seconds(SIDES[name]) for name in names})
    return table[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, help="append one JSON line")
    options = parser.parse_args()

    table = measure(options.rounds)
    ratio = statistics.median(sum(row["with"]) / sum(row["without"]) for row in table)
    added = statistics.median(row["with"][1] / row["with"][0] for row in table)
    times = {"peft and VideoMAE": statistics.median(row["without"][0] for row in table)}
    times["apt_peft after them"] = statistics.median(row["with"][1] for row in table)
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    print(f"with apt_peft / without = {ratio:.3f}x (median of {options.rounds}, cpu, {threads} threads)")
    print(f"added = {100 * added:.2f} %;", ", ".join(f"{name}: {value:.3f} s" for name, value in times.items()))
    if options.out:
        import peft
        import torch
        import transformers

        record = {
            "rounds": options.rounds,
            "ours": "import peft, VideoMAE, apt_peft",
            "baseline": "import peft, VideoMAE",
            "ratio": round(ratio, 4),
            "added_percent": round(100 * added, 3),
            "seconds": {name: round(value, 4) for name, value in times.items()},
            "optional_packages": [name for name in OPTIONAL if importlib.util.find_spec(name)],
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
            "machine": platform.machine(),
        }
        with options.out.open("a") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
