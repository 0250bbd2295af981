"""Contenders on one road: rates tuned on validation parts, the test split touched once, a table of what came out."""

from .ledger import Ledger
from .run import Comparison, compare
from .settings import CompareSettings

__all__ = ["CompareSettings", "Comparison", "Ledger", "compare"]
