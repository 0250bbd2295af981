"""Clips read from shards against the same clips as loose files, as ratios of two sides run in turns in one process.

    python examples/benchmarks/shards.py CLIPS --out docs/results/shards.jsonl

CLIPS is a folder per class. Both sides read the same clips in an epoch's order of the shards. `bytes`: whole files, from
the page cache. `bytes, cold`: after the system was asked to drop their pages (posix_fadvise), which leaves what a disk or
its host caches. `decode`: 16 frames of each of `--decode-clips` clips, as training reads them. `list`: finding
`--entries` clips, small ones that are made for it, whose shards have an index. Each round runs both sides, in changing
order; a ratio is the median over rounds of the ratio in a round. Seconds are those of the processor, so that a busy
machine counts less, but for `cold` those of the clock.
"""

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import torch

from apt_peft.video import Clip, VideoReader, read_data
from apt_peft.video.shards.order import epoch_order, shard_blocks
from apt_peft.video.shards.tar import TarWriter
from apt_peft.video.shards.write import ShardPlan, write_shards

FRAMES = 16


def contents(clips: list[Clip]) -> None:
    """Read every byte of each clip."""
    for clip in clips:
        source = clip.source
        _ = Path(source).read_bytes() if isinstance(source, (str, os.PathLike)) else source.read_bytes()


def frames(clips: list[Clip]) -> None:
    """Decode 16 frames of each clip, evenly over it."""
    for clip in clips:
        with VideoReader(clip.source) as video:
            video.read(lambda count: [place * count // FRAMES for place in range(FRAMES)])


def drop_pages(paths: list[Path]) -> None:
    """Ask the system to forget what it holds of some files."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_turns(
    sides: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float], before: Callable[[], None] | None
) -> dict[str, list[float]]:
    """Seconds of each side in each round; one round before them fills caches."""
    order, names = random.Random(0), list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        order.shuffle(names)
        for name in names:
            if before is not None:
                before()
            begin = clock()
            sides[name]()
            if number:
                seconds[name].append(clock() - begin)
    return seconds


def small_clips(folder: Path, entries: int) -> tuple[Path, Path]:
    """A folder of so many files in ten classes, and a folder with one shard of as many; nothing of them is decoded."""
    loose, shards = folder / "loose", folder / "shards"
    shards.mkdir(parents=True)
    with (shards / "train-000000.tar").open("wb") as file:
        tar = TarWriter(file)
        for number in range(entries):
            path = loose / f"class{number % 10}" / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
            tar.add(f"{number:08d}.mp4", 1, [b"x"])
            tar.add(f"{number:08d}.cls", 1, [b"%d" % (number % 10)])
        tar.close()
    return loose, shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--decode-rounds", type=int, default=5)
    parser.add_argument("--decode-clips", type=int, default=16)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="append a JSON line for each measure")
    options = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loose = read_data(options.clips)
        count = sum(len(clips) for _, clips in loose.items())
        begin = time.perf_counter()
        write_shards(loose, folder / "shards", ShardPlan(max_bytes=16_000_000), root=str(options.clips))
        written = time.perf_counter() - begin
        shards = read_data(folder / "shards").train
        order = epoch_order(shard_blocks(shards), seed=0, epoch=0)
        ours = [shards[index] for index in order]
        # The number in the key is the place of the clip in the data.
        theirs = [loose.train[int(clip.source.member[:8])] for clip in ours]
        assert all(
            Path(t.source).read_bytes() == o.source.read_bytes() for t, o in zip(theirs[:20], ours, strict=False)
        )
        files = [Path(clip.source) for clip in theirs] + sorted((folder / "shards").glob("*.tar"))
        many, tar = small_clips(folder / "small", options.entries)
        read_data(tar)  # makes the index
        total = sum(path.stat().st_size for path in files[:count])
        print(f"{count} clips, {total / 1e6:.1f} MB, written into shards in {written:.1f} s")
        measures = {
            "bytes": (contents, None, time.process_time, options.rounds, count),
            "bytes, cold": (contents, lambda: drop_pages(files), time.perf_counter, options.rounds, count),
            "decode": (frames, None, time.process_time, options.decode_rounds, options.decode_clips),
        }
        results = {
            measure: in_turns(
                {"shards": partial(work, ours[:some]), "loose": partial(work, theirs[:some])}, rounds, clock, before
            )
            for measure, (work, before, clock, rounds, some) in measures.items()
        }
        results[f"list {options.entries}"] = in_turns(
            {"shards": lambda: read_data(tar), "loose": lambda: read_data(many)}, 5, time.process_time, None
        )

    for measure, seconds in results.items():
        rounds = len(seconds["loose"])
        ratio = statistics.median(a / b for a, b in zip(seconds["shards"], seconds["loose"], strict=True))
        medians = {side: statistics.median(values) for side, values in seconds.items()}
        shown = ", ".join(f"{side} {value:.4f} s" for side, value in medians.items())
        print(f"{measure}: shards / loose = {ratio:.2f}x (median of {rounds}, cpu, 1 thread): {shown}")
        if options.out:
            record = {
                "measure": measure,
                "clips": options.clips.name,
                "count": options.entries if measure.startswith("list") else count,
                "megabytes": round(total / 1e6, 1),
                "ours": "shards",
                "baseline": "loose files",
                "ratio": round(ratio, 4),
                "rounds": rounds,
                "seconds": {side: round(value, 5) for side, value in medians.items()},
                "threads": 1,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "av": av.__version__,
                "machine": platform.machine(),
            }
            with options.out.open("a") as file:
                file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
