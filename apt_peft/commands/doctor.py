"""`apt-peft doctor`: a backbone, an adapter, and clips for it, examined before a run that cannot succeed."""

import argparse
import json

from apt_peft import settings
from apt_peft.doctor.settings import DoctorSettings

EXAMPLE = """examples:
  apt-peft doctor MCG-NJU/videomae-base
  apt-peft doctor my-backbone clips
  apt-peft doctor my-backbone --fix my-backbone-mended
"""
ERRORS_FOUND = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, DoctorSettings)


def run(args: argparse.Namespace) -> int:
    """Examine, print what was found, and write a mended copy where one is wanted.

    Args:
        args: parsed arguments.

    Returns:
        0, or 1 where errors were found; notes and warnings are none.

    Raises:
        AptError: model or data cannot be examined at all, or there is nothing to mend.
    """
    flags = settings.from_arguments(DoctorSettings, vars(args))
    from apt_peft.doctor.diagnosis import examine
    from apt_peft.doctor.fix import mend
    from apt_peft.doctor.patient import open_patient

    patient = open_patient(flags.model, base=flags.base, revision=flags.revision)
    report = examine(patient, flags)
    # before anything is printed, so that JSON holds it too
    mended = mend(patient, report, flags.fix) if flags.fix is not None else []
    if flags.json:
        print(json.dumps(report.to_dict() | {"mended": mended, "out": flags.fix}, indent=2, ensure_ascii=False))
    else:
        print(report)
        if flags.fix is not None:
            print(f"Wrote {flags.fix} without: {', '.join(mended)}.")
    return ERRORS_FOUND if report.has_errors else 0
