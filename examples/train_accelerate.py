"""Train prompts in a loop of your own with Accelerate: every step is to be seen.

    python examples/train_accelerate.py --model DIR_OR_HUB --data CLIPS --out DIR
    accelerate launch examples/train_accelerate.py --model DIR_OR_HUB --data CLIPS --out DIR --init-weights data
    torchrun --nproc-per-node 2 examples/train_accelerate.py --model DIR_OR_HUB --data CLIPS --out DIR --shard

The data folder holds a folder for each class, or train and test folders of these. Several processes train as one does
with their total batch (but each draws dropout masks of its own), whichever way they hold the model: whole, sharded by
--shard, or as a file of examples/configs says.
"""

import argparse
import math

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from peft import get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader
from transformers import AutoModelForVideoClassification, get_cosine_schedule_with_warmup

from apt_peft import (
    AttentionPromptConfig,
    gather_adapter_state,
    initialize_prompts_from_data,
    prompt_parameter_groups,
)
from apt_peft.evaluation import score
from apt_peft.training.processes import count_clips
from apt_peft.video import ClipTransform, VideoDataset, read_data


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR_OR_HUB", help="backbone, a VideoMAE")
    parser.add_argument("--data", required=True, metavar="CLIPS", help="folder of clips")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the adapter")
    parser.add_argument("--num-prompt-tokens", type=int, default=100)
    parser.add_argument("--prompt-dropout", type=float, default=0.1)
    parser.add_argument("--init-weights", choices=["published", "data"], default="published")
    parser.add_argument("--lr", type=float, default=0.1, help="of the prompts")
    parser.add_argument("--head-lr", type=float, default=0.01, help="of the head")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8, help="clips of a step in each process")
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], help="(default: as launched, else no)")
    parser.add_argument("--shard", action="store_true", help="each process holds a part of the model (FSDP2)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def shard(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Spread a model over the processes in place; each block gathers its weights, prompts included, when it runs."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    model.to(accelerator.device)
    blocks = model.get_base_model()._no_split_modules or ()  # names of classes, VideoMAELayer for example
    for module in [module for module in model.modules() if type(module).__name__ in blocks]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


@torch.no_grad()
def top1(accelerator: Accelerator, model: torch.nn.Module, loader: DataLoader, dtype: torch.dtype) -> float:
    """Per cent of test clips that are named right; all processes take part, and each clip counts once."""
    model.eval()
    right = []
    for batch in loader:
        clips = batch["pixel_values"].to(dtype)  # (clips, views, T, C, height, width)
        best = score(model, clips, batch_size=len(clips)).argmax(dim=1).to(accelerator.device)
        right.append(accelerator.gather_for_metrics(best == batch["labels"]))
    return 100 * torch.cat(right).double().mean().item()


def main() -> None:
    options = parse()
    set_seed(options.seed)  # the same in every process: all start with the same head and prompts

    # Clips: the class names decide on the size of the head.
    data = read_data(options.data)
    base = AutoModelForVideoClassification.from_pretrained(
        options.model,
        id2label=data.id2label,
        label2id={name: label for label, name in data.id2label.items()},
        use_mean_pooling=True,
        ignore_mismatched_sizes=True,
    )
    # After the backbone: once DeepSpeed ZeRO-3 is known, transformers cannot replace a head. And without a GPU it must be
    # told so, or processes that torchrun started would not find each other.
    accelerator = Accelerator(mixed_precision=options.mixed_precision, cpu=not torch.accelerator.is_available())
    if options.shard and accelerator.num_processes == 1:
        raise SystemExit("--shard must have several processes, but there is one. Start them by torchrun.")
    frames, size = base.config.num_frames, base.config.image_size
    transform = ClipTransform(size, augment="flip")
    train_set = VideoDataset(data.train, num_frames=frames, transform=transform, training=True, seed=options.seed)

    def shuffled(batch_size: int) -> DataLoader:
        # A generator of its own: the order of the clips does not depend on what else is drawn.
        order = torch.Generator().manual_seed(options.seed)
        return DataLoader(train_set, batch_size=batch_size, shuffle=True, generator=order)

    loader, test_loader = shuffled(options.batch_size), None
    if data.test:
        test_set = VideoDataset(data.test, num_frames=frames, transform=ClipTransform(size))
        test_loader = DataLoader(test_set, batch_size=options.batch_size)

    # The backbone is frozen by get_peft_model; prompts and head are trained.
    config = AttentionPromptConfig(
        num_prompt_tokens=options.num_prompt_tokens,
        prompt_dropout=options.prompt_dropout,
        init_weights="data" if options.init_weights == "data" else True,
    )
    model = get_peft_model(base, config)
    if config.init_weights == "data":  # before the model is wrapped or sharded, in all processes from the same clips
        initialize_prompts_from_data(model, shuffled(batch_size=8), seed=options.seed)
    if options.shard:  # before there is an optimizer, which must hold the shards
        shard(model, accelerator)

    optimizer = torch.optim.AdamW(prompt_parameter_groups(model, lr=options.lr, head_lr=options.head_lr))
    steps = options.epochs * math.ceil(len(train_set) / (options.batch_size * accelerator.num_processes))
    # Not prepared: Accelerate would step it once for each process.
    schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=steps // 10, num_training_steps=steps)
    if not options.shard:
        model, optimizer, loader, test_loader = accelerator.prepare(model, optimizer, loader, test_loader)
    else:
        optimizer, loader, test_loader = accelerator.prepare(optimizer, loader, test_loader)
    dtype = accelerator.unwrap_model(model).get_base_model().dtype  # float32, unless DeepSpeed changed it
    set_seed(options.seed, device_specific=True)  # from here on each process draws dropout masks of its own

    for epoch in range(options.epochs):
        train_set.set_epoch(epoch)
        model.train()
        total = torch.zeros((), device=accelerator.device)
        for batch in loader:
            with accelerator.autocast():
                logits = model(pixel_values=batch["pixel_values"].to(dtype)).logits
            here, everywhere = count_clips(accelerator, len(logits))
            loss = torch.nn.functional.cross_entropy(logits[:here].float(), batch["labels"][:here], reduction="sum")
            total += loss.detach()
            # Gradients are averaged over the processes, and the loss over the clips of all of them.
            accelerator.backward(loss * accelerator.num_processes / everywhere)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        mean = accelerator.reduce(total, "sum").item() / len(train_set)
        accelerator.print(f"epoch {epoch + 1}: loss {mean:.6f}")

    # One process writes; where the model is sharded, all must give their parts.
    plain = accelerator.unwrap_model(model)
    state = gather_adapter_state(plain)
    if accelerator.is_main_process:
        plain.save_pretrained(options.out, state_dict=state)
        print(f"adapter: {options.out}")
    if test_loader is not None:
        score_of_all = top1(accelerator, model, test_loader, dtype)
        accelerator.print(f"test top-1 {score_of_all:.1f} % of {len(data.test)} clips")
    accelerator.end_training()


if __name__ == "__main__":
    main()
