"""Checks of an adapter against its base: names, shapes, numbers, and the weights that it was trained on."""

from collections.abc import Iterator

import torch

from ..checkpoints.adapter import load_adapter
from ..errors import CheckpointError
from ..training.base import weights_fingerprint
from .findings import Finding
from .patient import Patient


def check_adapter(patient: Patient, base: torch.nn.Module) -> Iterator[Finding]:
    """Whether an adapter goes onto its base, and whether this base is the one that it was trained on.

    Args:
        patient: the model, with an adapter.
        base: the backbone in memory; prompts are added to it.

    Yields:
        Findings.
    """
    if patient.adapter is None:
        return
    trained = patient.run.values.get("backbone", {}).get("fingerprint") if patient.run else None
    found = weights_fingerprint(base)
    if trained not in (None, found):
        yield Finding(
            "adapter-other-base", f"{patient.name} has the fingerprint {found}, the one of training had {trained}"
        )
    labels = patient.adapter.config.id2label
    if labels:
        base.config.id2label = {int(index): str(name) for index, name in labels.items()}
        base.config.label2id = {name: index for index, name in base.config.id2label.items()}
        width = base.classifier.in_features
        base.classifier = torch.nn.Linear(width, len(labels))
    try:
        load_adapter(base, patient.adapter, name=patient.name)
    except CheckpointError as error:
        yield Finding("adapter-unfit", str(error).rstrip("."))
