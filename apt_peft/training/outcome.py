"""What comes out of a run: the adapter folder, written whole, and the result, also of a run that was finished before."""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerState

from apt_peft.card import write_model_card
from apt_peft.errors import ConfigError
from apt_peft.evaluation import EvaluationResult
from apt_peft.scores.origin import save_test_scores
from apt_peft.training import checkpoints
from apt_peft.training.clips import ClipSettings
from apt_peft.training.data import RunData
from apt_peft.training.record import EVALUATION, RUN_FILE, read_run
from apt_peft.training.settings import TrainSettings


@dataclass(frozen=True)
class TrainResult:
    """What came out of a run.

    Args:
        out: the adapter folder.
        method: `apt` or `linear`.
        trained_parameters: numbers that were trained, head included.
        seconds: time of the training itself, validation included, over all processes of a resumed run.
        top1: per cent of the test clips, None without a test.
        validation_top1: per cent of the validation clips at the chosen epoch, None without any.
        skipped: clips that could not be read and were left out.
        test: the scores of the test clips, None without a test or where an earlier process made them.
    """

    out: Path
    method: str
    trained_parameters: int
    seconds: float
    top1: float | None
    validation_top1: float | None
    skipped: tuple[str, ...]
    test: EvaluationResult | None = None


def write_adapter(
    out: Path,
    model: PeftModel,
    settings: TrainSettings,
    data: RunData,
    clips: ClipSettings,
    values: dict[str, Any],
    test: EvaluationResult | None,
) -> None:
    """Write the adapter folder's files aside, then move them in: an adapter that is there is whole."""
    partial_folder = out / checkpoints.PARTIAL
    if partial_folder.exists():
        shutil.rmtree(partial_folder)
    partial_folder.mkdir()
    model.save_pretrained(str(partial_folder))
    processor = json.dumps(clips.processor(), indent=2) + "\n"
    (partial_folder / "preprocessor_config.json").write_text(processor, encoding="utf-8")
    checkpoints.write_json(partial_folder / RUN_FILE, values)
    write_model_card(partial_folder, name=out.resolve().name)
    if test is not None:
        test.save(partial_folder / EVALUATION)
        save_test_scores(partial_folder / EVALUATION, test, model, clips, values, data.splits["test"], name=str(out))
    checkpoints.move_in(partial_folder, out)
    data.remove_own_cache()


def finished(settings: TrainSettings, out: Path) -> TrainResult:
    """The result of a run that an earlier process finished."""
    run = read_run(out)
    if run is None:
        raise ConfigError(
            f"out ({out}) must hold a run of apt-peft train to resume, but it holds an adapter without {RUN_FILE}. "
            "Choose another --out."
        )
    values = run.values
    now = settings.what_comes_out()
    before = {name: value for name, value in values["settings"].items() if name in now}
    checkpoints.refuse_changes(before, now, settings.defaults())
    return TrainResult(
        out=out,
        method=values["method"],
        trained_parameters=values["trained_parameters"],
        seconds=values["training_seconds"],
        top1=(values["result"]["test"] or {}).get("top1"),
        validation_top1=(values["result"]["validation"] or {}).get("top1"),
        skipped=(*values["data"]["skipped"], *values["data"].get("lost_while_training", ())),
    )


def validation_scores(state: TrainerState) -> dict[str, Any] | None:
    """The validation scores of the chosen epoch, from the log that checkpoints carry on."""
    step = state.best_global_step or state.global_step
    for entry in state.log_history:
        if entry.get("step") == step and "eval_top1" in entry:
            return {name: entry.get(f"eval_{name}") for name in ("top1", "top5", "loss", "clips", "correct")}
    return None


def finite_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """A line of Trainer's log as JSON can hold it: the gradients' norm may be infinite where fp16 finds its scale."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in entry.items()
    }


def device_name(model: PeftModel) -> str:
    """The GPU, or the processor and its threads, for run.json."""
    device = next(model.parameters()).device
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {torch.get_num_threads()} threads"
    )
