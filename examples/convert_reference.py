"""A checkpoint of the reference implementation as a Hugging Face base and a PEFT adapter, and a first forward pass.

    python examples/convert_reference.py checkpoint-99.pth converted --labels labels.txt

Writes converted/base and converted/adapter. `apt-peft convert` does the same from the command line.
"""

import argparse
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForVideoClassification

import apt_peft  # noqa: F401  (makes the method known to PEFT)
from apt_peft.checkpoints import CheckpointOptions, convert_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="the reference's .pth file")
    parser.add_argument("out", type=Path, help="new folder for base and adapter")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes, one a line")
    parser.add_argument("--image-size", type=int, help="pixels, where the file does not tell")
    parser.add_argument("--num-frames", type=int, help="frames of a clip, where the file does not tell")
    options = parser.parse_args()

    labels = options.labels.read_text(encoding="utf-8").splitlines() if options.labels else None
    report = convert_checkpoint(
        options.checkpoint,
        options.out,
        options=CheckpointOptions(labels=labels, image_size=options.image_size, num_frames=options.num_frames),
    )
    print(report.text())

    base = AutoModelForVideoClassification.from_pretrained(options.out / "base")
    base.fc_norm.eps = 1e-6  # the reference's; set it before the adapter copies the norm
    model = PeftModel.from_pretrained(base, options.out / "adapter").eval()
    size, frames = base.config.image_size, base.config.num_frames
    with torch.no_grad():
        logits = model(pixel_values=torch.randn(1, frames, 3, size, size)).logits
    print(f"logits of a random clip: {tuple(logits.shape)}, best label {model.config.id2label[logits.argmax().item()]}")


if __name__ == "__main__":
    main()
