"""Score a library of videos by several adapters with Ray Data, into Parquet; started again, it goes on where it was.

    python examples/predict_ray.py clips --adapter yoga=runs/yoga --adapter ball=runs/ball --out predictions
    python examples/predict_ray.py s3://bucket/list.parquet --adapter yoga=USER/NAME --out s3://bucket/out --address auto

LIBRARY is a folder of videos, a text file of paths, or Parquet with a column of paths; it, the videos and --out may lie
wherever fsspec reaches. Each clip is decoded as the adapters' run.json says, once where they agree, and scored by every
adapter: a row each, with the best labels and their probabilities, or with an error. How it behaves: docs/scale.md.
"""

import argparse
import math
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from apt_peft import AptError, ConfigError
from apt_peft.predictions import SCHEMA, Predictions
from apt_peft.scoring import Adapter, ScoringSettings, open_adapters
from apt_peft.training.clips import ClipSettings
from apt_peft.video import list_videos

CLIPS_PER_TASK = 32  # at most, that a decoder gets at once


class Reader:
    """Decodes, in a process of its own that a broken file may take down or block."""

    def __init__(self, kinds: list[dict]) -> None:
        # Imported here, that the process which watches over this one stays small, and before the first file's time runs.
        import av  # noqa: F401
        import torchvision.transforms.v2.functional  # noqa: F401

        from apt_peft.training.clips import ClipSettings
        from apt_peft.training.datasets import video_dataset
        from apt_peft.video import Clip, video_source

        self.dataset = lambda path, kind: video_dataset([Clip(video_source(path))], kind)
        self.kinds = [ClipSettings.from_dict(kind) for kind in kinds]

    def read(self, path: str) -> list[np.ndarray] | str:
        """float32 (views, T, C, height, width) for each kind of clip, or what is wrong with the file."""
        try:
            return [self.dataset(path, kind)[0]["pixel_values"].numpy() for kind in self.kinds]
        except Exception as error:  # a file must not end the run, whatever it provokes
            return str(error) if str(error).startswith("video (") else f"{type(error).__name__}: {error}"


class Decode:
    """Paths -> frames or an error; watches over a Reader."""

    def __init__(self, kinds: list[dict], timeout: float) -> None:
        self.kinds, self.timeout, self.reader = kinds, timeout, None

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, list | np.ndarray]]:
        for path in batch["path"]:
            found = self.read(path)
            error = found if isinstance(found, str) else ""
            if error:  # a column has one shape
                sizes = [(k["segments"] * k["crops"], k["num_frames"], 3, k["size"], k["size"]) for k in self.kinds]
                found = [np.zeros(size, "float32") for size in sizes]
            yield {"path": [path], "error": [error]} | {f"kind{n}": clip[None] for n, clip in enumerate(found)}

    def read(self, path: str) -> list[np.ndarray] | str:
        for _ in range(2):
            reader = self.reader = self.reader or self.start()
            try:
                return ray.get(reader.read.remote(path), timeout=self.timeout)
            except ray.exceptions.GetTimeoutError:
                ray.kill(reader)
                self.reader = None
                return f"video ({path}) must be decoded in {self.timeout:g} seconds, but was not. Raise --timeout."
            except ray.exceptions.RayActorError:  # it crashed, or something else took the process: once more
                self.reader = None
        return f"video ({path}) must be a readable video file, but decoding it ended the process, twice."

    def start(self):
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        reader = ray.remote(num_cpus=0, scheduling_strategy=here)(Reader).remote(self.kinds)
        ray.get(reader.__ray_ready__.remote())
        return reader


class Score:
    """Frames -> a row for each clip and adapter; the backbone is loaded once."""

    def __init__(self, flags: dict[str, ScoringSettings], top_k: int) -> None:
        self.adapters, self.top_k = open_adapters(flags), top_k
        self.kinds = kinds_of(self.adapters)

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        clips = zip(batch["path"], batch["error"], strict=True)
        rows = [{"path": path, "adapter": name, "error": e or None} for path, e in clips for name in self.adapters]
        read = np.flatnonzero(batch["error"] == "")
        for offset, adapter in enumerate(self.adapters.values()) if len(read) else ():
            frames = torch.from_numpy(batch[f"kind{self.kinds.index(adapter.clips)}"][read])
            best = adapter.score(frames).topk(len(adapter.labels[: self.top_k or None]), dim=1)
            for place, values, indices in zip(read, best.values.tolist(), best.indices.tolist(), strict=True):
                labels = [adapter.labels[index] for index in indices]
                found = {"label": labels[0], "probability": values[0], "labels": labels, "probabilities": values}
                rows[place * len(self.adapters) + offset] |= found
        return pa.Table.from_pylist(rows, schema=SCHEMA)


def kinds_of(adapters: dict[str, Adapter]) -> list[ClipSettings]:
    """The different ways to make clips that the adapters ask for."""
    return list(dict.fromkeys(adapter.clips for adapter in adapters.values()))


def score(paths: list[str], flags: dict, opened: dict[str, Adapter], options) -> Iterator[pa.Table]:
    """The rows of some videos, a few videos at a time."""
    cpus, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
    scorers = options.scorers or max(1, gpus)
    decoders = options.decoders or max(1, cpus - scorers)
    kinds = kinds_of(opened)
    most = max(adapter.batch_size for adapter in opened.values())
    together = max(1, most // max(kind.segments * kind.crops for kind in kinds))
    step = min(CLIPS_PER_TASK, math.ceil(len(paths) / (4 * decoders)))
    tasks = [pa.table({"path": paths[start : start + step]}) for start in range(0, len(paths), step)]
    pool = ray.data.ActorPoolStrategy
    decode = {"compute": pool(size=decoders), "num_cpus": 1, "batch_size": None}
    scorer = {"compute": pool(size=scorers), "num_cpus": 1, "num_gpus": min(1, gpus / scorers), "batch_size": together}
    data = ray.data.from_arrow(tasks)
    data = data.map_batches(Decode, fn_constructor_args=[[kind.as_dict() for kind in kinds], options.timeout], **decode)
    data = data.map_batches(Score, fn_constructor_args=[flags, options.top_k], **scorer)
    yield from data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def run(options: argparse.Namespace) -> None:
    named = dict(text.partition("=")[::2] for text in options.adapter)
    if len(named) < len(options.adapter) or not all(named) or not all(named.values()):
        raise ConfigError(
            f"--adapter ({', '.join(options.adapter)}) must be NAME=DIR_OR_HUB, each with a name of its own."
        )
    shared = {"model": whole(options.model), "batch_size": options.batch_size}
    flags = {name: ScoringSettings(adapter=whole(place), **shared) for name, place in named.items()}
    # Opened here too: what is wrong is told before processes start, and how clips are made is known.
    opened = open_adapters({name: replace(each, device="cpu") for name, each in flags.items()})
    paths, out = list_videos(options.library, column=options.column), Predictions(options.out)
    out.check(opened)
    if options.retry_errors:
        out.drop_errors()
    missing = out.missing(paths, list(flags))
    print(f"{len(paths)} videos, {sum(map(len, missing.values()))} of them to score", flush=True)
    if not missing:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = {"num_cpus": max(2, options.cpus or os.cpu_count() or 2), "include_dashboard": False}
    local |= {"object_store_memory": int(options.object_store_gb * 1e9)}
    ray.init(options.address, log_to_driver=False, **(local if options.address == "local" else {}))
    ray.data.DataContext.get_current().enable_progress_bars = False
    for names, lacking in missing.items():
        parts = [{name: each[name] for name in names} for each in (flags, opened)]
        for rows in out.write_all(score(lacking, *parts, options), rows_per_file=options.rows_per_file):
            print(f"{rows} rows written", flush=True)
    ray.shutdown()


def whole(name: str | None) -> str | None:
    """A folder by its whole path, since processes may start elsewhere; a name on the Hub as it is."""
    return os.path.abspath(name) if name and os.path.isdir(name) else name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("library", metavar="LIBRARY", help="videos: a folder, a text file of paths, or Parquet")
    add("--adapter", action="append", required=True, metavar="NAME=DIR_OR_HUB", help="may be given several times")
    add("--out", required=True, metavar="DIR", help="folder of the Parquet files")
    add("--model", metavar="DIR_OR_HUB", help="backbone (default: the one the adapters name)")
    add("--column", default="path", help="of Parquet")
    add("--top-k", type=int, default=5, help="labels to keep (default: 5; 0: all)")
    add("--batch-size", type=int, help="clips x views of one forward pass (default: training's)")
    add("--timeout", type=float, default=120, metavar="SECONDS", help="for decoding one file (default: 120)")
    add("--retry-errors", action="store_true", help="score clips again whose row has an error")
    add("--address", default="local", help="of a Ray cluster (default: processes of this machine, for this run)")
    add("--cpus", type=int, help="of this machine to use (default: all)")
    add("--object-store-gb", type=float, default=1, help="of this machine for frames on their way (default: 1)")
    add("--scorers", type=int, help="processes with a model (default: one for each GPU, or one)")
    add("--decoders", type=int, help="processes that decode (default: the CPUs that scorers leave)")
    add("--rows-per-file", type=int, default=10_000, help="that are enough for a file before a minute is over")
    try:
        run(parser.parse_args())
    except AptError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
