"""What an adapter for each sample costs, and what folding the scales saves: forward passes, as ratios in one process.

    python examples/benchmarks/mixed_batch.py --out docs/results/mixed_batch.jsonl

Sides: a batch with one adapter, active as usual; the same batch with a different adapter for each sample, all with as many
prompts; the same with numbers of prompts that differ (the first side's at most), which are padded and masked; and the first
side with its scales folded into the prompts. Each adapter has a head of its own. Rounds and ratios as in speed.py.
"""

import argparse
import json
import platform
from functools import partial
from pathlib import Path

import torch
import transformers
from peft import PeftModel, get_peft_model
from speed import backbone, measure, ratio

from apt_peft import AttentionPromptConfig


def adapters(options: argparse.Namespace, counts: list[int]) -> PeftModel:
    model = get_peft_model(backbone(options, "sdpa"), AttentionPromptConfig(num_prompt_tokens=counts[0]), "adapter_0")
    for index, count in enumerate(counts[1:], 1):
        model.add_adapter(f"adapter_{index}", AttentionPromptConfig(num_prompt_tokens=count))
    return model.eval()


@torch.no_grad()
def forward(model: PeftModel, clips: torch.Tensor, **names: list[str]) -> None:
    model(clips, **names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384, help="384: ViT-S, 768: ViT-B")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="append one JSON line for each ratio")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    shape = (options.batch, options.frames, 3, options.image_size, options.image_size)
    clips = torch.randn(shape, device=options.device, dtype=getattr(torch, options.dtype))
    names = [f"adapter_{index}" for index in range(options.batch)]
    for most in options.prompts:
        alike = adapters(options, [most] * options.batch)
        differing = adapters(options, [most * (index + 1) // options.batch for index in range(options.batch)])
        folded = adapters(options, [most])
        folded.fold_reparameterization()
        runs = {
            "one adapter": partial(forward, alike, clips),
            "an adapter for each sample": partial(forward, alike, clips, adapter_names=names),
            "an adapter for each sample, P differs": partial(forward, differing, clips, adapter_names=names),
            "one adapter, folded": partial(forward, folded, clips),
        }
        table = measure(runs, options.rounds, options.device)
        setting = f"median of {options.rounds}, {options.device}, {options.dtype}, {options.threads} threads"
        for ours in list(runs)[1:]:
            value = ratio(table, ours, "one adapter")
            print(f"P = {most}, batch {options.batch}: {ours} / one adapter = {value:.3f}x ({setting})", flush=True)
            if options.out:
                record = {
                    **{k: v for k, v in vars(options).items() if k not in ("out", "prompts")},
                    "P": most,
                    "ours": ours,
                    "baseline": "one adapter",
                    "ratio": round(value, 3),
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                    "machine": platform.machine(),
                }
                with options.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
