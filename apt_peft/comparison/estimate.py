"""What a comparison will do and how long that may take, from one timed step of each contender."""

import math
import time

import torch
from peft import PeftModel, get_peft_model

from apt_peft.comparison.contenders import Contender
from apt_peft.comparison.plan import Plan
from apt_peft.comparison.runs import Runs
from apt_peft.comparison.search import first_points
from apt_peft.training.base import frames_and_size, open_base, quiet, threads
from apt_peft.training.prompts import method_config


def estimate(plan: Plan) -> list[str]:
    """The plan of a comparison and its hours; nothing is written.

    Args:
        plan: the comparison.

    Returns:
        Lines.
    """
    settings, shared, clips = plan.settings, plan.shared, plan.clips
    train, test = len(clips.train), len(clips.test)
    learned, held = parts_of(plan)
    lines = [
        f"{train} training clips in {len(clips.labels)} classes, {held} of validation for each of {plan.parts} "
        f"part{'s' if plan.parts > 1 else ''}, {test} test clips",
        f"{settings.budget_trials} trials of {shared.epochs} epochs, then {settings.seeds} seeds, for each of "
        f"{len(plan.contenders)} contenders; compared to {plan.reference.name}",
    ]
    total = 0.0
    for contender in plan.contenders:
        step, forward = timed(plan, contender)
        views = shared.segments * shared.crops
        trial = shared.epochs * (math.ceil(learned / shared.batch_size) * step + views * held * forward)
        run = shared.epochs * math.ceil(train / shared.batch_size) * step + views * test * forward
        seconds = settings.budget_trials * plan.parts * trial + settings.seeds * run
        total += seconds
        points = first_points(plan.start(contender))
        lines.append(
            f"  {contender.name}: {contender.described(shared)}; {plan.parameters(contender):,} parameters beside the head; "
            f"{plan.axes(contender)[0]} first {', '.join(f'{point[0]:g}' for point in points)}; a step {step:.3g} s, "
            f"{seconds / 3600:.2f} h"
        )
    return [*lines, hours(plan, total)]


def parts_of(plan: Runs) -> tuple[int, int]:
    """Clips to train on, and validation clips, of a validation part: as near as can be told before clips are divided."""
    train, val = len(plan.clips.train), len(plan.clips.val)
    held = val or round(train / plan.parts if plan.settings.folds else train * plan.shared.val_fraction)
    return train if val else train - held, held


def hours(plan: Runs, seconds: float) -> str:
    """What is said of the time of many runs.

    Args:
        plan: the runs.
        seconds: of all of them.
    """
    return (
        f"about {seconds / 3600:.2f} hours one run after another, from one timed step each; decoding, which the cache of frames "
        f"does once, and start-up come on top. With --jobs {plan.settings.jobs}, divide by what your cores give."
    )


def timed(plan: Runs, contender: Contender) -> tuple[float, float]:
    """Seconds of a training step, and of the forward of one clip.

    Args:
        plan: the runs.
        contender: whose.
    """
    settings = contender.settings(plan.shared)
    frames, size = frames_and_size(plan.config)
    frames, size = settings.num_frames or frames, settings.size or size
    kind = torch.accelerator.current_accelerator() if settings.device == "auto" else None
    device = kind if kind is not None and torch.accelerator.is_available() else torch.device("cpu")
    precision = torch.bfloat16 if settings.bf16 else torch.float16
    with quiet(), threads(settings.threads):
        base = open_base(settings.model, labels=plan.clips.labels, mean_pooling=True)
        peft_config = method_config(settings, base)
        if getattr(peft_config, "init_weights", None) == "data":
            peft_config.init_weights = True  # where prompts start costs nothing later
        model = get_peft_model(base, peft_config).to(device).train()  # type: ignore[arg-type]
        batch = torch.zeros(settings.batch_size * settings.repeated_augmentation, frames, 3, size, size, device=device)
        labels = torch.zeros(len(batch), dtype=torch.long, device=device)

        def step() -> None:
            with torch.autocast(device.type, precision, enabled=settings.bf16 or settings.fp16):
                loss = torch.nn.functional.cross_entropy(_logits(model, batch), labels)
            loss.backward()

        def forward() -> None:
            with torch.no_grad(), torch.autocast(device.type, precision, enabled=settings.bf16 or settings.fp16):
                _logits(model, batch)

        found = []
        for work in (step, forward):
            work()  # warms up
            _wait(device)
            begun = time.perf_counter()
            work()
            _wait(device)
            found.append(time.perf_counter() - begun)
    return found[0], found[1] / len(batch)


def _logits(model: PeftModel, batch: torch.Tensor) -> torch.Tensor:
    return model(**{model.get_base_model().main_input_name: batch}).logits.float()


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()
