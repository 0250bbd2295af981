"""What methods cost: multiply-adds from shapes, bytes kept for the backward, measured ratios."""

from .arithmetic import BACKBONES, VIT_B, VIT_L, VIT_S, Shapes, Work, multiply_adds, parameters, total
from .memory import Saved, saved_by

__all__ = [
    "BACKBONES",
    "VIT_B",
    "VIT_L",
    "VIT_S",
    "Saved",
    "Shapes",
    "Work",
    "multiply_adds",
    "parameters",
    "saved_by",
    "total",
]
