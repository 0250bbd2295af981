"""An adapter folder -> scores: what `apt-peft evaluate` and `apt-peft predict` do, in a process of its own."""

from apt_peft.opening import Adapter, open_adapter, open_adapters
from apt_peft.scoring.evaluating import evaluate_adapter
from apt_peft.scoring.predicting import predict
from apt_peft.scoring.settings import EvaluateSettings, PredictSettings, ScoringSettings

__all__ = [
    "Adapter",
    "EvaluateSettings",
    "PredictSettings",
    "ScoringSettings",
    "evaluate_adapter",
    "open_adapter",
    "open_adapters",
    "predict",
]
