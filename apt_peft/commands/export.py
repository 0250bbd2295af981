"""`apt-peft export`: an adapter to a file that runs without this package, or to a smaller adapter."""

import argparse

from apt_peft import settings
from apt_peft.export.folder import ExportSettings, export_adapter
from apt_peft.training.base import threads

EXAMPLE = """examples:
  apt-peft export --adapter runs/first --out served
  apt-peft export --adapter runs/first --out served --operators standard
  apt-peft export --adapter runs/first --out folded --format adapter
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, ExportSettings)


def run(args: argparse.Namespace) -> int:
    """Export, and print what was written and checked.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: adapter or backbone cannot be used or exported, or a package is not installed.
    """
    flags = settings.from_arguments(ExportSettings, vars(args))
    with threads(flags.threads):
        exported = export_adapter(flags)
    megabytes = exported.file.stat().st_size / 1e6
    print(f"{exported.file}: {megabytes:.3g} MB, {len(exported.labels)} labels")
    print(f"checked against PyTorch on random clips: largest difference of a logit {exported.difference:.1e}")
    return 0
