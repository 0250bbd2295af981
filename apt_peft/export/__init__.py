"""A trained model -> files that run without this package: ONNX, a torch program, a folded adapter."""

from .folder import Exported, ExportSettings, export_adapter
from .onnx import OnnxSession, save_onnx
from .program import Logits, export_program, load_program, save_program

__all__ = [
    "ExportSettings",
    "Exported",
    "Logits",
    "OnnxSession",
    "export_adapter",
    "export_program",
    "load_program",
    "save_onnx",
    "save_program",
]
