"""A program -> an ONNX file, and onnxruntime to run it."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..errors import ConfigError, require
from .program import INPUT, OUTPUT

EXTRA = "export"
OPSET = 23  # the first one with an operator for attention
OPERATORS = ("onnxruntime", "standard")  # the default first
CONTRIB = "com.microsoft"
BATCH = "batch"
SWAP = {"perm": [0, 2, 1, 3]}
LARGEST = 1 << 30  # bytes of weights inside the file itself; protobuf takes no more than 2 GiB in all


def require_onnx() -> None:
    """Make sure that all three packages of the extra are there, before any work is done.

    Raises:
        MissingExtraError: one is not installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, EXTRA)


def save_onnx(program: ExportedProgram, path: str | Path, *, operators: str = OPERATORS[0]) -> Any:
    """Write a program as ONNX, the batch free as in the program.

    Weights stand in the file itself; beyond 1 GiB beside it, in `NAME.data`.

    Args:
        program: as `export_program` returns it.
        path: the new file.
        operators: "onnxruntime": attention by onnxruntime's own operator `com.microsoft.MultiHeadAttention`, which is
            faster there and which other runtimes may lack; "standard": those of ONNX alone.

    Returns:
        The model as written, an `onnx_ir.Model`: its graph can be looked at.

    Raises:
        MissingExtraError: a package of the extra `export` is not installed.
        ConfigError: there are no such operators.
    """
    if operators not in OPERATORS:
        raise ConfigError(f"operators ({operators!r}) must be one of {', '.join(OPERATORS)}.")
    require_onnx()
    with _quiet(), torch.no_grad():
        exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, output_names=[OUTPUT], verbose=False)
    assert exported is not None
    model = exported.model
    if operators == "onnxruntime":
        fuse_attention(model)
    _tidy(model)
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    exported.save(os.fspath(path), external_data=weights > LARGEST)
    return model


def fuse_attention(model: Any) -> int:
    """Replace attention without a mask by onnxruntime's own operator, in place.

    It wants tokens before heads, (B, N, H x D), for which onnxruntime has a kernel that never holds all scores at once.
    The transpositions around it cancel against those of the model when a session is made.

    Args:
        model: an `onnx_ir.Model` of opset 23.

    Returns:
        How many were replaced.
    """
    ir = require("onnx_ir", EXTRA)
    count = 0
    for node in list(model.graph):
        if node.op_type != "Attention" or node.domain or not _is_plain(node):
            continue
        _, heads, _, dim = node.inputs[0].shape
        flat, split = (
            ir.tensor(sizes, name=f"{node.outputs[0].name}_{name}")
            for name, sizes in (("flat", [0, 0, heads * dim]), ("split", [0, 0, heads, dim]))
        )
        tape = ir.tape.Tape()
        flat_shape, split_shape = tape.op("Constant", [], {"value": flat}), tape.op("Constant", [], {"value": split})
        inputs = [tape.op("Reshape", [_swapped(tape, x), flat_shape]) for x in node.inputs[:3]]
        attributes = {"num_heads": heads}
        if "scale" in node.attributes:
            attributes["scale"] = node.attributes["scale"].as_float()
        fused = tape.op("MultiHeadAttention", inputs, attributes, domain=CONTRIB)
        result = tape.op("Transpose", [tape.op("Reshape", [fused, split_shape])], SWAP)
        result.shape, result.type = node.outputs[0].shape, node.outputs[0].type
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], tape.nodes, node.outputs, [result])
        count += 1
    if count:
        model.opset_imports[CONTRIB] = 1
        ir.passes.common.RemoveUnusedNodesPass()(model)
    return count


def _swapped(tape: Any, states: Any) -> Any:
    """(B, H, N, D) as (B, N, H, D); tokens and prompts each by themselves, where the tokens were swapped just before."""
    joined = states.producer()
    if joined is None or joined.op_type != "Concat" or joined.attributes["axis"].as_int() not in (2, -2):
        return tape.op("Transpose", [states], SWAP)
    return tape.op("Concat", [tape.op("Transpose", [part], SWAP) for part in joined.inputs], {"axis": 1})


def _is_plain(node: Any) -> bool:
    """Whether an attention has queries, keys and values of as many heads, and neither mask nor order."""
    shapes = [states.shape for states in node.inputs[:3]]
    if any(shape is None or len(shape) != 4 for shape in shapes):
        return False
    widths = {(shape[1], shape[3]) for shape in shapes}
    alike = len(widths) == 1 and all(isinstance(size, int) for size in widths.pop())
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    ordered = given.get("is_causal") or given.get("softcap")
    return alike and not ordered and not any(node.inputs[3:])


def _tidy(model: Any) -> None:
    """Call the batch by its name, and remove what the exporter notes of the code: files and lines on this machine."""
    nodes = list(model.graph.all_nodes())
    values = [*model.graph.inputs, *model.graph.initializers.values(), *(x for node in nodes for x in node.outputs)]
    for thing in (model, model.graph, *nodes, *values):
        thing.metadata_props.clear()
        thing.doc_string = None
    symbol = model.graph.inputs[0].shape[0].value
    for value in values:
        for axis, size in enumerate(value.shape or ()):
            if getattr(size, "value", size) == symbol and not value.is_initializer():
                value.shape[axis] = BATCH


class OnnxSession:
    """An ONNX file in onnxruntime, on the CPU.

    Args:
        path: the file.
        threads: of one run; those of torch by default.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        runtime = require("onnxruntime", EXTRA)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        self.session = runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, clips: Tensor) -> Tensor:
        """Classify clips.

        Args:
            clips: float32 (B, T, C, height, width).

        Returns:
            (B, labels).
        """
        return torch.from_numpy(self.session.run([OUTPUT], {INPUT: clips.numpy()})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter and its libraries say of themselves off the screen; errors are raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
