"""Read damaged clips, and tell what came out.

    PYTHONPATH=tests python tests/fuzz/run.py --count 500 --seed 0 --out docs/results/fuzz.jsonl

Each clip is decoded or named with a reason. Exit code 1 where one crashed its process, took longer than the limit, or failed
with an error that is not `UnreadableVideoError`: its name then says how to make it again, with the same seed.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import av
from damage import damaged, read, write_kinds

from apt_peft.video import UnreadableVideoError
from apt_peft.video.guard import guarded

# What the guard says of a file that is no `UnreadableVideoError` by itself.
HARD = {"it crashed the decoder": "crashed", "it ended the decoder": "crashed", "reading it took": "too long",
        "decoding it failed with": "other error"}  # fmt: skip


def kind_of(reason: str) -> str:
    """Of what kind a reason is."""
    return next((kind for start, kind in HARD.items() if reason.startswith(start)), "named")


def run(folder: Path, count: int, seed: int, time_limit: float) -> list[tuple[str, int | str]]:
    """Read damaged clips.

    Args:
        folder: for the files.
        count: how many.
        seed: of the damage.
        time_limit: seconds for one.

    Returns:
        For each its name, and its frames or what is wrong with it.
    """
    names = []
    for name, content in damaged(write_kinds(folder / "whole"), count, seed):
        (folder / name).write_bytes(content)
        names.append(name)
    paths = [str(folder / name) for name in names]
    results = guarded(read, paths, names=paths, transforms=True, time_limit=time_limit)
    told = [result.reason if isinstance(result, UnreadableVideoError) else result for result in results]
    return list(zip(names, told, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time-limit", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--keep", type=Path, help="folder for the damaged clips, which stay there")
    parser.add_argument("--out", type=Path, help="append one JSON line")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        told = run(options.keep or Path(place), options.count, options.seed, options.time_limit)
    counts = Counter("decoded" if isinstance(what, int) else kind_of(what) for _, what in told)
    reasons = Counter(what for _, what in told if isinstance(what, str))
    for reason, number in reasons.most_common():
        print(f"{number:5}  {reason}")
    print(dict(counts), f"{time.monotonic() - start:.0f} s")
    bad = [(name, what) for name, what in told if isinstance(what, str) and kind_of(what) != "named"]
    for name, what in bad:
        print(f"{name}: {what}")
    if options.out:
        record = {"count": options.count, "seed": options.seed, "results": dict(counts), "reasons": dict(reasons)}
        record |= {"versions": {"av": av.__version__, "python": platform.python_version()}}
        with options.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
