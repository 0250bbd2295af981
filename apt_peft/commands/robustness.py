"""`apt-peft robustness`: learning rates with and without reparameterization, weight decay and dropout, on validation clips."""

import argparse

from apt_peft import settings
from apt_peft.comparison.many import both_from_arguments
from apt_peft.sweeps.settings import RobustnessSettings
from apt_peft.training.settings import TrainSettings

EXAMPLE = """examples:
  apt-peft robustness --model videomae-small --data clips --epochs 20 --out runs/robustness --dry-run
  apt-peft robustness --model videomae-small --data clips --epochs 20 --lrs 0.001 0.01 0.1 1 10 --weight-decays 1e-5 \\
      --dropouts 0.1 --seeds 5 --out runs/robustness
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting: of the command, and of `train` what all runs share.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, RobustnessSettings)
    settings.add_arguments(parser, TrainSettings, config=True, only=RobustnessSettings.shared())


def run(args: argparse.Namespace) -> int:
    """Run the grids, and print what the numbers say.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: settings, data, backbone or folder cannot be used.
    """
    command, shared = both_from_arguments(RobustnessSettings, vars(args))
    from apt_peft.sweeps.robustness import robustness

    print(robustness(command, shared).text)
    return 0
