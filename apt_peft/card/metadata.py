"""What the Hub reads of a model card: base, licence, task, data and measured scores."""

import re

from huggingface_hub import EvalResult, ModelCardData

from ..checkpoints.source import is_repository
from .facts import Facts
from .licence import Licence
from .words import VIDEOS, kind_of

TAGS = ["attention-prompt-tuning", "apt-peft"]
# What the Hub shows where no licence is known.
UNKNOWN = "unknown"


def metadata(facts: Facts) -> ModelCardData:
    """The metadata of a card.

    Args:
        facts: what the card says.

    Returns:
        What `huggingface_hub` writes at the top of a card, with the measured scores as a model-index.
    """
    licence = facts.licence or Licence(UNKNOWN)
    dataset = facts.dataset or "unknown"
    task = kind_of(facts).task
    results = [
        EvalResult(
            task_type=task or str(VIDEOS.task),
            dataset_type=dataset if is_repository(dataset) else _identifier(dataset),
            dataset_name=dataset,
            dataset_split=split,
            metric_type="accuracy",
            metric_name=f"{kind} accuracy",
            metric_value=round(numbers[key] / 100, 4),
        )
        for split, numbers in facts.scores.items()
        for key, kind in (("top1", "Top-1"), ("top5", "Top-5"))
        if numbers.get(key) is not None
    ]
    return ModelCardData(
        base_model=facts.base if facts.base_on_hub else None,
        base_model_relation="adapter" if facts.base_on_hub else None,
        datasets=[dataset] if "/" in dataset and is_repository(dataset) else None,
        library_name="peft",
        license=licence.id,
        license_name=licence.name,
        license_link=licence.link,
        metrics=["accuracy"] if results else None,
        pipeline_tag=task,
        tags=TAGS,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def _identifier(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unknown"
