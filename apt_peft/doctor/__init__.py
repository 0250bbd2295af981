"""Examines a backbone, and clips for it, before anybody waits a night for a run that cannot succeed."""

from .diagnosis import Report, diagnose
from .findings import Finding, Mend
from .fix import mend
from .kinds import KINDS, Kind
from .settings import DoctorSettings

__all__ = ["KINDS", "DoctorSettings", "Finding", "Kind", "Mend", "Report", "diagnose", "mend"]
