"""What docs/scale.md starts from, measured: decoding on one core, predictions on disk, many adapters in one model.

    python examples/benchmarks/scale_measured.py ../shared/clips --out docs/results/scale.jsonl

Prints and appends one JSON line a measurement. Decoding is counted in seconds of CPU time of one thread, which others on the
machine do not change much; the rest are ratios of two sides run in turns, or sizes.
"""

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import torch
from peft import get_peft_model
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from apt_peft import AttentionPromptConfig
from apt_peft.predictions import SCHEMA, Predictions
from apt_peft.video import Clip, ClipTransform, VideoDataset, list_videos


def measure(clips: Path) -> Iterator[dict]:
    machine = {"cpu": cpu_name(), "torch": torch.__version__}
    for folder in sorted(path for path in clips.iterdir() if path.is_dir()):
        for frames, size in ((16, 224), (8, 112)):
            yield {"what": "decode", "clips": folder.name} | decode(folder, frames, size) | machine
    yield {"what": "predictions"} | predictions() | machine
    for found in many_adapters():
        yield {"what": "adapters"} | found | machine


def decode(folder: Path, frames: int, size: int) -> dict:
    """Clips a second that one core turns into tensors: the median of three passes over the same files."""
    videos = list_videos(str(folder))
    dataset = VideoDataset(
        [Clip(path) for path in videos[:: max(1, len(videos) // 40)]], num_frames=frames, transform=ClipTransform(size)
    )
    seconds = []
    for _ in range(3):
        begun = time.process_time()  # of this process, which has one thread: others on the machine do not count
        for index in range(len(dataset)):
            dataset[index]
        seconds.append(time.process_time() - begun)
    megabytes = sum(Path(clip.source).stat().st_size for clip in dataset.clips) / len(dataset) / 1e6
    rates = sorted(round(len(dataset) / each, 2) for each in seconds)
    found = {"frames": frames, "size": size, "files": len(dataset), "megabytes": round(megabytes, 3)}
    return found | {"clips_per_cpu_second": statistics.median(rates), "passes": rates}


def predictions(count: int = 1_000_000, per_file: int = 10_000) -> dict:
    """Bytes of a row of five labels, and the seconds in which a restart finds out what is there."""
    draw = random.Random(0)
    labels = [f"class {index}" for index in range(101)]
    paths = [f"/library/{index % 1000:03}/{draw.getrandbits(64):016x}.mp4" for index in range(count)]
    with tempfile.TemporaryDirectory() as place:
        out = Predictions(place)
        for start in range(0, count, per_file):
            part = paths[start : start + per_file]
            best = [sorted((draw.random() for _ in range(5)), reverse=True) for _ in part]
            named = [draw.sample(labels, 5) for _ in part]
            columns = [part, ["yoga"] * len(part), [names[0] for names in named], [values[0] for values in best]]
            columns += [named, best, [None] * len(part)]
            out.write(pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA))
        size = sum(file.stat().st_size for file in Path(place).iterdir())
        begun = time.perf_counter()
        missing = out.missing(paths, ["yoga"])
        seconds = time.perf_counter() - begun
    assert not missing
    return {"rows": count, "bytes_per_row": round(size / count, 1), "restart_seconds": round(seconds, 1)}


def many_adapters(counts: tuple[int, ...] = (2, 100, 400), rounds: int = 7) -> Iterator[dict]:
    """With so many adapters in a model: the time to add one, to switch, and of a pass that is told its adapter.

    ViT-S, one clip of 16 x 224 x 224, P = 100; the ratios are to a forward pass in the same turn.
    """
    settings = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "use_mean_pooling": True}
    base = VideoMAEForVideoClassification(VideoMAEConfig(**settings, num_labels=101))
    config = AttentionPromptConfig(num_prompt_tokens=100, inference_mode=True)
    model = get_peft_model(base, config, adapter_name="adapter 0").eval()
    clips = torch.randn(1, 16, 3, 224, 224)
    for number in range(1, max(counts)):
        begun = time.perf_counter()
        model.add_adapter(f"adapter {number}", config)
        adding = time.perf_counter() - begun
        if number + 1 not in counts:
            continue
        turns = [one_turn(model, clips, f"adapter {37 * turn % number}") for turn in range(rounds)]
        forward = statistics.median(turn[1] for turn in turns)
        yield {
            "adapters": number + 1,
            "bytes_per_adapter": sum(
                p.numel() * p.element_size() for n, p in model.named_parameters() if ".adapter 0" in n
            ),
            "add_per_forward": round(adding / forward, 4),
            "switch_per_forward": round(statistics.median(turn[0] / turn[1] for turn in turns), 4),
            "told_per_forward": round(statistics.median(turn[2] / turn[1] for turn in turns), 3),
            "forward_seconds": round(forward, 2),
            "rounds": rounds,
        }


@torch.no_grad()
def one_turn(model, clips: torch.Tensor, name: str) -> tuple[float, float, float]:
    """Seconds of switching to an adapter, of a pass with it, and of a pass that is told its name instead."""
    times = [time.perf_counter()]
    model.set_adapter(name)
    times.append(time.perf_counter())
    model(clips)
    times.append(time.perf_counter())
    model(clips, adapter_names=[name])
    times.append(time.perf_counter())
    return times[1] - times[0], times[2] - times[1], times[3] - times[2]


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="a folder of folders of clips")
    parser.add_argument("--out", type=Path, help="append one JSON line a measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for record in measure(options.clips):
        print(json.dumps(record), flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
