"""Save an adapter, share it, and load it again in three ways.

    python examples/push_and_load.py --adapter runs/first --out copy --clip clip.mp4
    python examples/push_and_load.py --adapter runs/first --out copy --repo USER/NAME

Without --repo nothing leaves this machine. `apt-peft train --push-to-hub USER/NAME` uploads at the end of a run.
"""

import argparse
import shutil
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForVideoClassification, pipeline

# Importing apt_peft makes the method known to PEFT.
from apt_peft import AutoPeftModelForVideoClassification, ClipProcessor, push_to_hub

# What `apt-peft train` writes beside the weights: the model card, how clips are made, the run's settings.
COMPANIONS = ("README.md", "preprocessor_config.json", "run.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", required=True, metavar="DIR_OR_HUB", help="a trained adapter")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to save a copy of it")
    parser.add_argument("--repo", metavar="USER/NAME", help="upload the copy to this repository and load from there")
    parser.add_argument("--clip", metavar="FILE", help="a video to classify by a pipeline")
    options = parser.parse_args()

    # Save: prompts and head, without the backbone.
    model = AutoPeftModelForVideoClassification.from_pretrained(options.adapter).eval()
    model.save_pretrained(options.out)
    for name in COMPANIONS:
        if (Path(options.adapter) / name).is_file():
            shutil.copy(Path(options.adapter) / name, options.out / name)
    size = (options.out / "adapter_model.safetensors").stat().st_size
    print(f"saved {options.out}: {size / 1e6:.2f} MB of prompts and head")

    # Push.
    place = str(options.out)
    if options.repo:
        address = push_to_hub(options.out, options.repo)
        place = options.repo
        print(f"uploaded: {address}")

    # Load, 1: base and adapter in one call.
    first = AutoPeftModelForVideoClassification.from_pretrained(place).eval()

    # Load, 2: onto a base that is there already; several adapters can share it.
    # A base whose own config pools the first token must be told to pool the mean.
    base = AutoModelForVideoClassification.from_pretrained(
        PeftConfig.from_pretrained(place).base_model_name_or_path, use_mean_pooling=True
    )
    second = PeftModel.from_pretrained(base, place).eval()

    config = model.config
    pixel_values = torch.randn(1, config.num_frames, 3, config.image_size, config.image_size)
    with torch.no_grad():
        expected = model(pixel_values=pixel_values).logits
        for loaded in (first, second):
            torch.testing.assert_close(loaded(pixel_values=pixel_values).logits, expected)
    print(f"both loaded models give the same logits for {list(config.id2label.values())}")

    # Load, 3: a pipeline, which sees the frames that `apt-peft predict` sees.
    if options.clip:
        processor = ClipProcessor.from_pretrained(place)
        classify = pipeline("video-classification", model=place, video_processor=processor)
        for best in classify(options.clip):
            print(f"{100 * best['score']:5.1f} %  {best['label']}")


if __name__ == "__main__":
    main()
