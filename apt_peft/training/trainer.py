"""What this package adds to Hugging Face's Trainer: two learning rates, the warm-up, scored views, whole checkpoints."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from apt_peft.errors import ConfigError
from apt_peft.evaluation import EvaluationResult, clip_logits
from apt_peft.training import checkpoints, processes
from apt_peft.training.losses import IGNORED, ClassificationLoss
from apt_peft.training.mixing import Mixing
from apt_peft.training.optimizer import LearningRates, prompt_parameter_groups, warmup_cosine
from apt_peft.training.settings import TrainSettings
from apt_peft.video.shards.order import ShardSampler, in_shards

SELECTION = "selection"


class PromptTrainer(Trainer):
    """Trainer with this package's optimizer groups, schedule, loss and scoring.

    Args:
        settings: the run's flags.
        rates: peak, start and minimum learning rates.
        evaluation: scores the validation clips, or None where there are none.
        criterion: the loss; None is cross entropy with the settings' smoothed labels.
        mixing: mixes the clips of a batch, or None.
        seconds_before: training time of the earlier processes of a resumed run.
        options: what Trainer takes.
    """

    # Trainer makes these as it goes.
    optimizer: Any
    lr_scheduler: Any
    control: Any

    def __init__(
        self,
        *,
        settings: TrainSettings,
        rates: LearningRates,
        evaluation: Callable[[], EvaluationResult] | None,
        criterion: ClassificationLoss | None = None,
        mixing: Mixing | None = None,
        seconds_before: float = 0.0,
        **options: Any,
    ) -> None:
        self.settings, self.rates, self.evaluation = settings, rates, evaluation
        self.criterion, self.mixing = criterion or ClassificationLoss(settings.label_smoothing), mixing
        self.started, self.seconds_before = time.perf_counter(), seconds_before
        super().__init__(compute_loss_func=self.loss, **options)
        # The loss is computed here, so the model need not be told how many clips an optimizer step has.
        self.model_accepts_loss_kwargs = False
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)

    @property
    def seconds(self) -> float:
        """Training time so far over all processes of the run."""
        return self.seconds_before + time.perf_counter() - self.started

    def loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """The loss, summed over the batch and divided by the clips of the optimizer step, or by the sum of their weights.

        These are the clips of all processes; Trainer makes up for the average of the gradients that these take.
        """
        logits = clip_logits(outputs.logits, len(labels)).float()
        total = self.criterion.sum(logits, labels)
        loss = total / (self.criterion.mass(labels) if num_items_in_batch is None else num_items_in_batch)
        # On a GPU this would wait for every step; there the loss is looked at where it is logged.
        if loss.device.type == "cpu":
            self.check_finite("loss", loss.item(), self.state.global_step + 1)
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Clips in shards come in an order that reads shard after shard; all others as Trainer shuffles them."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if in_shards(dataset):
            return ShardSampler(dataset, seed=self.settings.seed, window=self.settings.shard_window)
        return super()._get_train_sampler(train_dataset)

    def get_train_dataloader(self) -> Any:
        """Trainer's loader, with a source of seeds of its own.

        A loader draws a seed for its workers each time that it starts them: each epoch without any, once where they stay. From
        torch's own state, dropout would depend on their number, and a resumed run would go on otherwise.
        """
        loader = super().get_train_dataloader()
        for part in (loader, getattr(loader, "base_dataloader", None)):  # Accelerate's holds another
            if part is not None:
                part.generator = torch.Generator().manual_seed(self.settings.seed)
        return loader

    def get_batch_samples(self, epoch_iterator: Any, *args: Any, **kwargs: Any) -> Any:
        """Batches of an optimizer step; clips that only fill up an epoch's last ones lose their labels, and don't count."""
        batches, count = super().get_batch_samples(map(self._without_repeats, epoch_iterator), *args, **kwargs)
        if self.criterion.weights is not None and batches:
            mass = torch.stack([self.criterion.mass(batch["labels"]) for batch in batches]).sum()
            count = self.accelerator.reduce(mass.float().to(self.args.device), reduction="sum")
        if self.mixing is not None:
            batches = [self.mixing(b, self.state.global_step, number) for number, b in enumerate(batches)]
        return batches, count

    def _without_repeats(self, batch: dict[str, Any]) -> dict[str, Any]:
        repeats = self.settings.repeated_augmentation
        here, _ = processes.count_clips(self.accelerator, len(batch["labels"]) // repeats)
        batch["labels"][here * repeats :] = IGNORED
        return batch

    def check_finite(self, name: str, value: float, step: int) -> None:
        """Stop a run that has diverged.

        Args:
            name: of what is looked at.
            value: it, or any number that is finite where all of it is.
            step: optimizer step that it belongs to.

        Raises:
            ConfigError: it is NaN or infinite.
        """
        if not math.isfinite(value):
            raise ConfigError(
                f"{name} ({value}) must stay finite, but training had diverged by step {step} of {self.state.max_steps} "
                f"with learning rates of {self.rates.prompts:g} for prompts and {self.rates.head:g} for the head. "
                "Lower --lr and --head-lr."
            )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as Trainer does, but no loss that is not finite: what has diverged is neither scored nor saved."""
        if "loss" in logs:
            self.check_finite("loss", logs["loss"], self.state.global_step)
        super().log(logs, *args, **kwargs)

    def check_weights(self) -> None:
        """See that the last step, after which no loss is computed, left finite weights.

        Raises:
            ConfigError: a trained weight is NaN or infinite.
        """
        trained = [parameter.detach() for parameter in self.model.parameters() if parameter.requires_grad]  # type: ignore[union-attr]
        largest = torch.stack([parameter.abs().max().float() for parameter in trained]).max()
        self.check_finite("largest trained weight", largest.item(), self.state.global_step)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with the published betas and eps over the groups of prompts and head."""
        if self.optimizer is None:
            groups = prompt_parameter_groups(
                self.model if model is None else model,  # type: ignore[arg-type]
                lr=self.rates.prompts,
                head_lr=self.rates.head,
                weight_decay=self.settings.weight_decay,
            )
            self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Warm-up and cosine, stepped once an optimizer step."""
        if self.lr_scheduler is None:
            self.lr_scheduler = warmup_cosine(
                self.optimizer if optimizer is None else optimizer,  # type: ignore[arg-type]
                rates=self.rates,
                warmup_steps=self.settings.warmup_steps(num_training_steps),
                steps=num_training_steps,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Score the validation clips as `apt-peft evaluate` does, all their views averaged."""
        assert self.evaluation is not None, "Trainer evaluates only where there is a validation split"
        result = self.evaluation()
        numbers = {name: value for name, value in result.summary().items() if value is not None}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in numbers.items()} | {
            # Few clips make many ties, and the first of equals would be an early epoch: the lower loss decides them.
            f"{metric_key_prefix}_{SELECTION}": result.top1 - 1e-6 * min(result.loss, 1e3),
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save as Trainer does, then mark the checkpoint as whole, and only then delete older ones."""
        folder = Path(str(self.args.output_dir))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and checkpoint.exists():
            checkpoints.delete(checkpoint)
        processes.wait_for_all()
        super()._save_checkpoint(*args, **kwargs)
        processes.wait_for_all()  # each process has written its random state
        if self.args.should_save:
            checkpoints.mark_complete(checkpoint, step=self.state.global_step, seconds=round(self.seconds, 3))
            best = self.state.best_model_checkpoint
            checkpoints.rotate(folder, {checkpoint} | ({Path(best)} if best else set()))


class RunCallback(TrainerCallback):
    """Keeps the dataset's epoch, the best checkpoint's place and the progress bar.

    Args:
        dataset: training clips, told each epoch.
        progress: show a bar.
        validate_every: epochs between validations; the last always has one.
    """

    def __init__(self, dataset: Any, *, progress: bool, validate_every: int = 1) -> None:
        self.dataset, self.progress, self.validate_every = dataset, progress, validate_every
        self.bar: tqdm | None = None
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the best checkpoint again, should the folder have moved since it was written; open the bar."""
        if state.best_global_step:
            best = Path(str(args.output_dir)) / f"checkpoint-{state.best_global_step}"
            state.best_model_checkpoint = str(best) if checkpoints.read_marker(best) else None
            if state.best_model_checkpoint is None:
                state.best_global_step = state.best_metric = None
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            disable=not (self.progress and state.is_world_process_zero),
        )

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """What is drawn for a clip is a function of the epoch, which the dataset is told here."""
        self.dataset.set_epoch(int(state.epoch or 0))

    def on_epoch_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave out validations that nobody asked for."""
        epochs = round(state.epoch or 0)
        if epochs % self.validate_every and epochs < args.num_train_epochs:
            control.should_evaluate = False

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the last loss and validation top-1 beside the bar."""
        names = {"loss": ("loss", "{:.3f}"), "eval_top1": ("validation top-1", "{:.1f}")}
        for key, (name, form) in names.items():
            if logs and key in logs:
                self.shown[name] = form.format(logs[key])
        if self.bar is not None:
            self.bar.set_postfix(self.shown)

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


def training_arguments(settings: TrainSettings, *, folder: Path, validates: bool) -> TrainingArguments:
    """Trainer's arguments of a run.

    Args:
        settings: the run's flags.
        folder: OUT/checkpoints.
        validates: whether there are validation clips to choose the best epoch by.

    Returns:
        The arguments.
    """
    best: dict[str, Any] = {}
    if validates:
        best = {
            "eval_strategy": "epoch",
            "load_best_model_at_end": True,
            "metric_for_best_model": SELECTION,
            "greater_is_better": True,
        }
    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    # Trainer refuses bf16 on a CPU that it was not told to take.
    on_cpu = settings.device == "cpu" or (settings.bf16 and not torch.accelerator.is_available())
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        num_train_epochs=settings.epochs,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
        fp16=settings.fp16,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=on_cpu or (processes.world_size() > 1 and processes.on_cpu(settings.device)),
        dataloader_num_workers=settings.workers,
        dataloader_persistent_workers=settings.workers > 0,
        dataloader_prefetch_factor=settings.prefetch if settings.workers else None,
        dataloader_drop_last=settings.drop_last,
        dataloader_pin_memory=on_gpu,
        save_strategy="epoch",
        # Trainer would delete the last whole checkpoint before the next one is marked whole: see _save_checkpoint.
        save_total_limit=None,
        logging_strategy="epoch",
        # Trainer would log the mean of the other steps in place of a loss that is NaN.
        logging_nan_inf_filter=False,
        log_level="error",
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
        # Every trained parameter is used in each forward pass.
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        **best,
    )
