"""Build the demo's backbone anew: a small VideoMAE, trained with labels on the task `larger`, stored in float16.

    python -m apt_peft.demo.build_backbone --out apt_peft/demo/backbone

Every clip is drawn once and never again, rendered by the demo's own code. The clips of the task `red` are not seen.
The weights in the repository are the output of this script with its defaults: 1,200 steps in 16 minutes on one thread of
a busy machine, at the end 95 % of directions, 75 % of kinds and 96 % of hues right on clips not seen before. Equal numbers
need the same version of torch and the same kind of processor, since sums are rounded there.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import VideoMAEConfig, VideoMAEModel

from apt_peft.demo import clips

MEAN, STD = 0.3, 0.25
CARD = """---
license: apache-2.0
---

The demo's backbone, a small VideoMAE: trained on clips of moving shapes that `apt_peft.demo.build_backbone` draws.
"""
CONFIG = {
    "image_size": clips.SIZE,
    "patch_size": 8,
    "num_frames": clips.NUM_FRAMES,
    "tubelet_size": 4,
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "layer_norm_eps": 1e-6,
    "use_mean_pooling": True,
}


class _Source(nn.Module):
    """The backbone with a head for each question of the source task."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = VideoMAEModel(VideoMAEConfig(**CONFIG))
        self.norm = nn.LayerNorm(CONFIG["hidden_size"])
        answers = (len(clips.DIRECTIONS), len(clips.KINDS), len(clips.HUES))
        self.heads = nn.ModuleList(nn.Linear(CONFIG["hidden_size"], count) for count in answers)

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        pixels = (frames.permute(0, 1, 4, 2, 3) / 255 - MEAN) / STD
        features = self.norm(self.backbone(pixel_values=pixels).last_hidden_state.mean(1))
        return [head(features) for head in self.heads]


def build(out: Path, steps: int, batch: int, lr: float, seed: int) -> None:
    """Train the backbone and write its config, weights, preprocessor and card.

    Args:
        out: the folder to write.
        steps: optimizer steps.
        batch: clips per step.
        lr: highest learning rate, reached after a tenth of the steps.
        seed: weights and clips are a function of it.
    """
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = _Source()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    right, start = torch.zeros(3), time.perf_counter()
    for step in range(1, steps + 1):
        frames, answers = clips.larger(batch, generator)
        guesses = model(frames)
        loss = torch.stack([F.cross_entropy(*pair) for pair in zip(guesses, answers, strict=True)]).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        right += torch.stack([(guess.argmax(1) == true).sum() for guess, true in zip(guesses, answers, strict=True)])
        if step % 50 == 0 or step == steps:
            direction, kind, hue = 100 * right / (batch * (step % 50 or 50))
            seconds = time.perf_counter() - start
            print(
                f"step {step}: direction {direction:.1f} %, kind {kind:.1f} %, hue {hue:.1f} %, {seconds:.0f} s",
                flush=True,
            )
            right.zero_()
    model.backbone.half().save_pretrained(out)
    # stored in half precision, to be small, and loaded in single precision where nobody asks for another
    config = json.loads((out / "config.json").read_text()) | {"dtype": "float32"}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "README.md").write_text(CARD)
    processor = {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"height": clips.SIZE, "width": clips.SIZE},
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "backbone")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    build(args.out, args.steps, args.batch, args.lr, args.seed)


if __name__ == "__main__":
    main()
