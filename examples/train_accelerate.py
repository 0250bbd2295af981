"""Train prompts in a loop of your own with Accelerate: every step is to be seen.

    python examples/train_accelerate.py --model DIR_OR_HUB --data CLIPS --out DIR
    python examples/train_accelerate.py --recipe ucf101-vit-small-p400 --model DIR_OR_HUB --data UCF101 --out DIR
    accelerate launch examples/train_accelerate.py --model DIR_OR_HUB --data CLIPS --out DIR --init-weights data
    torchrun --nproc-per-node 2 examples/train_accelerate.py --model DIR_OR_HUB --data CLIPS --out DIR --shard

The same arithmetic as `apt-peft train`, whose flags these are: with the same settings, seed and clips (and there
--val-fraction 0, since nothing is held out here) the losses are equal step by step. Several processes train as one does
with their total batch (but each draws dropout masks of its own), whichever way they hold the model: whole, sharded by
--shard, or as a file of examples/configs says.
"""

import argparse
from functools import partial

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from peft import get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from apt_peft import AptError, gather_adapter_state, initialize_prompts_from_data, prompt_parameter_groups
from apt_peft.evaluation import clip_logits, score
from apt_peft.flags import read_clips
from apt_peft.settings import add_arguments, from_arguments
from apt_peft.training.base import check_precision, frames_and_size, head_of, open_base, read_config
from apt_peft.training.clips import clip_settings
from apt_peft.training.datasets import collate, training_dataset, video_dataset
from apt_peft.training.head import initialize_head
from apt_peft.training.optimizer import learning_rates, warmup_cosine
from apt_peft.training.processes import count_clips
from apt_peft.training.prompts import prompt_config
from apt_peft.training.recipe_run import recipe_run
from apt_peft.training.settings import TrainSettings

# The settings of `apt-peft train` that this loop knows.
FLAGS = """
    model data out recipe method layout split_number train_list test_list labels video_column label_column
    seed workers test
    num_frames sampling frame_stride size resize mean std segments crops
    augment flip rand_augment random_resized_crop random_erasing augment_resolution repeated_augmentation
    num_prompt_tokens prompt_dropout reparameterization share_prompts_across_heads init_weights layers_to_transform
    key_gate
    epochs batch_size drop_last lr head_lr lr_rule min_lr warmup_start_lr warmup_fraction warmup_epochs
    weight_decay label_smoothing bf16 fp16
""".split()  # noqa: SIM905


def parse() -> tuple[TrainSettings, bool]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard", action="store_true", help="each process holds a part of the model (FSDP2)")
    add_arguments(parser, TrainSettings, only=FLAGS)
    given = vars(parser.parse_args())
    try:
        settings = from_arguments(TrainSettings, given)
        check_precision(settings)
    except AptError as error:
        raise SystemExit(f"error: {error}") from None
    # A recipe may set what is not done here; nothing is held out anyway.
    plain = TrainSettings(model="any", data="any", out="any", val_fraction=settings.val_fraction)
    unknown = [name for name in vars(plain) if name not in FLAGS and getattr(settings, name) != getattr(plain, name)]
    if unknown or settings.method not in ("apt", "linear"):
        raise SystemExit(f"error: this loop does not know {', '.join(unknown) or settings.method}: use apt-peft train.")
    return settings, given["shard"]


def shard(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Spread a model over the processes in place; each block gathers its weights, prompts included, when it runs."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    model.to(accelerator.device)
    blocks = model.get_base_model()._no_split_modules or ()  # names of classes, VideoMAELayer for example
    for module in [module for module in model.modules() if type(module).__name__ in blocks]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


@torch.no_grad()
def top1(accelerator: Accelerator, model: torch.nn.Module, loader: DataLoader, dtype: torch.dtype, size: int) -> float:
    """Per cent of test clips that are named right; all processes take part, and each clip counts once."""
    model.eval()
    right = []
    for batch in loader:
        clips = batch["pixel_values"].to(dtype)  # (clips, views, T, C, height, width)
        best = score(model, clips, batch_size=size).argmax(dim=1).to(accelerator.device)
        right.append(accelerator.gather_for_metrics(best == batch["labels"]))
    return 100 * torch.cat(right).double().mean().item()


def main() -> None:
    settings, sharded = parse()
    seed, size, repeats = settings.seed, settings.batch_size, settings.repeated_augmentation

    # Clips: the class names decide on the size of the head, the backbone on frames and pixels.
    data = read_clips(settings)
    model_config = read_config(settings.model)
    frames, pixels = frames_and_size(model_config)
    clips = clip_settings(settings, model=settings.model, frames=frames, size=pixels)
    train_set = training_dataset(data.train, clips, settings)

    set_seed(seed)  # the same in every process: all start with the same head and prompts
    base = open_base(settings.model, labels=data.labels, mean_pooling=True)
    initialize_head(head_of(base), seed=seed)
    # After the backbone: once DeepSpeed ZeRO-3 is known, transformers cannot replace a head. And without a GPU it must be
    # told so, or processes that torchrun started would not find each other.
    accelerator = Accelerator(
        mixed_precision="bf16" if settings.bf16 else "fp16" if settings.fp16 else None,  # None: as launched
        cpu=not torch.accelerator.is_available(),
        # The order of the clips depends on seed and epoch, not on what else is drawn.
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=seed),
    )
    if sharded and accelerator.num_processes == 1:
        raise SystemExit("--shard must have several processes, but there is one. Start them by torchrun.")
    if accelerator.is_main_process:
        for warning in data.warnings:
            print(f"warning: {warning}")
        recipe_run(settings, model_config, classes=len(data.labels))  # warns of what does not fit

    put_together = partial(collate, name=base.main_input_name)
    loading = {"shuffle": True, "collate_fn": put_together, "num_workers": settings.workers}
    seeds = torch.Generator().manual_seed(seed)  # its own, so that dropout does not depend on workers
    loader = DataLoader(train_set, batch_size=size, drop_last=settings.drop_last, generator=seeds, **loading)
    test_loader = None
    if data.test and settings.test:
        at_once = max(1, size // (clips.segments * clips.crops))  # videos, each with all its views
        test_loader = DataLoader(video_dataset(data.test, clips), batch_size=at_once, num_workers=settings.workers)

    # The backbone is frozen by get_peft_model; prompts and head are trained.
    config = prompt_config(settings)
    model = get_peft_model(base, config)
    if config.init_weights == "data":  # before the model is wrapped or sharded, in all processes from the same clips
        order = torch.Generator().manual_seed(seed)
        first = DataLoader(train_set, batch_size=8, shuffle=True, generator=order, collate_fn=put_together)
        initialize_prompts_from_data(model, first, seed=seed)
    if sharded:  # before there is an optimizer, which must hold the shards
        shard(model, accelerator)

    rates = learning_rates(
        rule=settings.lr_rule,
        method=settings.method,
        clips_per_step=size * accelerator.num_processes,
        lr=settings.lr,
        head_lr=settings.head_lr,
        start=settings.warmup_start_lr,
        minimum=settings.min_lr,
    )
    groups = prompt_parameter_groups(model, lr=rates.prompts, head_lr=rates.head, weight_decay=settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    if not sharded:
        model, optimizer, loader, test_loader = accelerator.prepare(model, optimizer, loader, test_loader)
    else:
        optimizer, loader, test_loader = accelerator.prepare(optimizer, loader, test_loader)
    # Not prepared: Accelerate would step it once for each process.
    steps = settings.epochs * len(loader)
    schedule = warmup_cosine(optimizer, rates=rates, warmup_steps=settings.warmup_steps(steps), steps=steps)
    dtype = accelerator.unwrap_model(model).get_base_model().dtype  # float32, unless DeepSpeed changed it
    set_seed(seed, device_specific=True)  # from here on each process draws dropout masks of its own

    for epoch in range(settings.epochs):
        train_set.set_epoch(epoch)
        model.train()
        total, seen = torch.zeros((), device=accelerator.device), 0
        for batch in loader:
            labels = batch.pop("labels")
            with accelerator.autocast():
                logits = model(**{name: tensor.to(dtype) for name, tensor in batch.items()}).logits
            here, everywhere = (repeats * count for count in count_clips(accelerator, len(labels) // repeats))
            logits = clip_logits(logits, len(labels)).float()
            loss = torch.nn.functional.cross_entropy(
                logits[:here], labels[:here], label_smoothing=settings.label_smoothing, reduction="sum"
            )
            total, seen = total + loss.detach(), seen + everywhere
            # Gradients are averaged over the processes, and the loss over the clips of all of them.
            accelerator.backward(loss * accelerator.num_processes / everywhere)
            optimizer.step()
            if not accelerator.optimizer_step_was_skipped:  # where float16 looks for its scale
                schedule.step()
            optimizer.zero_grad()
        accelerator.print(f"epoch {epoch + 1}: loss {accelerator.reduce(total, 'sum').item() / seen:.6f}")

    # One process writes; where the model is sharded, all must give their parts.
    plain = accelerator.unwrap_model(model)
    state = gather_adapter_state(plain)
    if accelerator.is_main_process:
        plain.save_pretrained(settings.out, state_dict=state)
        print(f"adapter: {settings.out}")
    if test_loader is not None:
        score_of_all = top1(accelerator, model, test_loader, dtype, size)
        accelerator.print(f"test top-1 {score_of_all:.1f} % of {len(data.test)} clips")
    accelerator.end_training()


if __name__ == "__main__":
    main()
