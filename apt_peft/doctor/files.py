"""Checks of a folder's files: what holds the weights, and under which licence."""

from collections.abc import Iterator

from ..card.licence import licence_of
from .findings import Finding, Mend
from .patient import Patient


def check_files(patient: Patient) -> Iterator[Finding]:
    """What is wrong with the files.

    Args:
        patient: the model.

    Yields:
        Findings.
    """
    if patient.unusable is not None:
        yield Finding(patient.unusable.code, patient.unusable.evidence)
    elif patient.weights is not None and patient.weights.pickled:
        yield Finding("pickle-only", ", ".join(patient.weights.files), Mend(safetensors=True))
    licence = licence_of(str(patient.folder))
    if licence is None:
        yield Finding("licence-unknown", "there is no README.md with a `license`")
    elif licence.is_non_commercial:
        yield Finding("licence-non-commercial", f"README.md says {licence.text}")
