"""Where the time of a training step goes: by kind of operation, beside that of full tuning and what the shapes say.

    python examples/benchmarks/step_profile.py --rounds 7 --out docs/results/step_profile.jsonl

Sides run in turns under torch's profiler; of each round the seconds that each kind of operation itself took, divided by those
of full tuning's whole step in the same round; the median over rounds. The optimizer is in them. CPU, float32, one thread.
"""

import argparse
import json
import platform
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from apt_peft.cost.arithmetic import VIT_S, Shapes, multiply_adds, total
from apt_peft.cost.contenders import Contender, build, example
from apt_peft.cost.measure import training_step

FULL = Contender("full")
SIDES = (FULL, Contender("lora", 8), Contender("apt", 100), Contender("apt", 400))
# Kind -> words in the names of its operations; the first that fits counts.
KINDS = {
    "attention": ("scaled_dot_product", "flash_attention", "bmm", "softmax"),
    "products of matrices": ("mm", "conv", "mkldnn"),
    "GELU and norms": ("gelu", "layer_norm"),
}
REST = "the rest"


def kind_of(name: str) -> str:
    """The kind of an operation."""
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), REST)


def seconds_by_kind(step: Callable[[], None]) -> Counter[str]:
    """Seconds that each kind of operation itself takes in a step."""
    found: Counter[str] = Counter()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    for event in seen.key_averages():
        found[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    return found


def main() -> None:
    """Print shares of full tuning's step, and append them to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--out", type=Path, help="append JSON lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shapes: Shapes = VIT_S.changed(layers=options.layers, frames=options.frames, image=options.image_size)
    steps = {side: training_step(build(side, shapes), example(shapes, batch=1)) for side in SIDES}
    for step in steps.values():
        step()  # warms up
    rounds = [{side: seconds_by_kind(step) for side, step in steps.items()} for _ in range(options.rounds)]
    bound = total(multiply_adds(shapes, "full")).step
    about = {"layers": options.layers, "frames": options.frames, "image_size": options.image_size, "rounds": options.rounds,
             "device": "cpu", "dtype": "float32", "threads": 1, "torch": torch.__version__,
             "machine": platform.machine()}  # fmt: skip
    lines = []
    for side in SIDES:
        work = total(multiply_adds(shapes, side.method, side.size)).step / bound
        parts = {
            kind: statistics.median(row[side][kind] / row[FULL].total() for row in rounds) for kind in [*KINDS, REST]
        }
        whole = statistics.median(row[side].total() / row[FULL].total() for row in rounds)
        shown = ", ".join(f"{kind} {part:.3f}" for kind, part in parts.items())
        print(
            f"training step: {side.label} / full = {whole:.2f}x (median of {options.rounds}, cpu, float32, 1 threads): {shown}; "
            f"multiply-adds {work:.3f}x"
        )
        rounded = {kind: round(part, 4) for kind, part in parts.items()}
        lines.append({**about, "kind": "profile", "label": side.label, "ratio": round(whole, 4), "parts": rounded,
                      "multiply_adds": round(work, 4)})  # fmt: skip
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
