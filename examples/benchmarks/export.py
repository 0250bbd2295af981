"""What an exported model takes: ONNX against PyTorch, folded prompts against unfolded ones, as ratios.

    python examples/benchmarks/export.py                       # the table of docs/benchmarks.md
    python examples/benchmarks/export.py --sizes vit-s --prompts 400 --threads 8

Sides of a forward pass, on the CPU: eager PyTorch with the prompts' factors as trained and with them folded; the folded
model as ONNX in onnxruntime, with standard operators and with onnxruntime's own attention. All get the same number of
threads. Each round runs every side once, in an order drawn anew; a ratio is the median over rounds of the ratio within a
round, so that a busy machine slows both sides alike. Before that, each side's logits are compared.
"""

import argparse
import copy
import gc
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
import transformers
from peft import get_peft_model
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from apt_peft import AttentionPromptConfig
from apt_peft.export import OnnxSession, export_program, save_onnx
from apt_peft.export.onnx import OPERATORS

# name: width, layers, heads, frames, image size, patch size, tubelet size, prompts
SIZES = {
    "vit-s": (384, 6, 6, 16, 224, 16, 2, 100),
    "demo": (128, 6, 2, 8, 48, 8, 4, 16),
}


def build(size: str, num_prompt_tokens: int | None) -> tuple[torch.nn.Module, tuple[int, ...], int]:
    """A model of random weights with factors away from 1, the shape of one clip, and its number of prompts."""
    width, layers, heads, frames, pixels, patch, tubelet, prompts = SIZES[size]
    torch.manual_seed(0)
    config = VideoMAEConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        image_size=pixels,
        patch_size=patch,
        num_frames=frames,
        tubelet_size=tubelet,
        use_mean_pooling=True,
        num_labels=101,
    )
    prompts = num_prompt_tokens or prompts
    settings = AttentionPromptConfig(num_prompt_tokens=prompts, init_weights=False)
    model = get_peft_model(VideoMAEForVideoClassification(config), settings)
    return model.eval().requires_grad_(False), (frames, 3, pixels, pixels), prompts


def sides(model: torch.nn.Module, shape: tuple[int, ...], folder: Path) -> dict[str, Callable[[Tensor], Tensor]]:
    folded = copy.deepcopy(model)
    folded.base_model.fold_reparameterization()
    program = export_program(folded, torch.zeros(1, *shape))
    runs = {
        "unfolded": torch.no_grad()(lambda x: model(x).logits),
        "folded": torch.no_grad()(lambda x: folded(x).logits),
    }
    for operators in OPERATORS:
        save_onnx(program, folder / f"{operators}.onnx", operators=operators)
        runs[f"ONNX, {operators}"] = OnnxSession(folder / f"{operators}.onnx")
    return runs


def check(runs: dict[str, Callable[[Tensor], Tensor]], clips: Tensor) -> None:
    wanted = runs["unfolded"](clips)
    for name, run in runs.items():
        difference = float((run(clips) - wanted).abs().max() / wanted.abs().max())
        assert difference < 1e-4, f"{name} differs by {difference:.1e}"


def measure(runs: dict[str, Callable[[Tensor], Tensor]], clips: Tensor, rounds: int) -> list[dict[str, float]]:
    """Seconds of each side in each round."""
    names, order, table = list(runs), random.Random(0), []
    for _ in range(rounds):
        order.shuffle(names)
        gc.collect()
        row = {}
        for name in names:
            start = time.perf_counter()
            runs[name](clips)
            row[name] = time.perf_counter() - start
        table.append(row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--prompts", type=int, help="P (default: 100 for vit-s, 16 for demo)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="append one JSON line for each ratio")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pairs = [(f"ONNX, {name}", "folded") for name in OPERATORS] + [("folded", "unfolded")]
    setting = f"median of {options.rounds}, cpu, float32, {options.threads} threads"
    for size in options.sizes:
        model, shape, prompts = build(size, options.prompts)
        with tempfile.TemporaryDirectory() as folder:
            runs = sides(model, shape, Path(folder))
            for batch in options.batches:
                clips = torch.randn(batch, *shape)
                check(runs, clips)
                table = measure(runs, clips, options.rounds)
                for ours, baseline in pairs:
                    ratio = statistics.median(row[ours] / row[baseline] for row in table)
                    print(
                        f"{size}, P = {prompts}, batch {batch}: {ours} / {baseline} = {ratio:.2f}x ({setting})",
                        flush=True,
                    )
                    if options.out:
                        record = {
                            "size": size,
                            "P": prompts,
                            "batch": batch,
                            "ours": ours,
                            "baseline": baseline,
                            "ratio": round(ratio, 3),
                            "rounds": options.rounds,
                            "threads": options.threads,
                            "dtype": "float32",
                            "torch": torch.__version__,
                            "transformers": transformers.__version__,
                            "onnxruntime": onnxruntime.__version__,
                            "machine": platform.machine(),
                        }
                        with options.out.open("a") as file:
                            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
