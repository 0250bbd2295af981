"""`apt-peft robustness`: learning rates with and without reparameterization, weight decay and dropout, on validation clips."""

import argparse

from apt_peft.comparison import many
from apt_peft.sweeps.settings import RobustnessSettings

EXAMPLE = """examples:
  apt-peft robustness --model videomae-small --data clips --epochs 20 --out runs/robustness --dry-run
  apt-peft robustness --model videomae-small --data clips --epochs 20 --lrs 0.001 0.01 0.1 1 10 --weight-decays 1e-5 \\
      --dropouts 0.1 --seeds 5 --out runs/robustness
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    many.add_arguments(parser, RobustnessSettings)


def run(args: argparse.Namespace) -> int:
    """Run the grids, and print what the numbers say.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: settings, data, backbone or folder cannot be used.
    """
    command, shared = many.both_from_arguments(RobustnessSettings, vars(args))
    from apt_peft.sweeps.robustness import robustness

    print(robustness(command, shared).text)
    return 0
