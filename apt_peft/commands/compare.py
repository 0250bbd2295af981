"""`apt-peft compare`: contenders on one road, tuned alike, the test split touched once, one table."""

import argparse

from apt_peft.comparison import many
from apt_peft.comparison.settings import CompareSettings, from_arguments

EXAMPLE = """examples:
  apt-peft compare --model videomae-small --data clips --methods linear,lora:8,vpt-deep,apt --out runs/compared --dry-run
  apt-peft compare --model videomae-small --data clips --methods linear,lora,apt,apt+data+gate8 --match-parameters apt:20 \\
      --seeds 3 --budget-trials 8 --folds 5 --epochs 20 --out runs/compared
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    many.add_arguments(parser, CompareSettings)


def run(args: argparse.Namespace) -> int:
    """Compare, and print the table.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: settings, data, backbone or folder cannot be used; or the test split was touched already.
    """
    comparison, shared = from_arguments(vars(args))
    from apt_peft.comparison.run import compare

    print(compare(comparison, shared).text)
    return 0
