"""What a hot-swap takes against loading the same adapter anew, as a ratio of two sides run in turns in one process.

    python examples/benchmarks/hotswap.py
    python examples/benchmarks/hotswap.py --prompts 100 400 --width 768

Both sides end with another adapter active and the old one gone, its tensors read from a folder: `hotswap_adapter`, and
`load_adapter` under a new name, `set_adapter`, `delete_adapter` of the old. Each round runs both, in an order drawn anew,
and the ratio is the median over rounds of the ratio within a round. No forward is timed, and nothing is compiled.
"""

import argparse
import gc
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import peft
import torch
from peft import PeftModel, get_peft_model
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from apt_peft import AttentionPromptConfig, hotswap_adapter


def backbone(options: argparse.Namespace) -> VideoMAEForVideoClassification:
    torch.manual_seed(0)
    config = VideoMAEConfig(
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        intermediate_size=4 * options.width,
        use_mean_pooling=True,
        num_labels=101,
    )
    return VideoMAEForVideoClassification(config).to(options.device, getattr(torch, options.dtype))


def swapped(model: PeftModel, folder: str, turn: int) -> None:
    hotswap_adapter(model, folder, "turn-0")


def loaded(model: PeftModel, folder: str, turn: int) -> None:
    model.load_adapter(folder, f"turn-{turn + 1}", torch_device=str(model.device))
    model.set_adapter(f"turn-{turn + 1}")
    model.delete_adapter(f"turn-{turn}")


def seconds(run: Callable[[PeftModel, str, int], None], model: PeftModel, folder: str, turn: int) -> float:
    if model.device.type != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run(model, folder, turn)
    if model.device.type != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(options: argparse.Namespace, num_prompt_tokens: int, folder: Path) -> list[dict[str, float]]:
    """Seconds of each side in each round; two rounds before them warm up."""
    adapters = [str(folder / name) for name in ("first", "second")]
    for adapter in adapters:
        config = AttentionPromptConfig(num_prompt_tokens=num_prompt_tokens)
        get_peft_model(backbone(options), config).save_pretrained(adapter)
    sides = {"hotswap": swapped, "load": loaded}
    models = {name: PeftModel.from_pretrained(backbone(options), adapters[0], "turn-0") for name in sides}
    names, order, table = list(sides), random.Random(0), []
    for turn in range(options.rounds + 2):
        order.shuffle(names)
        gc.collect()
        table.append({name: seconds(sides[name], models[name], adapters[(turn + 1) % 2], turn) for name in names})
    check(models)
    return table[2:]


def check(models: dict[str, PeftModel]) -> None:
    """Both sides must have come to the same adapter."""
    ours, theirs = ([p for n, p in m.named_parameters() if "attention_prompt_" in n] for m in models.values())
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[100])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=384, help="384: ViT-S, 768: ViT-B")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="append one JSON line for each ratio")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    setting = f"median of {options.rounds}, {options.device}, {options.dtype}, {options.threads} threads"
    for num_prompt_tokens in options.prompts:
        with tempfile.TemporaryDirectory() as folder:
            table = measure(options, num_prompt_tokens, Path(folder))
        value = statistics.median(row["hotswap"] / row["load"] for row in table)
        times = {name: statistics.median(row[name] for row in table) * 1000 for name in table[0]}
        print(f"P = {num_prompt_tokens}: hotswap / load = {value:.3f}x ({setting})")
        print("milliseconds:", ", ".join(f"{name} {ms:.1f}" for name, ms in times.items()), flush=True)
        if options.out:
            record = {
                **{k: v for k, v in vars(options).items() if k not in ("out", "prompts")},
                "P": num_prompt_tokens,
                "ours": "hotswap_adapter",
                "baseline": "load_adapter, set_adapter, delete_adapter",
                "ratio": round(value, 4),
                "milliseconds": {name: round(ms, 2) for name, ms in times.items()},
                "torch": torch.__version__,
                "peft": peft.__version__,
                "machine": platform.machine(),
            }
            with options.out.open("a") as file:
                file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
