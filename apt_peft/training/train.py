"""One run from flags to a scored adapter folder. Trainer runs the loop; this file says in which order things happen."""

import datetime
import logging
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import set_seed

from apt_peft import hub
from apt_peft.errors import ConfigError
from apt_peft.evaluation import EvaluationResult, unreadable_by_name
from apt_peft.scores.run import as_tensors, score_clips
from apt_peft.training import checkpoints, processes
from apt_peft.training.balance import BalancedDataset
from apt_peft.training.base import (
    check_precision,
    frames_and_size,
    open_base,
    quiet,
    read_config,
    threads,
    weights_fingerprint,
)
from apt_peft.training.clips import clip_settings
from apt_peft.training.data import RunData, load_data
from apt_peft.training.datasets import collate
from apt_peft.training.features import use_features
from apt_peft.training.losses import ClassificationLoss
from apt_peft.training.midway import SaveMidway
from apt_peft.training.mixing import Mixing
from apt_peft.training.optimizer import learning_rates
from apt_peft.training.outcome import TrainResult, device_name, finished, finite_entry, validation_scores, write_adapter
from apt_peft.training.prompts import add_prompts, check_targets
from apt_peft.training.recipe_run import recipe_run
from apt_peft.training.record import FORMAT, versions
from apt_peft.training.settings import TrainSettings
from apt_peft.training.start import follow, start_fingerprint, start_record
from apt_peft.training.trainer import PromptTrainer, RunCallback, training_arguments
from apt_peft.video.backends import choose_decoder
from apt_peft.video.guard import warm_up
from apt_peft.video.readable import unreadable_error

logger = logging.getLogger(__name__)


def train(settings: TrainSettings) -> TrainResult:
    """Train prompts and head, or the head alone, and score them: all that `apt-peft train` does.

    Args:
        settings: the run's flags.

    Returns:
        The scores; the adapter is in `settings.out`.

    Raises:
        AptError: settings, data, backbone or folder cannot be used; the folder is as it was, unless a checkpoint was made.
    """
    out = Path(settings.out)
    processes.join(settings.device)
    warm_up()
    choose_decoder(settings.decoder)
    if processes.rank() > 0:
        logging.getLogger("apt_peft").setLevel(logging.ERROR)
        settings = replace(settings, progress=False)
    settings = follow(settings)
    if settings.push_to_hub:
        processes.on_first(partial(hub.check, settings.push_to_hub))
    if settings.resume and processes.on_first(partial(checkpoints.is_finished, out)):
        result = finished(settings, out)
        logger.warning("The run in %s is finished; nothing is left to train.", out)
    else:
        check_precision(settings)
        with ExitStack() as stack, threads(settings.threads), quiet():
            processes.on_first(lambda: stack.enter_context(checkpoints.run_folder(out, resume=settings.resume)))
            result = _train(settings, out)
    if settings.push_to_hub:
        processes.on_first(partial(hub.push, out, settings.push_to_hub))
    return result


def _train(settings: TrainSettings, out: Path) -> TrainResult:
    folder = out / checkpoints.CHECKPOINTS
    config = read_config(settings.model)
    check_targets(config, settings)
    mean_pooling = getattr(config, "use_mean_pooling", True)
    frames, size = frames_and_size(config)
    clips = clip_settings(settings, model=settings.model, frames=frames, size=size)
    data = load_data(settings, clips)
    recipe = recipe_run(settings, config, classes=len(data.labels))

    set_seed(settings.seed)
    base = open_base(settings.model, labels=data.labels, mean_pooling=True)
    fingerprint = weights_fingerprint(base)
    now = {
        **settings.what_comes_out(),
        "data fingerprint": data.fingerprint,
        "backbone fingerprint": fingerprint,
        "processes": processes.world_size(),
    }
    if settings.start_from is not None:
        now["starting adapter"] = start_fingerprint(settings)
    if data.skipped:  # what is held out depends on them, and so would the order of clips
        now["clips left out"] = sorted(data.skipped)
    processes.on_first(partial(checkpoints.check_same_run, folder, now, settings.defaults()))
    model = add_prompts(base, settings, data)
    if settings.feature_cache is not None:
        use_features(model, settings, data)
    trained, total = model.get_nb_trainable_parameters()
    logger.info(
        "%s in %d classes. %s of %s parameters are trained.",
        data.describe(),
        len(data.labels),
        f"{trained:,}",
        f"{total:,}",
    )

    trainer = _trainer(model, settings, data, folder)
    checkpoint = processes.on_first(partial(_checkpoint_to_resume, folder)) if settings.resume else None
    if checkpoint is not None:
        trainer.seconds_before = (checkpoints.read_marker(checkpoint) or {}).get("seconds", 0.0)
    if processes.world_size() > 1:
        set_seed(settings.seed + processes.rank())  # each process draws dropout masks of its own
    trainer.started = time.perf_counter()
    with unreadable_by_name(settings.time_limit if settings.workers else None):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = trainer.seconds
    trainer.check_weights()

    test = _score(model, settings, data, "test") if settings.test and data.splits["test"] else None
    validation = validation_scores(trainer.state)
    values = {
        "format": FORMAT,
        "result": {"validation": validation, "test": test.summary() if test else None},
        "method": settings.method,
        "recipe": recipe,
        "preset": settings.preset_run(),
        "start_from": start_record(settings),
        "trained_parameters": trained,
        "total_parameters": total,
        "training_seconds": round(seconds, 2),
        "steps": trainer.state.global_step,
        "chosen_step": trainer.state.best_global_step or trainer.state.global_step,
        "learning_rates": vars(trainer.rates),
        "precision": _precision(settings),
        "processes": processes.world_size(),
        "clips": clips.as_dict(),
        "labels": list(data.labels),
        "data": data.as_dict(),
        "backbone": {"name": settings.model, "local": Path(settings.model).is_dir(), "fingerprint": fingerprint},
        "mean_pooling_forced": not mean_pooling,
        "settings": settings.as_dict(),
        "versions": versions(),
        "device": device_name(model),
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "history": [finite_entry(entry) for entry in trainer.state.log_history],
    }
    processes.on_first(partial(write_adapter, out, model, settings, data, clips, values, test))
    return TrainResult(
        out=out,
        method=settings.method,
        trained_parameters=trained,
        seconds=seconds,
        top1=test.top1 if test else None,
        validation_top1=(validation or {}).get("top1"),
        skipped=(*data.skipped, *data.lost),
        test=test,
    )


def _trainer(model: PeftModel, settings: TrainSettings, data: RunData, folder: Path) -> PromptTrainer:
    validates = bool(data.splits["val"])
    arguments = training_arguments(settings, folder=folder, validates=validates)
    clips_per_step = arguments.train_batch_size * settings.gradient_accumulation_steps * arguments.world_size
    dataset: Any = data.training()
    labels = [clip.label for clip in data.splits["train"]]
    if settings.balanced_sampling:
        dataset = BalancedDataset(dataset, labels, seed=settings.seed)
    if settings.drop_last and len(dataset) < arguments.train_batch_size * arguments.world_size:
        raise ConfigError(
            f"batch_size ({settings.batch_size}) must not exceed the {len(dataset)} training clips with "
            "drop_last, but then every batch is incomplete. Make it smaller, or take --no-drop-last."
        )
    name = model.get_base_model().main_input_name
    return PromptTrainer(
        settings=settings,
        rates=learning_rates(
            rule=settings.lr_rule,
            method=settings.method,
            clips_per_step=clips_per_step,
            lr=settings.lr,
            head_lr=settings.head_lr,
            start=settings.warmup_start_lr,
            minimum=settings.min_lr,
        ),
        evaluation=partial(_score, model, settings, data, "val") if validates else None,
        criterion=ClassificationLoss.of(settings, labels, len(data.labels)),
        mixing=Mixing.of(settings, len(data.labels), name),
        model=model,
        args=arguments,
        data_collator=partial(collate, name=name),
        train_dataset=dataset,
        eval_dataset=data.testing("val") if validates else None,
        callbacks=[
            RunCallback(dataset, progress=settings.progress, validate_every=settings.validate_every),
            *SaveMidway.of(settings),
        ],
    )


def _score(model: PeftModel, settings: TrainSettings, data: RunData, split: str) -> EvaluationResult:
    part = score_clips(
        model,
        data.testing(split),
        labels=len(data.labels),
        batch_size=settings.batch_size,
        workers=settings.workers,
        precision=_precision(settings),
        progress=settings.progress,
        on_error=settings.on_error,
        time_limit=settings.time_limit,
    )
    numbers, lost = processes.on_first(lambda: part)  # type: ignore[misc]
    if not numbers:
        raise unreadable_error(list(lost.values()), len(lost), settings.on_error)
    order, scores, _ = as_tensors(numbers, per_view=False)
    names, clips = data.names(split), data.splits[split]
    return EvaluationResult(
        data.labels,
        tuple(names[index] for index in order),
        torch.tensor([clips[index].label for index in order]),
        scores,
        (*data.skipped_of.get(split, ()), *(error.name for error in lost.values())),
    )


def _checkpoint_to_resume(folder: Path) -> Path | None:
    checkpoint, torn = checkpoints.choose(folder)
    for name in torn:
        logger.warning("%s is incomplete (its saving was cut short) and is passed over.", name)
    if checkpoint is None:
        logger.warning("%s has no complete checkpoint; training starts from the beginning.", folder)
    else:
        logger.info("Going on from %s.", checkpoint.name)
    return checkpoint


def _precision(settings: TrainSettings) -> str:
    return "bfloat16" if settings.bf16 else "float16" if settings.fp16 else "float32"
