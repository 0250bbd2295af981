"""Scores of clips: numbers that follow from them, how sure these are, files of them, several together."""

from .compare import ensemble, read_together
from .files import StoredScores, read_scores, save_scores
from .intervals import Interval, bootstrap, bootstrap_all
from .metric import Metric, average, difference, metrics
from .result import EvaluationResult
from .seeds import bootstrap_seeds

__all__ = [
    "EvaluationResult",
    "Interval",
    "Metric",
    "StoredScores",
    "average",
    "bootstrap",
    "bootstrap_all",
    "bootstrap_seeds",
    "difference",
    "ensemble",
    "metrics",
    "read_scores",
    "read_together",
    "save_scores",
]
