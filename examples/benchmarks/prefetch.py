"""What workers of the data loader and batches read ahead bring, as ratios of epochs that run in turns.

    python examples/benchmarks/prefetch.py CLIPS

CLIPS is a folder of videos. An epoch reads clips (16 frames, 224 pixels, flips) and trains a small VideoMAE on them for a step
a batch; its size is chosen so that a step takes about as long as reading the batch, where reading ahead gains most. Sides differ
in workers (`--workers` of `apt-peft train`), batches that each reads ahead (torch's `prefetch_factor`, 2 unless told), and in
whether workers live on from epoch to epoch, as they do in `apt-peft train`. The baseline is no worker.
"""

import argparse
import json
import platform
import random
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from apt_peft.video import Clip, ClipTransform, VideoDataset
from apt_peft.video.clip import VIDEO_SUFFIXES

BASELINE = (0, None, False)
# Workers, batches read ahead by each, and whether they live on.
SIDES = [BASELINE, (1, 2, True), (1, 2, False), (1, 8, True), (2, 2, True), (2, 8, True)]


def make_model(layers: int) -> nn.Module:
    torch.manual_seed(0)
    return VideoMAEForVideoClassification(
        VideoMAEConfig(
            image_size=224, num_frames=16, hidden_size=96, num_hidden_layers=layers, num_attention_heads=2,
            intermediate_size=192, num_labels=2, use_mean_pooling=True,
        )
    )  # fmt: skip


def step(model: nn.Module, batch: dict) -> float:
    start = time.perf_counter()
    model(pixel_values=batch["pixel_values"], labels=batch["labels"]).loss.backward()
    model.zero_grad()
    return time.perf_counter() - start


def epoch(model: nn.Module, loader: DataLoader, number: int) -> tuple[float, float]:
    """Seconds of an epoch, and those of its steps."""
    loader.dataset.set_epoch(number)
    start = time.perf_counter()
    steps = sum(step(model, batch) for batch in loader)
    return time.perf_counter() - start, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", help="folder of videos")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-clips", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2, help="of the model: how long a step takes")
    parser.add_argument("--out", type=Path, default=Path("docs/results/prefetch.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(path for path in Path(options.clips).rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    paths = random.Random(0).sample(paths, min(options.max_clips, len(paths)))
    clips = [Clip(path, place % 2) for place, path in enumerate(paths)]
    common = {"num_frames": 16, "transform": ClipTransform(224, augment="flip"), "training": True}
    loaders = {}
    for workers, ahead, living in SIDES:
        loaders[workers, ahead, living] = DataLoader(
            VideoDataset(clips, **common), batch_size=options.batch_size, num_workers=workers, prefetch_factor=ahead,
            persistent_workers=living,
        )  # fmt: skip
    model = make_model(options.layers)
    step(model, next(iter(loaders[BASELINE])))
    ratios: dict[tuple, list[float]] = {side: [] for side in SIDES if side != BASELINE}
    shares = []
    for number in range(options.rounds + 1):
        seconds = {}
        for side in random.Random(number).sample(SIDES, len(SIDES)):
            seconds[side], steps = epoch(model, loaders[side], number)
            if side == BASELINE:
                shares.append(steps / seconds[side])
        for side, found in ratios.items():
            if number:  # in the first round, workers that live on are started
                found.append(seconds[side] / seconds[BASELINE])
    with options.out.open("a") as file:
        for (workers, ahead, living), found in ratios.items():
            more = {"workers": workers, "prefetch_factor": ahead, "persistent": living}
            shown = ", ".join(f"{name} {value}" for name, value in more.items())
            ratio = round(statistics.median(found), 3)
            print(f"epoch: ours / no worker = {ratio:.2f}x (median of {len(found)}, cpu, float32, threads 1, {shown})")
            result = {
                "clips": Path(options.clips).name, "videos": len(paths), "kind": "epoch", "ours": "apt", "baseline": "no worker",
                "ratio": ratio, "median_of": len(found), "threads": 1, **more, "batch_size": options.batch_size,
                "step_share": round(statistics.median(shares), 2), "torch": torch.__version__, "machine": platform.machine(),
            }  # fmt: skip
            file.write(json.dumps(result) + "\n")
    print(f"Without workers, steps take {statistics.median(shares):.2f} of an epoch.")


if __name__ == "__main__":
    main()
