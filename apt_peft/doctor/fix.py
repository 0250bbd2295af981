"""A mended copy of a folder: only what is mechanical, whole or not at all, the original untouched."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from ..checkpoints.folders import check_free, written_whole
from ..errors import CheckpointError, ConfigError
from .diagnosis import Report, diagnose
from .findings import Mend
from .patient import Patient
from .settings import DoctorSettings


def mend(patient: Patient, report: Report, out: str | Path) -> list[str]:
    """Write a copy of a backbone's folder without what can be mended; it is examined before it is there.

    Args:
        patient: the backbone.
        report: what was found about it.
        out: new or empty folder.

    Returns:
        Codes of the findings that are gone.

    Raises:
        CheckpointError: something is at `out`, or the copy still has what should be gone.
        ConfigError: there is nothing to mend, or an adapter was examined.
    """
    if patient.adapter is not None:
        raise ConfigError(
            f"fix ({out}) must go with a backbone, but {report.model} is an adapter. Mend {patient.name}, and train anew."
        )
    codes = [finding.code for finding in report.findings if finding.mend]
    if not codes:
        raise ConfigError(f"fix ({out}) must have something to mend, but nothing that was found can be. Leave it out.")
    check_free(out)
    mends = [finding.mend for finding in report.findings if finding.mend]
    with written_whole(out) as draft:
        draft.mkdir()
        _copy(patient, mends, draft)
        left = set(diagnose(DoctorSettings(model=str(draft), features=False)).codes) & set(codes)
        if left:
            raise CheckpointError(
                f"fix ({out}) must leave a folder without {', '.join(sorted(left))}, but the copy still has it. Nothing was "
                "written; please report it."
            )
    return codes


def _copy(patient: Patient, mends: list[Mend], draft: Path) -> None:
    config, processor = dict(patient.raw), dict(patient.processor)
    without: set[str] = set()
    for change in mends:
        for key in change.config_without:
            config.pop(key, None)
        config |= change.config
        processor |= change.processor
        without |= set(change.without_tensors)
    rewrite = bool(without) or any(change.safetensors for change in mends)
    weights = patient.weights
    replaced = {CONFIG_NAME, patient.processor_file}
    if rewrite and weights is not None:
        replaced |= {*weights.files, weights.index or ""}
    for path in sorted(patient.folder.iterdir()):
        if path.name not in replaced and path.is_file():
            shutil.copyfile(path, draft / path.name)
    _write(draft / CONFIG_NAME, config)
    if processor:
        _write(draft / patient.processor_file, processor)
    if rewrite and weights is not None:
        kept = {name: weights[name].contiguous().clone() for name in weights if name not in without}
        save_file(kept, draft / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
