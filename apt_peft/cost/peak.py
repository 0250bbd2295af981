"""Measured memory: what a training step adds at its peak, each method in a process of its own.

On a CPU it is the high-water mark of the resident memory (Linux: /proc/self/status), on CUDA that of torch's allocator.
`python -m apt_peft.cost.peak` is that process; it reads its settings from the first argument and prints one line.
"""

import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apt_peft.cost.arithmetic import Shapes
from apt_peft.cost.contenders import Contender, build, example
from apt_peft.cost.measure import Place, baselines_of, sides_of, training_step
from apt_peft.errors import ConfigError

MEMORY = "memory"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
STEPS = 2  # the second has the optimizer's states, as all that follow
# Large blocks go back to the system when they are freed, so that the marks show what is in use
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
SMALL = Shapes(hidden=64, layers=2, heads=1, mlp=128, image=(32, 32), frames=4, labels=3)


def check_peak(device: str) -> None:
    """Refuse where the peak cannot be told.

    Args:
        device: to measure on.

    Raises:
        ConfigError: there is no high-water mark that can be reset.
    """
    if not device.startswith("cuda") and not CLEAR.exists():
        raise ConfigError(
            f"measure (memory) must be on CUDA or Linux, but {sys.platform} tells no peak of a process that can be set back. "
            "Leave memory out; the bytes that autograd keeps are counted everywhere."
        )


def added_by_step(contender: Contender, shapes: Shapes, place: Place, *, threads: int = 1) -> int:
    """Bytes that a training step adds to what model, optimizer and clips take, measured in a new process.

    Args:
        contender: the method.
        shapes: of the backbone.
        place: where and how; one run suffices.
        threads: of the process.

    Returns:
        The bytes at the peak.

    Raises:
        ConfigError: the process failed, or there is no peak to be told.
    """
    check_peak(place.device)
    task = {
        "contender": dataclasses.asdict(contender),
        "shapes": dataclasses.asdict(shapes),
        "place": dataclasses.asdict(place),
        "threads": threads,
    }
    done = subprocess.run(
        [sys.executable, "-m", "apt_peft.cost.peak", json.dumps(task)],
        env={**os.environ, **ALLOCATOR},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ConfigError(
            f"measure (memory) of {contender.label} must end well, but its process ended with {done.returncode}: "
            f"{lines[-1].rstrip('.') if lines else 'without a word'}. Try a smaller batch."
        )
    return int(json.loads(done.stdout.splitlines()[-1])["added"])


def peaks(
    chosen: Sequence[Contender], shapes: Shapes, place: Place, *, lora: int = 8, threads: int = 1, times: int = 1
) -> dict[Contender, dict[str, float]]:
    """Ratios of what a training step adds.

    Args:
        chosen: the contenders.
        shapes: of the backbone.
        place: where and how.
        lora: rank of the LoRA that they are compared with.
        threads: of each process.
        times: processes for each side, of which the median counts.

    Returns:
        For each contender the ratio to each of its baselines, by the baseline's label.

    Raises:
        ConfigError: a process failed, or there is no peak to be told.
    """
    added = {}
    for side in sides_of(chosen, MEMORY, lora):
        found = sorted(added_by_step(side, shapes, place, threads=threads) for _ in range(times))
        added[side.label] = found[len(found) // 2]
    return {
        contender: {
            baseline.label: added[contender.label] / added[baseline.label]
            for baseline in baselines_of(contender, MEMORY, lora)
        }
        for contender in chosen
        if contender.label in added
    }


def main(argument: str) -> None:
    """Measure, in this process, and print the bytes.

    Args:
        argument: the task as JSON.
    """
    import torch

    task = json.loads(argument)
    torch.set_num_threads(task["threads"])
    place = Place(**task["place"])
    given = task["contender"]
    contender = Contender(given["method"], given["size"], given["layers"] and tuple(given["layers"]))
    sizes: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in task["shapes"].items()}
    shapes = Shapes(**sizes)
    # What the first step of a process loads, and keeps, is no part of a step
    size = 1 if contender.method == "partial" else contender.size
    _step(Contender(contender.method, size), SMALL, place)()
    run = _step(contender, shapes, place)
    if place.device.startswith("cuda"):
        print(json.dumps({"added": _on_cuda(run, place.device)}))
        return
    for _ in range(STEPS - 1):
        run()
    gc.collect()
    _trim()
    CLEAR.write_text("5")  # sets the high-water mark back
    before = _status("VmRSS")
    run()
    print(json.dumps({"added": _status("VmHWM") - before}))


def _step(contender: Contender, shapes: Shapes, place: Place) -> Any:
    options: dict[str, Any] = {"device": place.device, "dtype": place.dtype}
    model = build(contender, shapes, implementation=place.implementation, **options)
    return training_step(model, example(shapes, batch=place.batch, **options))


def _on_cuda(run: Any, device: str) -> int:
    import torch

    for _ in range(STEPS - 1):
        run()
    torch.cuda.synchronize(device)
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _trim() -> None:
    """Give freed memory back to the system, where the C library knows how."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def _status(name: str) -> int:
    """Bytes of one line of /proc/self/status."""
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1])
