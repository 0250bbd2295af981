"""`apt-peft sweep-prompts`: accuracy and cost against the number of prompts, each tuned alike, on validation clips."""

import argparse

from apt_peft.comparison import many
from apt_peft.sweeps.settings import PromptSweepSettings

EXAMPLE = """examples:
  apt-peft sweep-prompts --model videomae-small --data clips --epochs 20 --out runs/prompts --dry-run
  apt-peft sweep-prompts --model videomae-small --data clips --epochs 20 --methods apt,apt+data,vpt-deep \\
      --prompts 1 4 16 64 256 --budget-trials 4 --no-tune-head --out runs/prompts
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    many.add_arguments(parser, PromptSweepSettings)


def run(args: argparse.Namespace) -> int:
    """Run the sweep, and print its table.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: settings, data, backbone or folder cannot be used.
    """
    command, shared = many.both_from_arguments(PromptSweepSettings, vars(args))
    from apt_peft.sweeps.prompts import sweep_prompts

    print(sweep_prompts(command, shared).text)
    return 0
