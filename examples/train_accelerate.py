"""Train prompts in a loop of your own with Accelerate: every step is to be seen.

    python examples/train_accelerate.py --model DIR_OR_HUB --data CLIPS --out DIR
    accelerate launch examples/train_accelerate.py --model DIR_OR_HUB --data CLIPS --out DIR --init-weights data

The data folder holds a folder for each class, or train and test folders of these.
"""

import argparse
import math

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from peft import get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForVideoClassification, get_cosine_schedule_with_warmup

from apt_peft import AttentionPromptConfig, initialize_prompts_from_data, prompt_parameter_groups
from apt_peft.evaluation import evaluate
from apt_peft.video import ClipTransform, VideoDataset, read_data


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR_OR_HUB", help="backbone, a VideoMAE")
    parser.add_argument("--data", required=True, metavar="CLIPS", help="folder of clips")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the adapter")
    parser.add_argument("--num-prompt-tokens", type=int, default=100)
    parser.add_argument("--init-weights", choices=["published", "data"], default="published")
    parser.add_argument("--lr", type=float, default=0.1, help="of the prompts")
    parser.add_argument("--head-lr", type=float, default=0.01, help="of the head")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    options = parse()
    accelerator = Accelerator(mixed_precision=options.mixed_precision)
    set_seed(options.seed)

    # Clips: the class names decide on the size of the head.
    data = read_data(options.data)
    base = AutoModelForVideoClassification.from_pretrained(
        options.model,
        id2label=data.id2label,
        label2id={name: label for label, name in data.id2label.items()},
        use_mean_pooling=True,
        ignore_mismatched_sizes=True,
    )
    frames, size = base.config.num_frames, base.config.image_size
    train_set = VideoDataset(
        data.train,
        num_frames=frames,
        transform=ClipTransform(size, augment="flip"),
        training=True,
        seed=options.seed,
    )
    loader = DataLoader(train_set, batch_size=options.batch_size, shuffle=True)

    # The backbone is frozen by get_peft_model; prompts and head are trained.
    start = "data" if options.init_weights == "data" else True
    config = AttentionPromptConfig(num_prompt_tokens=options.num_prompt_tokens, init_weights=start)
    model = get_peft_model(base, config)
    if start == "data":
        initialize_prompts_from_data(model, loader, seed=options.seed)  # before the model is wrapped for processes

    optimizer = torch.optim.AdamW(prompt_parameter_groups(model, lr=options.lr, head_lr=options.head_lr))
    # Accelerate steps the schedule once for each process, and shares the batches out: so count all batches.
    steps = options.epochs * math.ceil(len(train_set) / options.batch_size)
    schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=steps // 10, num_training_steps=steps)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)

    for epoch in range(options.epochs):
        train_set.set_epoch(epoch)
        model.train()
        total = 0.0
        for batch in loader:
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.item()
        accelerator.print(f"epoch {epoch + 1}: loss {total / len(loader):.3f}")

    plain = accelerator.unwrap_model(model)
    if accelerator.is_main_process:
        plain.save_pretrained(options.out)
        print(f"adapter: {options.out}")
        if data.test:
            test_set = VideoDataset(data.test, num_frames=frames, transform=ClipTransform(size))
            names = [clip.name for clip in data.test]
            result = evaluate(plain, test_set, labels=data.labels, names=names, batch_size=options.batch_size)
            print(f"test top-1 {result.top1:.1f} % of {len(names)} clips")
    accelerator.end_training()


if __name__ == "__main__":
    main()
