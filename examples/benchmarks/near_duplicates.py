"""How many altered copies of real clips `apt-peft check` finds, how many different clips it takes for copies, and its growth.

    python examples/benchmarks/near_duplicates.py --clips CLIPS --out docs/results/near_duplicates.jsonl
    python examples/benchmarks/near_duplicates.py --growth --out docs/results/near_duplicates.jsonl

Copies of clips drawn at random are encoded again in each of the ways of WAYS and looked for among all clips of the folder. A
copy is found when it is in a group with its original. Pairs of different clips in a group are counted apart; the folder is
taken to have no copies of its own. `--growth` times the search alone, on made-up clips of the demo's kind of scenes, some of
them altered copies.
"""

import argparse
import io
import json
import random
import time
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import numpy as np

from apt_peft.video.clip import VIDEO_SUFFIXES
from apt_peft.video.examine import examine_and_look
from apt_peft.video.similar import find_alike

SIZES = (10, 100, 1000, 3000, 10000)


def encode(
    frames: list[Any], rate: Fraction, *, crf: str = "28", scale: float = 1, change: Callable | None = None
) -> bytes:
    """Frames as the bytes of an mp4."""
    out = io.BytesIO()
    width, height = (max(2, round(side * scale / 2) * 2) for side in (frames[0].width, frames[0].height))
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": crf, "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(frames):
            new = frame.reformat(width, height, "yuv420p", threads=1)
            if change is not None:
                picture = new.to_ndarray(format="rgb24", threads=1).astype("float32")
                picture = np.clip(change(picture), 0, 255).astype("uint8")
                new = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p", threads=1)
            new.pts, new.time_base, new.pict_type = index, 1 / rate, 0
            container.mux(stream.encode(new))
        container.mux(stream.encode())
    return out.getvalue()


WAYS: dict[str, Callable[[list[Any], Fraction], bytes]] = {
    "encoded again, crf 38": lambda frames, rate: encode(frames, rate, crf="38"),
    "half the size": lambda frames, rate: encode(frames, rate, scale=0.5),
    "8 % cut off the start": lambda frames, rate: encode(frames[-(-len(frames) * 8 // 100) :], rate, scale=0.5),
    "5 % cut off both ends": lambda f, rate: encode(f[-(-len(f) // 20) : len(f) - (-(-len(f) // 20))], rate, scale=0.5),
    "15 % brighter, and lifted": lambda frames, rate: encode(frames, rate, scale=0.5, change=lambda p: 1.15 * p + 12),
    "colours of a warmer light": lambda f, rate: encode(f, rate, scale=0.5, change=lambda p: p * (1.08, 1, 0.92)),
    "half the frame rate": lambda frames, rate: encode(frames[::2], rate / 2, scale=0.5),
}


def decode(path: Path) -> tuple[list[Any], Fraction]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return list(container.decode(stream)), stream.average_rate


def measure(folder: Path, copies: int, seed: int) -> dict[str, Any]:
    """Copies found by way, and pairs of different clips that are taken for copies."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    looks = [examine_and_look(str(path))[1] for path in paths]
    groups = find_alike(looks)
    wrong = sum(1 for group in groups for _ in combinations(group, 2))
    found = dict.fromkeys(WAYS, 0)
    chosen = random.Random(seed).sample(range(len(paths)), min(copies, len(paths)))
    for place in chosen:
        frames, rate = decode(paths[place])
        for way, alter in WAYS.items():
            copy = examine_and_look(alter(frames, rate))[1]
            found[way] += any({place, len(looks)} <= set(group) for group in find_alike([*looks, copy]))
    return {
        "clips": len(paths),
        "copies": len(chosen),
        "found": found,
        "pairs": len(paths) * (len(paths) - 1) // 2,
        "pairs_taken_for_copies": wrong,
        "by_class": len({path.parent for path in paths}),
    }


def made_up(count: int, seed: int) -> list[np.ndarray]:
    """Looks of clips in a few hundred scenes, in each of which other things move; one in a hundred is an altered copy."""
    draw = np.random.default_rng(seed)

    def smooth(*shape: int) -> np.ndarray:
        return np.kron(draw.normal(size=(*shape, 4, 4)), np.ones((4, 4)))

    scenes = 110 + 40 * smooth(300)
    looks: list[np.ndarray] = []
    for index in range(count):
        if index % 100 == 99:
            looks.append(
                np.clip(looks[-50] * 1.05 + draw.normal(size=looks[-50].shape) * 2 + 3, 0, 255).astype("uint8")
            )
            continue
        moving = np.cumsum(smooth(16), axis=0) / np.sqrt(np.arange(1, 17))[:, None, None]
        bright = np.clip(scenes[draw.integers(300)] + moving * draw.uniform(8, 25), 0, 255).reshape(16, -1)
        looks.append(np.concatenate([bright, np.full((16, 128), 128)], axis=1).astype("uint8"))
    return looks


def growth(seed: int) -> list[dict[str, Any]]:
    """Seconds of the search for each size, and copies found."""
    rows = []
    for size in SIZES:
        looks = made_up(size, seed)
        start = time.process_time()
        groups = find_alike(looks)
        seconds = time.process_time() - start
        copies = range(99, size, 100)
        hit = sum(any({place, place - 50} <= set(group) for group in groups) for place in copies)
        rows.append({"clips": size, "seconds": round(seconds, 4), "copies": len(copies), "found": hit})
        print(rows[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder of clips")
    parser.add_argument("--copies", type=int, default=20, help="clips to alter, in each way")
    parser.add_argument("--growth", action="store_true", help="time the search from 10 to 10,000 clips")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="append JSON lines")
    options = parser.parse_args()
    records = []
    if options.clips:
        records.append({"set": options.clips.name} | measure(options.clips, options.copies, options.seed))
        print(json.dumps(records[-1], indent=2))
    if options.growth:
        records.append({"set": "made up", "growth": growth(options.seed), "versions": {"numpy": np.__version__}})
    if options.out:
        with options.out.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)


if __name__ == "__main__":
    main()
