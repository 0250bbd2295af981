"""The arithmetic of docs/scale.md, from inputs that you may replace.

    python examples/benchmarks/scale.py                                   # the tables of docs/scale.md
    python examples/benchmarks/scale.py --gpu-tflops 90 --decode-clips 20 --clips 1e6 --gpu-price 1.5 --core-price 0.04

Formulas only, no model is made. Inputs that scale_measured.py did not measure are assumptions, and called so in the page.
"""

import argparse
from dataclasses import dataclass

FLOAT32, FLOAT16 = 4, 2  # bytes


@dataclass(frozen=True)
class Backbone:
    """A plain VideoMAE: patches of 16 x 16 pixels, tubelets of 2 frames, heads of 64."""

    width: int
    layers: int
    frames: int = 16
    size: int = 224

    @property
    def tokens(self) -> int:
        return (self.frames // 2) * (self.size // 16) ** 2

    @property
    def parameters(self) -> int:
        """Without a head: patches, layers (key has no bias), norm; positions are not learned."""
        patches = 3 * 2 * 16 * 16 * self.width + self.width
        layer = 12 * self.width**2 + (2 + 1 + 4 + 1 + 4) * self.width
        return patches + self.layers * layer

    def macs(self, prompts: int = 0) -> int:
        """Multiply-adds of one clip: projections and MLP 12 N W^2, attention 2 N (N + P) W, in each layer; patches once."""
        n, w = self.tokens, self.width
        return self.layers * (12 * n * w**2 + 2 * n * (n + prompts) * w) + n * w * 3 * 2 * 16 * 16

    def adapter(self, prompts: int, labels: int) -> tuple[int, int]:
        """Numbers of an adapter: prompt keys, values and scales; head and the norm before it."""
        return self.layers * (2 * prompts * 64 + 2 * prompts), self.width * labels + labels + 2 * self.width

    @property
    def activations(self) -> int:
        """Numbers that a layer holds at once for one clip without gradients, roughly: 10 N W (input, q, k, v, MLP)."""
        return 10 * self.tokens * self.width

    @property
    def clip(self) -> int:
        """Numbers of a clip."""
        return self.frames * 3 * self.size**2


BACKBONES = {"ViT-S": Backbone(384, 12), "ViT-B": Backbone(768, 12)}


def table(*rows: tuple) -> str:
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def digits(value: float) -> str:
    """Three digits that count."""
    return f"{float(f'{value:.3g}'):,.10g}"


def data(size: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{digits(size / factor)} {unit}"
    return f"{digits(size / 1e3)} kB"


def adapters_table(options: argparse.Namespace) -> str:
    rows = []
    for name, backbone in BACKBONES.items():
        for prompts in (1, 20, 100, 400):
            own, head = backbone.adapter(prompts, options.labels)
            more = backbone.macs(prompts) / backbone.macs() - 1
            whole = (own + head) * FLOAT32
            many = data(options.adapters * whole)
            rows.append((name, prompts, f"{own:,}", f"{head:,}", data(whole), many, f"+{100 * more:.2g} %"))
    return table(("backbone", "P", "prompts", "head", "file", f"{options.adapters:,} of them", "multiply-adds"), *rows)


def storage_table(options: argparse.Namespace) -> str:
    n, per = int(options.clips), options.clip_mb * 1e6
    square = BACKBONES["ViT-B"].clip
    rows = [
        ("videos", f"m = {options.clip_mb:g} MB, an assumption", data(per), data(n * per)),
        ("prepared frames, squashed", "T x 3 x 224 x 224 bytes", data(square), data(n * square)),
        ("prepared frames, cropped later", "16 : 9 of that", data(square * 16 / 9), data(n * square * 16 / 9)),
        ("predictions, 5 labels", "measured", f"{options.row_bytes:g} B", data(n * options.row_bytes)),
    ]
    return table(("what", "bytes a clip", "one", f"{n:,}"), *rows)


def throughput(backbone: Backbone, options: argparse.Namespace, adapters: int = 1) -> float:
    """Clips a second that a GPU scores by a number of adapters."""
    return options.gpu_tflops * 1e12 * options.utilisation / (2 * backbone.macs(options.prompts) * adapters)


def speed_table(options: argparse.Namespace) -> str:
    rows = []
    for name, backbone in BACKBONES.items():
        for adapters in (1, 4, 16):
            rate, macs = throughput(backbone, options, adapters), backbone.macs(options.prompts)
            cores, hours = rate / options.decode_clips, options.clips / rate / 3600
            frames = data(rate * backbone.clip * FLOAT32)
            rows.append(
                (name, f"{macs / 1e9:.1f} G", adapters, digits(rate), digits(cores), f"{frames}/s", digits(hours))
            )
    head = (
        "backbone",
        "MACs a clip",
        "adapters",
        "clips/s of a GPU",
        "cores to feed it",
        "frames",
        "hours for all clips",
    )
    return table(head, *rows)


def memory_table(options: argparse.Namespace) -> str:
    rows = []
    for name, backbone in BACKBONES.items():
        each = sum(backbone.adapter(options.prompts, options.labels)) * FLOAT16
        base = backbone.parameters * FLOAT16
        work = options.batch * (backbone.activations * FLOAT16 + backbone.clip * FLOAT32)
        room = options.gpu_gb * 1e9 * 0.9 - base - work
        rows.append((name, data(base), data(work), data(each), f"{int(room / each):,}"))
    return table(("backbone", "base", f"work, batch {options.batch}", "an adapter", "adapters that fit"), *rows)


def cost_table(options: argparse.Namespace) -> str:
    gpu, core = (price is not None for price in (options.gpu_price, options.core_price))
    rows = []
    for name, backbone in BACKBONES.items():
        for adapters in (1, 16):
            gpu_hours = options.clips / throughput(backbone, options, adapters) / 3600
            core_hours = options.clips / options.decode_clips / 3600
            cost = f"{digits(gpu_hours)} g + {digits(core_hours)} c"
            if gpu and core:
                cost += f" = {digits(gpu_hours * options.gpu_price + core_hours * options.core_price)}"
            rows.append((name, adapters, digits(gpu_hours), digits(core_hours), cost))
    return table(("backbone", "adapters", "GPU hours", "core hours", "cost"), *rows)


TABLES = {
    "Adapters": adapters_table,
    "Storage": storage_table,
    "Speed": speed_table,
    "Memory": memory_table,
    "Cost": cost_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--clips", type=float, default=10_000_000, help="in the library (default: 10,000,000)")
    add("--clip-mb", type=float, default=1.0, help="megabytes of a video; assumed: 1")
    add("--labels", type=int, default=101, help="classes of an adapter (default: 101)")
    add("--prompts", type=int, default=100, help="P of speed, memory and cost (default: 100)")
    add("--adapters", type=int, default=1000, help="to store (default: 1000)")
    add(
        "--decode-clips", type=float, default=6.82, help="clips/s that one core decodes; measure yours (default: yoga6)"
    )
    add("--row-bytes", type=float, default=64, help="bytes of a prediction (default: measured)")
    add("--gpu-tflops", type=float, default=300, help="dense half-precision TFLOPS by the data sheet; assumed: 300")
    add("--utilisation", type=float, default=0.4, help="part of these that a forward pass reaches; assumed: 0.4")
    add("--gpu-gb", type=float, default=40, help="memory of the GPU; assumed: 40")
    add("--batch", type=int, default=64, help="clips of a forward pass (default: 64)")
    add("--gpu-price", type=float, help="of one GPU for an hour, in your money")
    add("--core-price", type=float, help="of one CPU core for an hour, in your money")
    options = parser.parse_args()
    for title, make in TABLES.items():
        print(f"{title}\n\n{make(options)}\n")


if __name__ == "__main__":
    main()
