"""What augmenting frames as they were decoded costs, and frames that were resized first: clips of a folder, in turns.

    python examples/benchmarks/augment.py --data CLIPS --out docs/results/augment.jsonl

Sides: published augmentation (RandAugment, random resized crop, flip; each clip twice) in full resolution, and on prepared
frames. Both with decoding, as training reads clips, and without it. Rounds and ratios as in speed.py.
"""

import argparse
import json
import platform
from functools import partial
from pathlib import Path

import torch
from speed import measure, ratio

from apt_peft.video import (
    Clip,
    ClipTransform,
    VideoDataset,
    clip_generator,
    probe,
    read_data,
    read_frames,
    sample_frames,
)

SIDES = {"full": True, "prepared": False}


def transform(size: int, full: bool) -> ClipTransform:
    return ClipTransform(
        size,
        augment="flip",
        rand_augment="rand-m4-n2-mstd0.2-inc1",
        random_resized_crop=True,
        full_resolution=full,
    )


def items(dataset: VideoDataset) -> None:
    for index in range(len(dataset)):
        dataset[index]


def augment(made: ClipTransform, decoded: list[torch.Tensor]) -> None:
    for index, frames in enumerate(decoded):
        prepared = made.prepare(frames)
        for view in (0, 1):
            made.finish(prepared, clip_generator(0, 0, index, view))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of clips")
    parser.add_argument("--clips", type=int, default=12, help="so many of them, evenly")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="append one JSON line for each ratio")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    found = read_data(options.data).train
    clips = [Clip(clip.source, 0) for clip in found[:: max(1, len(found) // options.clips)][: options.clips]]
    info = probe(clips[0].source)
    reading, decoded = {}, []
    for clip in clips:
        choose = partial(sample_frames, "dense", num_frames=options.frames, generator=clip_generator(0, 0, 0))
        decoded.append(read_frames(clip.source, choose(probe(clip.source).num_frames)))
    for name, full in SIDES.items():
        made = transform(options.size, full)
        dataset = VideoDataset(
            clips, num_frames=options.frames, transform=made, sampling="dense", training=True, repeats=2
        )
        reading[f"{name}, with decoding"] = partial(items, dataset)
        reading[name] = partial(augment, made, decoded)
    table = measure(reading, options.rounds, "cpu")
    for more in ("", ", with decoding"):
        value = ratio(table, f"full{more}", f"prepared{more}")
        setting = f"median of {options.rounds}, cpu, uint8, {options.threads} threads"
        print(f"{info.width}x{info.height}: full / prepared{more} = {value:.2f}x ({setting})", flush=True)
        if options.out:
            record = {
                **{k: v for k, v in vars(options).items() if k not in ("out", "data")},
                "width": info.width,
                "height": info.height,
                "codec": info.codec,
                "ours": f"full{more}",
                "baseline": f"prepared{more}",
                "ratio": round(value, 3),
                "torch": torch.__version__,
                "machine": platform.machine(),
            }
            with options.out.open("a") as file:
                file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
