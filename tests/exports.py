"""Whether an architecture with prompts compiles, exports and runs as ONNX: one function each, raising where it does not.

for name in AVAILABLE:
    for ability, check in CHECKS.items():
        check(name)
"""

import io
import os
from collections.abc import Callable, Iterable
from functools import cache
from tempfile import TemporaryDirectory
from typing import NamedTuple

import onnxruntime
import torch
from architectures import build, inputs_for, output
from peft import get_peft_model
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from apt_peft import AttentionPromptConfig
from apt_peft.export import save_onnx

BATCHES = (1, 2, 3, 5)
TOLERANCE = 1e-4  # of the largest number: the goal for ONNX; torch's own ways are held to a tenth of it

# Architectures whose trace is right with this implementation of their attention alone
# BEiT: while tracing, transformers makes a boolean mask where there is none otherwise, and adds it to the bias on the
# scores: +1 for every token. Softmax does not see that, until there are prompts without it.
IMPLEMENTATION = {"beit": "eager"}


class Reason(NamedTuple):
    """Why a cell is empty, and what the bare backbone raises there."""

    text: str
    error: str


_BY_SAMPLE = Reason(
    "transformers resizes the position embeddings in a loop over the samples: a trace holds for one batch size",
    "specialized it to be a constant",
)
REASONS: dict[tuple[str, str], Reason] = {
    (name, ability): _BY_SAMPLE for name in ("siglip2", "siglip2_vision_model") for ability in ("export", "ONNX")
}


class Output(nn.Module):
    """A model as a function of tensors to one tensor: logits, or the last hidden state of a model without a head."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    # not **inputs: torch.export has no names for guards on sizes inside them
    def forward(self, first: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> Tensor:
        return output(self.model, dict(zip(self.names, (first, second, third), strict=False)))


def tensors(name: str, batch: int = 2) -> tuple[Tensor, ...]:
    return tuple(inputs_for(name, batch, seed=batch).values())


def subject(name: str, *, implementation: str | None = None, bare: bool = False) -> Output:
    """The tiny model of an architecture; with prompts at the scale of keys, unless it is to be bare."""
    model = build(name, implementation or IMPLEMENTATION.get(name))
    if not bare:
        settings = {"num_prompt_tokens": 5, "prompt_dropout": 0.0, "init_weights": False}
        model = get_peft_model(model, AttentionPromptConfig(**settings)).eval()
    return Output(model, inputs_for(name))


def trace(name: str, model: Output) -> ExportedProgram:
    """The program of a model; the batch is free."""
    given, batch = tensors(name), Dim("batch")
    shapes = {place: {0: batch} for place, _ in zip(("first", "second", "third"), given, strict=False)}
    with torch.no_grad():
        return torch.export.export(model, given, dynamic_shapes=shapes)


def assert_near(ours: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert ours.shape == wanted.shape, (ours.shape, wanted.shape)
    difference, largest = float((ours - wanted).abs().max()), max(1.0, float(wanted.abs().max()))
    assert difference <= tolerance * largest, f"largest difference {difference:.2g} of values up to {largest:.2g}"


def check_compile(name: str, *, bare: bool = False, backend: str = "aot_eager") -> None:
    """One graph without a break; output, and gradients of all that is trained, as eager."""
    model, given = subject(name, bare=bare), tensors(name)
    torch._dynamo.reset()
    outputs, gradients = [], []
    for run in (torch.compile(model, backend=backend, fullgraph=True), model):
        model.zero_grad()
        outputs.append(run(*given))
        outputs[-1].square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert_near(*outputs, TOLERANCE / 10)
    assert gradients[0].keys() == gradients[1].keys()
    assert bare or [n for n in gradients[0] if "attention_prompt_" in n]
    for name, ours in gradients[0].items():
        assert_near(ours, gradients[1][name], TOLERANCE / 10)


@cache
def traced(name: str, bare: bool) -> tuple[Output, ExportedProgram]:
    model = subject(name, bare=bare)
    return model, trace(name, model)


def check_batches(name: str, model: Output, run: Callable[..., Tensor], tolerance: float) -> None:
    for batch in BATCHES:
        given = tensors(name, batch)
        with torch.no_grad():
            assert_near(run(*given), model(*given), tolerance)


def check_export(name: str, *, bare: bool = False) -> None:
    """torch.export with a free batch; saved, loaded, and as eager at several batch sizes."""
    model, program = traced(name, bare)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    check_batches(name, model, torch.export.load(file).module(), TOLERANCE / 10)


def check_onnx(name: str, *, bare: bool = False) -> None:
    """The same through an ONNX file and onnxruntime."""
    model, program = traced(name, bare)
    with TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        save_onnx(program, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(*given: Tensor) -> Tensor:
            names = (place.name for place in session.get_inputs())
            return torch.from_numpy(session.run(None, {n: x.numpy() for n, x in zip(names, given, strict=True)})[0])

        check_batches(name, model, run, TOLERANCE)


CHECKS: dict[str, Callable[..., None]] = {"compile": check_compile, "export": check_export, "ONNX": check_onnx}
