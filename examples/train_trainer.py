"""Train prompts with a Trainer of your own, on a folder of clips.

    python examples/train_trainer.py --model DIR_OR_HUB --data CLIPS --out DIR
    python examples/train_trainer.py --model DIR_OR_HUB --data CLIPS --out DIR --resume

`apt-peft train` does all this and more (validation, a model card). Copy this file where you want to own the Trainer:
other losses, callbacks, loggers. What is this package's here: the config, two learning rates by
`prompt_parameter_groups`, and clips that depend on (seed, epoch, index) only. With these, a run that was killed and
resumed ends as one that was not, bit for bit on a CPU.
"""

import argparse
import json
from pathlib import Path

import torch
from peft import get_peft_model
from transformers import AutoModelForVideoClassification, Trainer, TrainerCallback, TrainingArguments

from apt_peft import AttentionPromptConfig, prompt_parameter_groups
from apt_peft.evaluation import evaluate
from apt_peft.video import ClipTransform, VideoDataset, read_data


class TellEpoch(TrainerCallback):
    """Other flips and frames in every epoch."""

    def __init__(self, dataset: VideoDataset) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.dataset.set_epoch(int(state.epoch or 0))


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was saved to its end: Trainer writes trainer_state.json last."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
        except (FileNotFoundError, ValueError):
            continue
        return str(checkpoint)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR_OR_HUB", help="backbone, a VideoMAE")
    parser.add_argument("--data", required=True, metavar="CLIPS", help="a folder per class, or train and test folders")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the adapter")
    parser.add_argument("--num-prompt-tokens", type=int, default=100)
    parser.add_argument("--lr", type=float, default=0.1, help="of the prompts")
    parser.add_argument("--head-lr", type=float, default=0.01, help="of the head")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUT, if there is one")
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    checkpoints = Path(options.out) / "checkpoints"

    data = read_data(options.data)
    base = AutoModelForVideoClassification.from_pretrained(
        options.model,
        id2label=data.id2label,
        label2id={name: label for label, name in data.id2label.items()},
        use_mean_pooling=True,  # prompts want the mean of the tokens; VideoMAE's pre-training configs say otherwise
        ignore_mismatched_sizes=True,  # a head for other labels is replaced
    )
    model = get_peft_model(base, AttentionPromptConfig(num_prompt_tokens=options.num_prompt_tokens))
    model.print_trainable_parameters()

    frames, size = base.config.num_frames, base.config.image_size
    augmented, plain = ClipTransform(size, augment="flip"), ClipTransform(size)
    train_set = VideoDataset(data.train, num_frames=frames, transform=augmented, training=True, seed=options.seed)

    optimizer = torch.optim.AdamW(prompt_parameter_groups(model, lr=options.lr, head_lr=options.head_lr))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(checkpoints),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,  # a tenth of all steps
            max_grad_norm=0.0,  # the published recipes clip no gradients
            save_strategy="epoch",
            save_total_limit=2,  # the last whole one is there while the next is being written
            logging_strategy="epoch",
            label_names=["labels"],
            remove_unused_columns=False,
            seed=options.seed,
            dataloader_pin_memory=torch.cuda.is_available(),
        ),
        train_dataset=train_set,
        optimizers=(optimizer, None),  # Trainer makes the schedule, which keeps the ratio of the two rates
        callbacks=[TellEpoch(train_set)],
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(checkpoints) if options.resume else None)
    model.save_pretrained(options.out)
    print(f"adapter: {options.out}")

    if data.test:
        test_set = VideoDataset(data.test, num_frames=frames, transform=plain)
        result = evaluate(model, test_set, labels=data.labels, names=[clip.name for clip in data.test])
        print(f"test top-1 {result.top1:.1f} % of {len(data.test)} clips")


if __name__ == "__main__":
    main()
