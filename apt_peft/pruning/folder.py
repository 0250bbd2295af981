"""An adapter folder -> one with fewer prompts: what `apt-peft prune` does, checked before it is there."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apt_peft.card import write_model_card
from apt_peft.checkpoints.folders import check_free, written_whole
from apt_peft.errors import CheckpointError, ConfigError, require
from apt_peft.evaluation import finite, score, unreadable_by_name
from apt_peft.insight.report import short_names
from apt_peft.opening import Adapter, open_adapter, read_adapter_files
from apt_peft.pruning.clips import clip_batches, clips_to_prune_on, view_batches
from apt_peft.pruning.scores import choose_prompts, only_prompts, prompt_scores
from apt_peft.pruning.settings import PruneSettings
from apt_peft.scores.metric import metrics
from apt_peft.scoring import ScoringSettings
from apt_peft.training.base import quiet
from apt_peft.training.checkpoints import write_json
from apt_peft.training.record import RUN_FILE, Run
from apt_peft.training.settings import TrainSettings
from apt_peft.training.start import require_prompts
from apt_peft.training.train import TrainResult, train
from apt_peft.tuner.pruning import prune_prompts
from apt_peft.video import Clip
from apt_peft.video.backends import choose_decoder
from apt_peft.video.guard import warm_up

logger = logging.getLogger(__name__)
PRUNING_FILE, CURVE_FILE, CURVE_PICTURE, FINETUNED = "pruning.json", "curve.jsonl", "curve.png", "finetuned"
TOLERANCE = 1e-4
# Settings of the command that hold for the training of what is left, too.
HOW = (
    *(
        "data",
        "train_list",
        "val_list",
        "test_list",
        "video_column",
        "label_column",
        "layout",
        "split_number",
        "labels",
    ),
    *("decoder", "on_error", "look_over", "time_limit", "workers", "threads", "device", "progress"),
)
Kept = dict[str, list[int]]


@dataclass(frozen=True)
class PruneResult:
    """What came out.

    Args:
        out: the folder of the pruned adapter.
        counts: prompts before and after, by the name of the layer.
        curve: for each part that was measured `kept`, `by`, `prompts`, `clips`, `correct`, `top1` (per cent) and `loss`.
        finetuned: what training gave, None without.
    """

    out: Path
    counts: dict[str, tuple[int, int]]
    curve: tuple[dict[str, Any], ...] = ()
    finetuned: TrainResult | None = None

    @property
    def prompts(self) -> tuple[int, int]:
        """Prompts of all layers, before and after."""
        before, after = zip(*self.counts.values(), strict=True)
        return sum(before), sum(after)


def prune_adapter(settings: PruneSettings) -> PruneResult:
    """Score an adapter's prompts, keep the best, and write what is left as an adapter.

    Args:
        settings: the flags.

    Returns:
        What came out; the folder is there only if the written adapter gives what the pruned model gives.

    Raises:
        AptError: adapter, backbone or clips cannot be used, or `out` is not free.
    """
    check_free(settings.out)
    if settings.curve:
        require("matplotlib", "viz")  # which draws at the end
    run = check_prompts(settings)
    training = None if settings.finetune is None else _finetuning(settings, run)  # refused before anything is scored
    warm_up()
    choose_decoder(settings.decoder)
    adapter = open_adapter(settings)
    calibration, validation, origin = clips_to_prune_on(settings, adapter, run)
    with unreadable_by_name(), quiet():
        batches = clip_batches(adapter, calibration, workers=settings.workers)
        scores = prompt_scores(adapter.model, batches, by=settings.by, seed=settings.seed)
        config: Any = adapter.model.peft_config[adapter.name]
        least = int(bool(config.key_gate) or config.train_norms)  # what else a layer has stays, and with it a prompt
        kept = choose_prompts(scores, settings.keep, scope=settings.scope, least=least)
        curve = _curve(settings, adapter, scores, validation, least) if settings.curve else ()
    counts = {key: (len(each), len(kept[key])) for key, each in scores.items()}
    record = {
        **{name: getattr(settings, name) for name in ("by", "scope", "keep", "seed")},
        "adapter": Path(settings.adapter).name if Path(settings.adapter).is_dir() else settings.adapter,
        "calibration_clips": len(calibration),
        "prompts_before": sum(before for before, _ in counts.values()),
        "prompts_after": sum(after for _, after in counts.values()),
    }
    prune_prompts(adapter.model, kept)
    _write(settings, adapter, run, record, scores, kept, curve, origin)
    result = PruneResult(Path(settings.out), counts, tuple(curve))
    if training is None:
        return result
    return replace(result, finetuned=train(training))


def check_prompts(settings: ScoringSettings) -> Run | None:
    """See that an adapter has prompts, before its backbone is read.

    Args:
        settings: which adapter.

    Returns:
        What its run.json says, if it has one.

    Raises:
        CheckpointError: it is of another method, has a head alone, or cannot be read.
    """
    files, run, _ = read_adapter_files(settings)
    require_prompts(files, settings.adapter)
    return run


def _curve(
    settings: PruneSettings, adapter: Adapter, scores: Mapping[str, Tensor], clips: Sequence[Clip], least: int
) -> list[dict[str, Any]]:
    """Scores of the validation clips with parts of the prompts, each clip decoded once."""
    assert settings.curve is not None
    drawn = prompt_scores(adapter.model, [], by="random", seed=settings.seed)
    measures = {settings.by: scores, "random": drawn}
    parts = sorted({1.0, *settings.curve}, reverse=True)
    # With all prompts there is nothing to choose, and one measure stands for all.
    points = [(by, part) for by in measures for part in parts if part < 1 or by == settings.by]
    kept = {point: choose_prompts(measures[point[0]], point[1], scope=settings.scope, least=least) for point in points}
    found: dict[Any, list[Tensor]] = {point: [] for point in points}
    targets = []
    device = next(adapter.model.parameters()).device
    for views, labels in _shown(view_batches(adapter, clips, workers=settings.workers), settings.progress):
        targets.append(labels)
        for point in points:
            whole = nullcontext() if point[1] == 1 else only_prompts(adapter.model, kept[point])
            with torch.no_grad(), whole:
                found[point].append(
                    score(adapter.model, views.to(device), batch_size=adapter.batch_size, precision=adapter.precision)
                )
    true = torch.cat(targets)
    rows = []
    for by, part in points:
        numbers = metrics(finite(torch.cat(found[by, part])), true)
        rows.append(
            {
                "by": by,
                "scope": settings.scope,
                "kept": part,
                "prompts": sum(map(len, kept[by, part].values())),
                "clips": len(true),
                "correct": round(numbers["top1"].value * len(true) / 100),
                "top1": round(numbers["top1"].value, 2),
                "loss": round(numbers["loss"].value, 4),
            }
        )
    return rows


def _shown(batches: Iterable[Any], progress: bool) -> Iterable[Any]:
    from tqdm.auto import tqdm

    return tqdm(batches, desc="validation", unit="batch", disable=not progress, leave=False)


def _write(
    settings: PruneSettings,
    adapter: Adapter,
    run: Run | None,
    record: dict[str, Any],
    scores: Mapping[str, Tensor],
    kept: Kept,
    curve: Sequence[dict[str, Any]],
    origin: str | None,
) -> None:
    out = Path(settings.out)
    shape = (2, adapter.clips.num_frames, 3, adapter.clips.size, adapter.clips.size)
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with written_whole(out) as draft, quiet():
        draft.mkdir()
        # False: there are no embeddings, and looking for them would ask the Hub for a base that has moved
        adapter.model.save_pretrained(str(draft), save_embedding_layers=False)
        write_json(draft / "preprocessor_config.json", adapter.clips.processor())
        layers = {
            key: {"kept": kept[key], "scores": [float(f"{value:.6g}") for value in each.tolist()]}
            for key, each in scores.items()
        }
        write_json(draft / PRUNING_FILE, {**record, "validation_clips": origin, "layers": layers})
        if curve:
            from apt_peft.insight.plots import draw_curve

            lines = "".join(json.dumps(row) + "\n" for row in curve)
            (draft / CURVE_FILE).write_text(lines, encoding="utf-8")
            draw_curve(curve, draft / CURVE_PICTURE)
        if run is not None:
            # What was measured was measured with all prompts.
            values = {**run.values, "result": {"validation": None, "test": None}, "pruned": record}
            write_json(draft / RUN_FILE, values)
            write_model_card(draft, name=out.resolve().name)
        written = open_adapter(ScoringSettings(adapter=str(draft), model=settings.model, device="cpu"))
        want, got = (_logits(model, clips) for model in (adapter.model, written.model))
        difference, largest = float((want - got).abs().max()), float(want.abs().max())
        if not difference <= TOLERANCE * largest:  # so that NaN is refused, too
            raise CheckpointError(
                f"out ({settings.out}) must give the pruned model's logits to {TOLERANCE:g} of the largest ({largest:.3g}), but "
                f"on random clips they differ by {difference:.2g}. Nothing was written. Please report it."
            )


def _logits(model: Any, clips: Tensor) -> Tensor:
    device = next(model.parameters()).device
    with torch.no_grad():
        return model(clips.to(device)).logits.float().cpu()


def _finetuning(settings: PruneSettings, run: Run | None) -> TrainSettings:
    """The run that trains what is left, as the adapter was trained."""
    if run is None:
        raise ConfigError(
            f"finetune ({settings.finetune}) must go on from a run of apt-peft train, but adapter ({settings.adapter}) has no "
            f"{RUN_FILE}. Leave it out, and then: apt-peft train --start-from {settings.out}"
        )
    known = {field.name for field in fields(TrainSettings)}
    told = {name: value for name, value in run.values["settings"].items() if name in known}
    rates = run.values["learning_rates"]
    instead = {
        **{name: getattr(settings, name) for name in HOW},
        "model": settings.model or run.values["backbone"]["name"],
        "out": str(Path(settings.out) / FINETUNED),
        "start_from": settings.out,
        "epochs": settings.finetune,
        "lr": rates["prompts"] * settings.lr_factor,
        "head_lr": rates["head"] * settings.lr_factor,
        "lr_rule": "absolute",
        "init_weights": "published",
        "warmup_fraction": None if told.get("warmup_fraction") is None else told["warmup_fraction"],
        **dict.fromkeys(
            ("recipe", "preset", "min_lr", "warmup_start_lr", "warmup_epochs", "save_steps", "push_to_hub")
        ),
        "resume": False,
    }
    return TrainSettings(**(told | instead))


def kept_by_layer(result: PruneResult) -> str:
    """How many prompts are left in each layer, in a line: `5 of 20 in each layer`, or layer by layer."""
    if len(set(result.counts.values())) == 1:
        before, after = next(iter(result.counts.values()))
        return f"{after:,} of {before:,} in each of {len(result.counts)} layers"
    names = short_names(list(result.counts))
    return ", ".join(
        f"{name}: {after:,} of {before:,}" for name, (before, after) in zip(names, result.counts.values(), strict=True)
    )
