"""What prompts cost in time: forward and training step, as ratios of two sides run in turns in one process.

    python examples/benchmarks/speed.py                       # the table of docs/benchmarks.md
    python examples/benchmarks/speed.py --layers 12 --batch 2 --device cuda --dtype bfloat16

Sides: the bare backbone, attention prompts (this package), LoRA r = 8 on query and value (PEFT's own), full tuning,
and eager attention over concatenated keys and values, which is the published design. Each round runs every side once,
in an order that changes from round to round; a ratio is the median over rounds of the ratio within a round, so that a
busy machine slows both sides alike.
"""

import argparse
import json
import platform
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from apt_peft import AttentionPromptConfig
from apt_peft.cost.measure import forward, ratio, training_step
from apt_peft.cost.measure import in_turns as measure  # mixed_batch.py and augment.py take it from here

HEADS = ["fc_norm", "classifier"]


def backbone(options: argparse.Namespace, implementation: str) -> VideoMAEForVideoClassification:
    torch.manual_seed(0)
    config = VideoMAEConfig(
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        intermediate_size=4 * options.width,
        image_size=options.image_size,
        num_frames=options.frames,
        use_mean_pooling=True,
        num_labels=101,
        attn_implementation=implementation,
    )
    model = VideoMAEForVideoClassification(config)
    return model.to(options.device, getattr(torch, options.dtype))


def sides(options: argparse.Namespace, num_prompt_tokens: int) -> dict[str, torch.nn.Module]:
    prompts = AttentionPromptConfig(num_prompt_tokens=num_prompt_tokens)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], modules_to_save=HEADS)
    return {
        "bare": backbone(options, "sdpa").requires_grad_(False),
        "apt": get_peft_model(backbone(options, "sdpa"), prompts),
        "lora r=8": get_peft_model(backbone(options, "sdpa"), lora),
        "full": backbone(options, "sdpa"),
        "eager concatenation": get_peft_model(backbone(options, "eager"), prompts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384, help="384: ViT-S, 768: ViT-B")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="append one JSON line for each ratio")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    shape = (options.batch, options.frames, 3, options.image_size, options.image_size)
    clips = torch.randn(shape, device=options.device, dtype=getattr(torch, options.dtype))
    setting = f"median of {options.rounds}, {options.device}, {options.dtype}, {options.threads} threads"
    for num_prompt_tokens in options.prompts:
        for kind, build in (("forward", forward), ("training step", training_step)):
            models = sides(options, num_prompt_tokens)
            labels = torch.zeros(options.batch, dtype=torch.long, device=options.device)
            inputs = {"pixel_values": clips, "labels": labels}
            # nothing in the bare backbone trains, and full tuning's forward is the bare one
            del models["bare" if kind == "training step" else "full"]
            table = measure({n: build(m, inputs) for n, m in models.items()}, options.rounds, options.device)
            for baseline in models:
                if baseline == "apt":
                    continue
                value = ratio(table, "apt", baseline)
                print(f"P = {num_prompt_tokens}, {kind}: apt / {baseline} = {value:.2f}x ({setting})", flush=True)
                if options.out:
                    record = {
                        **{k: v for k, v in vars(options).items() if k not in ("out", "prompts")},
                        "P": num_prompt_tokens,
                        "kind": kind,
                        "ours": "apt",
                        "baseline": baseline,
                        "ratio": round(value, 3),
                        "torch": torch.__version__,
                        "transformers": transformers.__version__,
                        "machine": platform.machine(),
                    }
                    with options.out.open("a") as file:
                        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
