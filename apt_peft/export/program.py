"""A model -> one graph from `torch.export`, with a free batch size, that needs torch alone to be loaded and run."""

import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from ..evaluation import clip_logits
from ..tuner.passes import evaluating

INPUT, OUTPUT = "pixel_values", "logits"


class Logits(nn.Module):
    """A classifier as a function from clips to logits: two plain tensors, whatever its architecture calls them.

    Args:
        model: a classifier of transformers, with or without prompts.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Classify clips.

        Args:
            pixel_values: (B, T, C, height, width), or what else the model takes; the batch comes first.

        Returns:
            (B, labels).
        """
        return clip_logits(self.model(pixel_values).logits, pixel_values.shape[0])


def export_program(model: nn.Module, example: Tensor) -> ExportedProgram:
    """Trace a classifier as it answers in evaluation mode: with the active adapters and their head.

    The program holds what it computes with and nothing else: no other adapter, no replaced head, no names of the files
    and lines that it was traced from.

    Args:
        model: the classifier; it stays as it was.
        example: what the model takes; the batch is free in the result, all other sizes are fixed.

    Returns:
        A program from `pixel_values` to logits (B, labels).
    """
    example = torch.cat((example, example))[:2]  # torch.export takes a batch of one for a size that never changes
    with evaluating(model), torch.no_grad():
        program = torch.export.export(Logits(model), (), {INPUT: example}, dynamic_shapes={INPUT: {0: Dim("batch")}})
    program.example_inputs = None  # a file would hold those clips
    _drop_unused(program)
    # Not to be trained. Attention with a mask that takes gradients has another layout than the traced one
    for name, value in program.state_dict.items():
        program.state_dict[name] = nn.Parameter(value.detach(), False) if isinstance(value, nn.Parameter) else value
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def _drop_unused(program: ExportedProgram) -> None:
    """Take parameters and buffers that no operation reads out of a program."""
    graph, signature = program.graph_module.graph, program.graph_signature
    nodes = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    kept = []
    for spec in signature.input_specs:
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and not nodes[spec.arg.name].users:
            graph.erase_node(nodes[spec.arg.name])
            program.state_dict.pop(str(spec.target), None)
        else:
            kept.append(spec)
    signature.input_specs[:] = kept
    program.graph_module.recompile()


def save_program(program: ExportedProgram, path: str | Path) -> None:
    """Write a program to a file.

    Args:
        program: as `export_program` returns it.
        path: the new file; torch's suffix for it is `.pt2`.
    """
    content = io.BytesIO()  # torch warns of a path whose suffix is another one
    torch.export.save(program, content)
    Path(path).write_bytes(content.getbuffer())


def load_program(path: str | Path) -> Callable[[Tensor], Tensor]:
    """Read a file of `save_program`.

    Args:
        path: the file.

    Returns:
        A function from clips (B, T, C, height, width) to logits (B, labels).
    """
    program = torch.export.load(str(path)).module()

    @torch.no_grad()
    def run(clips: Tensor) -> Tensor:
        return program(pixel_values=clips)

    return run
