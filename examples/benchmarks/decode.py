"""What reading clips costs, as ratios of two sides run in turns in one process.

    python examples/benchmarks/decode.py CLIPS        # against decord, torchcodec and decoding everything
    python examples/benchmarks/decode.py CLIPS --threads 0             # with all threads of the machine
    python examples/benchmarks/decode.py CLIPS --cache FOLDER          # an epoch of the data loader from the cache
    python examples/benchmarks/decode.py CLIPS --exact                 # is every clip read as a full decode shows it?

CLIPS is a folder of videos. Reading: 16 frames over the whole video (sparse), 16 at stride 4 at a random place (dense), and
every 4th frame (test). Each round reads one clip by every side, in an order that changes from round to round; a ratio is
the median over rounds. decord comes from `pip install eva-decord`; clips that it cannot read are counted and left out.
torchcodec is our reader with `decoder="torchcodec"`, and left out where it does not load.
"""

import argparse
import json
import platform
import random
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from torch.utils.data import DataLoader

from apt_peft.errors import AptError
from apt_peft.video import Clip, ClipTransform, FrameCache, VideoDataset, VideoReader, probe, sample_frames
from apt_peft.video.backends import DECODERS, choose_decoder
from apt_peft.video.clip import VIDEO_SUFFIXES

FRAMES, STRIDE = 16, 4


def indices_of(kind: str, count: int, draw: random.Random) -> list[int]:
    if kind == "sparse":
        return sample_frames("even", count, FRAMES)
    if kind == "test":
        return list(range(0, count, STRIDE))
    start = draw.randrange(max(count - (FRAMES - 1) * STRIDE, 1))
    return [min(start + step * STRIDE, count - 1) for step in range(FRAMES)]


def readers(threads: int) -> dict[str, Callable[[str, list[int]], np.ndarray]]:
    def ours(path: str, indices: list[int]) -> np.ndarray:
        with VideoReader(path, num_threads=threads) as video:
            return video.read(indices).numpy()

    def everything(path: str, indices: list[int]) -> np.ndarray:
        found = {}
        with av.open(path) as container:
            container.streams.video[0].codec_context.thread_count = threads
            container.streams.video[0].codec_context.thread_type = "NONE" if threads == 1 else "AUTO"
            for index, frame in enumerate(container.decode(video=0)):
                if index in indices:
                    found[index] = frame.to_ndarray(format="rgb24", threads=threads)
        return np.stack([found[index] for index in indices])

    def decord_reader(path: str, indices: list[int]) -> np.ndarray:
        import decord

        return decord.VideoReader(path, num_threads=threads).get_batch(indices).asnumpy()

    def torchcodec(path: str, indices: list[int]) -> np.ndarray:
        with VideoReader(path, num_threads=threads, decoder="torchcodec") as video:
            return video.read(indices).numpy()

    sides = {"ours": ours, "full decode": everything, "decord": decord_reader}
    try:
        choose_decoder("torchcodec")
    except AptError as error:
        print(f"without torchcodec: {error}")
        return sides
    return sides | {"torchcodec": torchcodec}


def reading(options: argparse.Namespace, paths: list[str]) -> list[dict]:
    sides, draw = readers(options.threads), random.Random(0)
    ratios: dict[tuple[str, str], list[float]] = {}
    apart: dict[str, list[float]] = {side: [] for side in sides if side != "ours"}
    failed = set()
    for path in paths * options.rounds:
        count = probe(path).num_frames
        for kind in ("sparse", "dense", "test"):
            indices, seconds, frames = indices_of(kind, count, draw), {}, {}
            for side in draw.sample(list(sides), len(sides)):
                start = time.perf_counter()
                try:
                    frames[side] = sides[side](path, indices)
                except Exception:  # decord has an error class of its own
                    if side != "decord":
                        raise
                    failed.add(path)
                    continue
                seconds[side] = time.perf_counter() - start
            for side in apart:
                if side in frames and frames[side].shape == frames["ours"].shape:
                    ratios.setdefault((kind, side), []).append(seconds["ours"] / seconds[side])
                    difference = np.abs(frames[side].astype(np.int16) - frames["ours"])
                    apart[side].append(float(difference.mean()))
    return [
        record(kind, side, values, threads=options.threads, mean_difference=round(max(apart[side]), 4),
               baseline_failed=len(failed) if side == "decord" else 0)
        for (kind, side), values in ratios.items()
    ]  # fmt: skip


def epoch(dataset: VideoDataset, number: int) -> float:
    dataset.set_epoch(number)
    start = time.perf_counter()
    for _ in DataLoader(dataset, batch_size=8, collate_fn=list):
        pass
    return time.perf_counter() - start


def caching(options: argparse.Namespace, paths: list[str]) -> list[dict]:
    records = []
    for sampling in ("even", "dense"):
        for format in ("raw", "jpeg"):
            folder = Path(options.cache) / f"{sampling}-{format}"
            common = {
                "num_frames": options.num_frames,
                "transform": ClipTransform(options.size, augment="flip"),
                "sampling": sampling,
                "training": True,
            }
            clips = [Clip(path, 0) for path in paths]
            plain = VideoDataset(clips, **common)
            cached = VideoDataset(clips, **common, cache=FrameCache(folder, format=format))
            first = epoch(cached, 0) / epoch(plain, 0)
            ratios = []
            for number in range(1, options.rounds + 1):
                both = {}
                for side in random.Random(number).sample([plain, cached], 2):
                    both[side is cached] = epoch(side, number)
                ratios.append(both[True] / both[False])
            kept = sum(path.stat().st_size for path in folder.glob("*.frames"))
            videos = sum(Path(path).stat().st_size for path in paths)
            records.append(
                record(f"epoch, {sampling}", "no cache", ratios, threads=1, format=format, first_epoch=round(first, 3),
                       size=options.size, num_frames=options.num_frames, bytes_per_video_byte=round(kept / videos, 2))
            )  # fmt: skip
            shutil.rmtree(folder)
    return records


def exact(paths: list[str], decoder: str) -> None:
    draw, wrong, decoders = random.Random(0), [], Counter()
    for path in paths:
        with av.open(path) as container:
            whole = [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]
        indices = sorted(draw.sample(range(len(whole)), min(12, len(whole))))
        with VideoReader(path, decoder=decoder) as video:
            same = video.num_frames == len(whole) and np.array_equal(
                video.read(indices).numpy(), [whole[index] for index in indices]
            )
            decoders[video.decoder] += 1
        wrong += [] if same else [path]
    same = f"{len(paths) - len(wrong)} of {len(paths)} clips are read as a full decode shows them"
    print(f"{same}, decoded by {dict(decoders)}. {wrong or ''}")


def record(kind: str, baseline: str, ratios: list[float], **more: object) -> dict:
    result = {
        "kind": kind, "ours": "apt", "baseline": baseline, "ratio": round(statistics.median(ratios), 3),
        "median_of": len(ratios), **more, "av": av.__version__, "torch": torch.__version__, "machine": platform.machine(),
    }  # fmt: skip
    shown = ", ".join(f"{name} {value}" for name, value in more.items())
    print(
        f"{kind}: ours / {baseline} = {result['ratio']:.2f}x (median of {len(ratios)}, cpu, uint8, {shown})", flush=True
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", help="folder of videos")
    parser.add_argument("--threads", type=int, default=1, help="of the decoder; 0: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-clips", type=int, default=10**9)
    parser.add_argument("--cache", help="an empty folder: measure epochs of the data loader")
    parser.add_argument("--num-frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--exact", action="store_true", help="compare frames instead of measuring")
    parser.add_argument("--decoder", default="auto", choices=DECODERS, help="of --exact")
    parser.add_argument("--out", type=Path, default=Path("docs/results/decode.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(str(path) for path in Path(options.clips).rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    paths = random.Random(0).sample(paths, min(options.max_clips, len(paths)))
    if options.exact:
        return exact(paths, options.decoder)
    records = caching(options, paths) if options.cache else reading(options, paths)
    with options.out.open("a") as file:
        for line in records:
            file.write(json.dumps({"clips": Path(options.clips).name, "videos": len(paths)} | line) + "\n")


if __name__ == "__main__":
    main()
