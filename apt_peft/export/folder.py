"""An adapter folder -> a folder to serve from: what `apt-peft export` does, checked before it is there."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from torch.export import ExportedProgram

from apt_peft.checkpoints.folders import check_free, written_whole
from apt_peft.checkpoints.source import find_adapter
from apt_peft.errors import AptError, ExportError
from apt_peft.export.onnx import OPERATORS, OPSET, OnnxSession, require_onnx, save_onnx
from apt_peft.export.program import INPUT, OUTPUT, Logits, export_program, load_program, save_program
from apt_peft.opening import Adapter, open_adapter
from apt_peft.scoring import ScoringSettings
from apt_peft.settings import INTEGER, TEXT, Settings, at_least, setting
from apt_peft.training.base import quiet
from apt_peft.training.record import RUN_FILE, versions

MODEL_FILES = {"onnx": "model.onnx", "torch": "model.pt2", "adapter": "adapter_model.safetensors"}
LABELS_FILE, PROCESSOR_FILE, RECORD_FILE = "labels.json", "preprocessor_config.json", "export.json"
# What tells of an adapter and stays true when its prompts are folded.
COMPANIONS = (RUN_FILE, PROCESSOR_FILE, "README.md")
BATCHES = (1, 3)
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """Every flag of `apt-peft export`."""

    adapter: str = setting(TEXT, "adapter: a folder or a name on the Hub", metavar="DIR_OR_HUB")
    revision: str | None = setting(TEXT, "branch, tag or commit of an adapter on the Hub", None, metavar="NAME")
    model: str | None = setting(TEXT, "backbone (default: the one the adapter names)", None, metavar="DIR_OR_HUB")
    out: str = setting(TEXT, "new folder for the model and what goes with it", metavar="DIR")
    format: str = setting(
        TEXT, "what to write: ONNX, a program of torch.export, or a folded adapter", "onnx", choices=tuple(MODEL_FILES)
    )
    operators: str | None = setting(
        TEXT,
        f"of ONNX: onnxruntime's own attention, or standard for other runtimes (default: {OPERATORS[0]})",
        None,
        choices=OPERATORS,
    )
    threads: int | None = setting(INTEGER, "CPU threads of torch", None, rule=at_least(1))

    def conflicts(self) -> list[str]:
        """Names of a folder that look like a file's, and flags of another format."""
        problems = []
        if Path(self.out).suffix in (".onnx", ".pt2", ".safetensors"):
            problems.append(
                f"out ({self.out}) must be the name of a folder, for labels and preprocessing are written beside the "
                f"model. Take --out {Path(self.out).with_suffix('')}."
            )
        if self.operators is not None and self.format != "onnx":
            problems.append(
                f"operators ({self.operators}) must go with format onnx, but format is {self.format}. Leave it out."
            )
        return problems


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        out: the folder.
        file: the model in it.
        labels: class names in the order of the logits.
        difference: the largest difference of a logit between the file and PyTorch, on random clips.
    """

    out: Path
    file: Path
    labels: tuple[str, ...]
    difference: float


Run = Callable[[Tensor], Tensor]


def export_adapter(settings: ExportSettings) -> Exported:
    """Write an adapter as a file to serve, its factors folded into the prompts, and run that file beside PyTorch.

    Args:
        settings: the flags.

    Returns:
        The folder, which is there only if the written file gives what PyTorch gives.

    Raises:
        ExportError: the model cannot be exported, or the written file gives other logits.
        AptError: adapter or backbone cannot be used, `out` is not free, or a package is not installed.
    """
    check_free(settings.out)
    if settings.format == "onnx":
        require_onnx()
    adapter = open_adapter(_to_open(settings, settings.adapter, settings.revision))
    clips = [example_clips(adapter, batch) for batch in BATCHES]
    wanted = [_logits(adapter.model, clip) for clip in clips]  # before anything is folded
    adapter.model.base_model.fold_reparameterization()
    out, file = Path(settings.out), MODEL_FILES[settings.format]
    with written_whole(out) as draft, quiet():
        draft.mkdir()
        run = _WRITERS[settings.format](adapter, draft, settings)
        got = [run(clip) for clip in clips]
        difference = max(float((a - b).abs().max()) for a, b in zip(got, wanted, strict=True))
        largest = max(float(logits.abs().max()) for logits in wanted)
        if not difference <= TOLERANCE * largest:  # so that NaN is refused, too
            raise ExportError(
                f"{file} must give PyTorch's logits to {TOLERANCE:g} of the largest ({largest:.3g}), but on random clips "
                f"they differ by {difference:.2g}. Nothing was written. Take another --format, or report it."
            )
        if settings.format != "adapter":
            _write_beside(adapter, draft, settings, difference)
    return Exported(out, out / file, adapter.labels, difference)


def example_clips(adapter: Adapter, batch: int) -> Tensor:
    """Random clips of the shape that a model takes.

    Args:
        adapter: the model with its clip settings.
        batch: B.

    Returns:
        float32 (B, T, 3, size, size), the same for the same shape.
    """
    shape = (batch, adapter.clips.num_frames, 3, adapter.clips.size, adapter.clips.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(batch))


def _to_open(settings: ExportSettings, adapter: str | Path, revision: str | None = None) -> ScoringSettings:
    return ScoringSettings(adapter=str(adapter), revision=revision, model=settings.model, device="cpu")


def _logits(model: PeftModel, clips: Tensor) -> Tensor:
    with torch.inference_mode():
        return Logits(model)(clips)


def _write_onnx(adapter: Adapter, folder: Path, settings: ExportSettings) -> Run:
    path = folder / MODEL_FILES["onnx"]
    with _refusals_told("ONNX"):
        save_onnx(_trace(adapter), path, operators=settings.operators or OPERATORS[0])
        return OnnxSession(path)


def _write_program(adapter: Adapter, folder: Path, settings: ExportSettings) -> Run:
    path = folder / MODEL_FILES["torch"]
    with _refusals_told("torch.export"):
        save_program(_trace(adapter), path)
        return load_program(path)


def _trace(adapter: Adapter) -> ExportedProgram:
    return export_program(adapter.model, example_clips(adapter, 1))


def _write_folded(adapter: Adapter, folder: Path, settings: ExportSettings) -> Run:
    # False: there are no embeddings, and looking for them would ask the Hub for a base that has moved
    adapter.model.save_pretrained(str(folder), save_embedding_layers=False)
    given = find_adapter(settings.adapter, revision=settings.revision, companions=COMPANIONS).folder
    for name in COMPANIONS:
        if (given / name).is_file():
            shutil.copyfile(given / name, folder / name)
    written = open_adapter(_to_open(settings, folder))  # from the files, onto a base of its own
    return lambda clips: _logits(written.model, clips)


_WRITERS: dict[str, Callable[[Adapter, Path, ExportSettings], Run]] = {
    "onnx": _write_onnx,
    "torch": _write_program,
    "adapter": _write_folded,
}


@contextmanager
def _refusals_told(what: str) -> Iterator[None]:
    """Exporters refuse by many kinds of errors, from deep inside; here is one, and theirs as its cause."""
    try:
        yield
    except AptError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ExportError(
            f"format ({what}) must be able to hold the model, but exporting it fails: {type(error).__name__}: {reason}. "
            "Take another --format; an adapter folder always works."
        ) from error


def _write_beside(adapter: Adapter, folder: Path, settings: ExportSettings, difference: float) -> None:
    """What a server must know besides the model: the labels, how clips are made, and what was checked."""
    clips = adapter.clips
    base = settings.model or adapter.model.peft_config[adapter.name].base_model_name_or_path
    shape = ["batch", clips.num_frames, 3, clips.size, clips.size]
    record = {
        "format": settings.format,
        "file": MODEL_FILES[settings.format],
        "input": {"name": INPUT, "shape": shape, "dtype": "float32"},
        "output": {"name": OUTPUT, "shape": ["batch", len(adapter.labels)], "dtype": "float32"},
        "clips": clips.as_dict(),
        "base": Path(base).name if Path(base).is_dir() else base,  # no paths of this machine
        "checked": {"batches": list(BATCHES), "largest_difference": difference},
        "versions": versions(("torch", "transformers", "peft", "onnx", "onnxscript", "onnxruntime")),
    }
    if settings.format == "onnx":
        record |= {"opset": OPSET, "operators": settings.operators or OPERATORS[0]}
    for name, content in (
        (LABELS_FILE, list(adapter.labels)),
        (PROCESSOR_FILE, clips.processor()),
        (RECORD_FILE, record),
    ):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
