"""How time and memory grow from 10 to 10,000 list entries: start-up, audit, split, and the memory of a worker.

    python examples/benchmarks/growth.py            # writes small videos of its own, measures, appends JSON lines, draws
    python examples/benchmarks/growth.py --draw     # draws docs/images/growth.png anew from the lines

Each entry is a video of its own, 8 frames of 32 px of drifting blotches, in five classes and groups of four. Times of one
process are those of the processor, so that a busy machine counts less; the audit works in two, so its time is the wall's, the
least of several. A worker's memory is its own pages, after the same work at every size. The exponent is that of the last
tenfold: 1 is linear.
"""

import argparse
import contextlib
import io
import json
import math
import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from apt_peft.cli import COMMANDS
from apt_peft.cli import main as command
from apt_peft.training.data import data_fingerprint
from apt_peft.video import ClipTransform, DataSplits, VideoDataset, audit, read_data

DOCS = Path(__file__).parents[2] / "docs"
RESULTS, PICTURE = DOCS / "results" / "growth.jsonl", DOCS / "images" / "growth.png"
CLASSES, GROUP = 5, 4
WORK = 500  # clips that a worker reads, whatever the list
STEPS = {
    "start-up": "start-up: list to data set, with its fingerprint",
    "audit": "audit: check --no-decode, equal videos",
    "split": "split: apt-peft lists by group",
    "worker": "memory of a worker that knows the list",
}
QUICK = ("start-up", "split")  # repeated at every size
UNITS = {"start-up": "seconds", "audit": "seconds", "split": "seconds", "worker": "bytes"}


def write_videos(root: Path, count: int) -> list[str]:
    """Write videos that all differ.

    Args:
        root: the data folder.
        count: how many.

    Returns:
        Their lines in a list file.
    """
    generator = np.random.default_rng(0)
    lines = []
    for index in range(count):
        label = index % CLASSES
        name = f"c{label}/v{index // GROUP:05}_{index:06}.mp4"
        (root / name).parent.mkdir(exist_ok=True)
        blotches = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        down, right = generator.integers(1, 4, 2)
        with av.open(str(root / name), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for step in range(8):
                picture = np.ascontiguousarray(
                    blotches[step * down : step * down + 32, step * right : step * right + 32]
                )
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        lines.append(f"{name} c{label}")
    return lines


def data_set(splits: DataSplits) -> VideoDataset:
    """The data set that a run makes of the training clips."""
    return VideoDataset(splits.train, num_frames=4, transform=ClipTransform(32), training=True)


def start_up(root: Path, entries: Path) -> float:
    """Processor seconds from a list file to a data set, with the fingerprint that a run stores."""
    start = time.process_time()
    splits = read_data(root, train_list=entries)
    data_fingerprint(dict(splits.items()), str(root))
    data_set(splits)
    return time.process_time() - start


def audited(root: Path, entries: Path) -> float:
    """Seconds of the audit without decoding all frames, by one worker."""
    splits = read_data(root, train_list=entries)
    start = time.perf_counter()
    report = audit(splits, decode=False, workers=1)
    seconds = time.perf_counter() - start
    assert not report.unreadable
    return seconds


def split(root: Path, entries: Path) -> float:
    """Processor seconds of `apt-peft lists` with groups by name."""
    out = root.parent / "lists"
    shutil.rmtree(out, ignore_errors=True)
    words = [
        "lists",
        str(root),
        "--train-list",
        str(entries),
        "--out",
        str(out),
        "--pool",
        "--val",
        "0.1",
        "--test",
        "0.2",
    ]
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        assert command([*words, "--group-by", r"(v\d+)_"]) == 0
    return time.process_time() - start


class SameWork(Dataset):
    """As many clips from a short list as from a long one, then a touch of every entry; each item is the worker's memory.

    A worker shares the list with its parent until it writes there, and to look at an object of Python is to count it. After the
    last item every entry has been looked at and named, so that no more of the list can come to be its own.
    """

    def __init__(self, clips: VideoDataset) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return WORK + 1

    def __getitem__(self, index: int) -> int:
        if index < WORK:
            self.clips[index * len(self.clips) // WORK]
        else:
            assert all(clip.name and clip.label is not None for clip in self.clips.clips)
        return private_bytes()


def worker(root: Path, entries: Path) -> float:
    """Bytes of a loader's worker that it shares with no other process, after work that does not depend on the list."""
    dataset = SameWork(data_set(read_data(root, train_list=entries)))
    dataset[0]  # what reading imports is imported here, and not once more in the worker
    # Forked as in training: a process that was spawned would spawn its own.
    loader = DataLoader(dataset, batch_size=None, num_workers=1, collate_fn=int, multiprocessing_context="fork")
    return list(loader)[-1]


def worker_of_a_new_process(root: Path, entries: Path) -> float:
    """The same where nothing else has been done before: a worker comes to hold what its parent leaves lying about."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(worker, root, entries).result()


def private_bytes() -> int:
    """Memory of this process that no other one shares (Linux)."""
    table = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(int(line.split()[1]) for line in table.splitlines() if line.startswith("Private_"))


MEASURES: dict[str, Callable[[Path, Path], float]] = {
    "start-up": start_up,
    "audit": audited,
    "split": split,
    "worker": worker_of_a_new_process,
}


def measure(counts: list[int], steps: list[str], repeats: int) -> list[dict[str, Any]]:
    """Measure steps at each count, and append the rows to the file.

    Args:
        counts: of entries, rising.
        steps: of `STEPS`.
        repeats: of each; the least counts.

    Returns:
        The rows.
    """
    rows = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "data"
        root.mkdir()
        lines = write_videos(root, counts[-1])
        for step in steps:
            MEASURES[step](root, _listed(root, lines[: counts[0]]))  # what is imported once is imported
            for count in counts:
                entries = _listed(root, lines[:count])
                values = [
                    MEASURES[step](root, entries) for _ in range(repeats if count < counts[-1] or step in QUICK else 1)
                ]
                rows.append({
                    "step": step, "entries": count, UNITS[step]: min(values), "repeats": len(values),
                    "threads": torch.get_num_threads(), "cores": os.cpu_count(), "machine": platform.machine(),
                })  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    return rows


def _listed(root: Path, lines: list[str]) -> Path:
    path = root.parent / "entries.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_rows() -> dict[str, dict[int, float]]:
    """Step -> entries -> value of the last line that has both."""
    found: dict[str, dict[int, float]] = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["step"], {})[row["entries"]] = row[UNITS[row["step"]]]
    return found


def exponent(values: dict[int, float]) -> float:
    """Of the last tenfold: 1 is linear, 2 square."""
    (before, small), (after, large) = sorted(values.items())[-2:]
    return math.log(large / small) / math.log(after / before)


def draw(found: dict[str, dict[int, float]], path: Path) -> None:
    """Draw the steps on logarithmic axes, each beside a dotted line of slope 1 through its last point.

    Args:
        found: step -> entries -> value.
        path: the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    units = [unit for unit in ("seconds", "bytes") if any(UNITS[step] == unit for step in found)]
    axes = dict(zip(units, figure.subplots(1, len(units), squeeze=False)[0], strict=True))
    for (step, values), colour in zip(found.items(), ("#3d6cc8", "#c8553d", "#3f9b5b", "#8a5cc2"), strict=False):
        counts = sorted(values)
        scale = 1e6 if UNITS[step] == "bytes" else 1
        points = [values[count] / scale for count in counts]
        name = STEPS[step].replace(": ", ":\n") + f"\n(exponent {exponent(values):.2f})"
        axes[UNITS[step]].plot(counts, points, "o-", color=colour, label=name)
        axes[UNITS[step]].plot(
            counts, [points[-1] * count / counts[-1] for count in counts], ":", color=colour, alpha=0.7
        )
    for unit, plot in axes.items():
        plot.set(xscale="log", yscale="log", xlabel="list entries", ylabel="MB" if unit == "bytes" else unit)
        plot.grid(True, which="major", alpha=0.3)
        plot.spines[["top", "right"]].set_visible(False)
        plot.legend(frameon=False, fontsize=8, loc="upper left")
        plot.set_title(f"{'memory' if unit == 'bytes' else 'time'} (dotted: linear)", fontsize=10)
        plot.set_ylim(*((1, 1000) if unit == "bytes" else (1e-4, 3e4)))  # room for the legend
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument(
        "--steps", nargs="+", choices=list(STEPS), default=[s for s in STEPS if s != "split" or "lists" in COMMANDS]
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--draw", action="store_true", help="draw alone")
    args = parser.parse_args()
    if not args.draw:
        measure(sorted(args.counts), args.steps, args.repeats)
    found = read_rows()
    for step, values in found.items():
        few, many = min(values), max(values)
        print(
            f"{step}: {many:,} / {few:,} entries = {values[many] / values[few]:.1f}x {UNITS[step]}, exponent of the last "
            f"tenfold {exponent(values):.2f}"
        )
    draw(found, PICTURE)


if __name__ == "__main__":
    main()
