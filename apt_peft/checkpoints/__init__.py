"""Weight files of the reference and of VideoMAE, to Hugging Face folders and back."""

from .convert import convert_checkpoint, load_checkpoint
from .export import convert_adapter
from .options import CheckpointOptions
from .report import ConversionReport

__all__ = ["CheckpointOptions", "ConversionReport", "convert_adapter", "convert_checkpoint", "load_checkpoint"]
