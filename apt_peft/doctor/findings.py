"""One finding with its numbers, and the change that undoes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .kinds import KINDS, Kind


@dataclass(frozen=True)
class Mend:
    """A mechanical change of a copy of the folder.

    Args:
        config: keys of config.json and their new values.
        config_without: keys to delete from it.
        processor: keys of the preprocessor's file and their new values.
        without_tensors: tensors to leave out.
        safetensors: whether the weights are to be stored as safetensors.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    config_without: tuple[str, ...] = ()
    processor: Mapping[str, Any] = field(default_factory=dict)
    without_tensors: tuple[str, ...] = ()
    safetensors: bool = False


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        code: a key of `KINDS`, which says how bad it is, what it does and what helps.
        evidence: names and numbers, as a sentence without its full stop.
        mend: the change that undoes it; None where there is none in this case.
    """

    code: str
    evidence: str
    mend: Mend | None = None

    @property
    def kind(self) -> Kind:
        """Its row of the table."""
        return KINDS[self.code]

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        kind = self.kind
        return {
            "code": self.code,
            "severity": kind.severity,
            "what": kind.what,
            "evidence": self.evidence,
            "effect": kind.effect,
            "remedy": kind.remedy,
            "fixable": self.mend is not None,
        }
