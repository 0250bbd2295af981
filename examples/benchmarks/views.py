"""What a multi-view test costs in decoding: every video once for all its views, or again for each, side by side.

    python examples/benchmarks/views.py --out docs/results/views.jsonl      # the table of docs/benchmarks.md

Sides: `ours` reads a video once and cuts all views out of it (`VideoDataset.test_views`, what `apt-peft evaluate` does).
`published` is the published design: a data set whose items are single views, each of which reads every stride-th frame of the
whole video, resizes all of them, and cuts one window and one crop out. `window` is that design at its best: only the frames of
the view are read. All sides read by the same reader, and their views are checked to be equal.

Per video the sides run in turns, in an order that changes; a ratio is the median over videos of the ratio for one video.
Times end where the pixels of all views are cut; with --normalize-too where they are the floats that a model takes.
"""

import argparse
import json
import platform
import random
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from apt_peft.video import Clip, ClipTransform, VideoDataset, VideoReader, sample_segments


def once(clip: Clip, options: argparse.Namespace) -> list[torch.Tensor]:
    """All views out of one reading."""
    data = VideoDataset(
        [clip],
        num_frames=options.frames,
        transform=ClipTransform(options.image_size),
        sampling="dense",
        frame_stride=options.stride,
        segments=options.segments,
        crops=options.crops,
    )
    views = data.test_views(0)
    return [finished(views.transform, views.cut(place, place + 1), options) for place in range(len(views))]


def published(clip: Clip, options: argparse.Namespace) -> list[torch.Tensor]:
    """Each view by itself: all of the video read, resized, then cut."""
    return each_view(clip, options, whole=True)


def window(clip: Clip, options: argparse.Namespace) -> list[torch.Tensor]:
    """Each view by itself, its own frames alone."""
    return each_view(clip, options, whole=False)


def each_view(clip: Clip, options: argparse.Namespace, *, whole: bool) -> list[torch.Tensor]:
    transform = ClipTransform(options.image_size)
    views = []
    for segment in range(options.segments):
        for crop in range(options.crops):
            wanted: list[int] = []

            def choose(num_frames: int, segment: int = segment, wanted: list[int] = wanted) -> list[int]:
                wanted[:] = sample_segments(
                    "dense", num_frames, options.frames, frame_stride=options.stride, segments=options.segments
                )[segment]
                strided = range(0, num_frames, options.stride)
                return sorted({*wanted, *(strided if whole else ())})

            with VideoReader(clip.source) as video:
                read: list[int] = []
                frames = video.read(lambda count: read.extend(choose(count)) or read)  # noqa: B023
            prepared = transform.prepare(frames)[[read.index(index) for index in wanted]]
            views.append(finished(transform, transform.cut_view(prepared, crop, options.crops)[None], options))
    return views


def finished(transform: ClipTransform, view: torch.Tensor, options: argparse.Namespace) -> torch.Tensor:
    return transform.normalize(view) if options.normalize_too else view.clone()


SIDES: dict[str, Callable[..., list[torch.Tensor]]] = {"ours": once, "published": published, "window": window}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, default=Path("../shared/clips/yoga6"), help="folder of videos")
    parser.add_argument("--every", type=int, default=12, help="take every n-th of them")
    parser.add_argument("--segments", type=int, default=10)
    parser.add_argument("--crops", type=int, default=3)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--normalize-too", action="store_true", help="time the step from pixels to floats as well")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="append one JSON line for each ratio")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    videos = sorted(options.clips.rglob("*.mp4"))[:: options.every]
    order = random.Random(0)
    rows: list[dict[str, float]] = []
    for path in videos:
        clip, times, views = Clip(path), {}, {}
        for name in order.sample(list(SIDES), len(SIDES)):
            begun = time.perf_counter()
            views[name] = SIDES[name](clip, options)
            times[name] = time.perf_counter() - begun
        for name in SIDES:
            assert all(map(torch.equal, views[name], views["ours"])), f"{path}: {name} has other views"
        rows.append(times)
        print(path.name, " ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items()), flush=True)
    what = "decode, resize, cut" + (", normalize" if options.normalize_too else "")
    setting = f"median of {len(rows)} videos, cpu, uint8, {options.threads} threads"
    for baseline in list(SIDES)[1:]:
        value = statistics.median(times["ours"] / times[baseline] for times in rows)
        print(f"{what}, {options.segments} x {options.crops}: ours / {baseline} = {value:.3f}x ({setting})")
        if options.out:
            record = {
                **{k: v for k, v in vars(options).items() if k not in ("out", "clips")},
                "ours": what,
                "baseline": baseline,
                "ratio": round(value, 4),
                "smallest": round(min(times["ours"] / times[baseline] for times in rows), 4),
                "largest": round(max(times["ours"] / times[baseline] for times in rows), 4),
                "seconds_of_ours": round(statistics.median(times["ours"] for times in rows), 3),
                "videos": len(rows),
                "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                "torch": torch.__version__,
                "machine": platform.machine(),
            }
            with options.out.open("a") as file:
                file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
