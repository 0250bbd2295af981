"""All checks in turn, and what they found as a report."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ..training.base import frames_and_size, threads
from .adapter import check_adapter
from .config import check_config, grid
from .features import Features, affordable_clips, check_features
from .files import check_files
from .findings import Finding
from .kinds import ERROR, SEVERITIES
from .patient import Patient, open_patient
from .settings import DoctorSettings
from .weights import check_names, check_numbers

# Findings after which running the backbone would show the same again, or fail.
NO_RUN = frozenset({
    "untrained", "not-finite", "tensors-missing", "shapes-disagree", "patch-kernel", "position-table", "layer-count",
    "zeros", "attention-unavailable", "config-refused", "frames-not-square",
})  # fmt: skip


@dataclass
class Report:
    """What the doctor found; as text it is what `apt-peft doctor` prints.

    Args:
        model: what was examined.
        facts: what it is, by name.
        findings: what is wrong with it, the worst first.
    """

    model: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def codes(self) -> list[str]:
        """Codes of the findings."""
        return [finding.code for finding in self.findings]

    @property
    def has_errors(self) -> bool:
        """Whether a finding is an error."""
        return any(finding.kind.severity == ERROR for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        plain = asdict(self)
        return plain | {"findings": [finding.to_dict() for finding in self.findings], "has_errors": self.has_errors}

    def __str__(self) -> str:
        lines = [self.model, *(f"  {name}: {_text(value)}" for name, value in self.facts.items())]
        for finding in self.findings:
            kind = finding.kind
            lines += ["", f"{kind.severity}: {finding.code}: {kind.what}", f"  found:  {finding.evidence}"]
            lines += [f"  effect: {kind.effect}", f"  remedy: {kind.remedy}"]
        counts = [
            f"{number} {name}{'' if number == 1 else 's'}"
            for name in SEVERITIES
            if (number := sum(finding.kind.severity == name for finding in self.findings))
        ]
        lines += ["", f"Found: {', '.join(counts)}." if counts else "Nothing was found."]
        if mends := [finding.code for finding in self.findings if finding.mend]:
            lines.append(f"--fix OUT writes a copy without: {', '.join(mends)}.")
        return "\n".join(lines)


def diagnose(settings: DoctorSettings) -> Report:
    """Examine a model, and clips for it where they are given; nothing is changed.

    Args:
        settings: what to examine.

    Returns:
        What was found.

    Raises:
        CheckpointError: there is no such model, its config is none, or its index leads out of its folder.
        ConfigError: a damaged preprocessor file.
        DataError: no clips can be made of the data.
    """
    return examine(open_patient(settings.model, base=settings.base, revision=settings.revision), settings)


def examine(patient: Patient, settings: DoctorSettings) -> Report:
    """Examine what was opened.

    Args:
        patient: the model.
        settings: of the examination.

    Returns:
        What was found.

    Raises:
        ConfigError, DataError: as `diagnose`.
    """
    report = Report(settings.model, _facts(patient))
    found = report.findings
    found += check_files(patient)
    found += check_config(patient)
    found += check_names(patient)
    found += check_numbers(patient)
    loading = patient.loading
    opens = loading is not None and not loading.missing and not loading.mismatched
    runs = patient.is_video and opens and not NO_RUN & set(report.codes)
    with threads(settings.threads):
        features = None
        if settings.features and runs:
            features = Features(patient)
            found += check_features(features)
        if settings.data is not None:
            _examine_data(patient, settings, report, features)
        if features is not None:
            found += check_adapter(patient, features.model)
    found.sort(key=lambda finding: SEVERITIES.index(finding.kind.severity))
    return report


def _examine_data(patient: Patient, settings: DoctorSettings, report: Report, features: Features | None) -> None:
    # here, since only this needs PyAV
    from ..flags import read_clips
    from .data import (
        ENOUGH,
        MOST_CLASSES,
        PROBED,
        check_files_of,
        check_labels,
        check_probe,
        read_features,
        sample_clips,
    )

    splits = read_clips(settings, on_error="skip")
    report.facts["data"] = f"{sum(len(clips) for _, clips in splits.items())} clips, {len(splits.labels)} classes"
    if patient.config is None or not patient.is_video:
        return
    frames, size = frames_and_size(patient.config)
    files, seen = check_files_of(sample_clips(splits, PROBED), frames, size, time_limit=settings.time_limit)
    report.findings += files
    report.findings += check_labels(patient, splits.labels)
    if seen:
        report.facts["videos looked at"] = seen
    if features is None or "features-not-finite" in report.codes:
        return
    most = affordable_clips(features, patient.config, settings.clips)
    chosen = sample_clips(splits, most, classes=min(MOST_CLASSES, max(2, most // ENOUGH)))
    found, labels = read_features(features, chosen, str(patient.folder), time_limit=settings.time_limit)
    weak, numbers = check_probe(found, labels)
    report.findings += weak
    if numbers:
        report.facts["probe (rough)"] = numbers


def _facts(patient: Patient) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if patient.adapter is not None:
        facts["backbone"] = patient.name
    facts["architecture"] = patient.model_type
    config = patient.config
    if patient.is_video and patient.refusal is None:
        frames, size = frames_and_size(config)
        tubelet, (height, width) = grid(config)
        facts["clips"] = f"{frames} frames of {size} x {size} pixels, patches of {tubelet} x {height} x {width}"
    if patient.weights is not None:
        names = list(patient.weights)
        numbers = sum(_product(patient.weights.shape(name)) for name in names)
        kinds = sorted({str(kind).removeprefix("torch.") for name in names if (kind := patient.weights.dtype(name))})
        facts["weights"] = f"{numbers / 1e6:.1f} M numbers in {', '.join(kinds)}"
    if patient.loading is not None and patient.is_video:
        facts["head"] = "none that fits: a new one is trained" if patient.loading.head_missing else "a trained one"
    return facts


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " to ".join(_text(part) for part in (value[0], value[-1])) if value else "unknown"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
