"""`apt-peft train`: prompts and head, from clips to a scored adapter folder."""

import argparse

from apt_peft import settings
from apt_peft.training.settings import TrainSettings

EXAMPLE = """examples:
  apt-peft train --model MCG-NJU/videomae-small-finetuned-kinetics --data clips --out runs/first
  apt-peft train --recipe ucf101-vit-small-p400 --model videomae-small --data ucf101 --out runs/ucf101
  apt-peft train --config run.toml --method linear --out runs/linear
  apt-peft train --config run.toml --out runs/first --resume
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, TrainSettings, config=True)


def run(args: argparse.Namespace) -> int:
    """Train, and print the result.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: settings, data, backbone or folder cannot be used.
    """
    flags = settings.from_arguments(TrainSettings, vars(args))
    from apt_peft.training import processes
    from apt_peft.training.record import percent
    from apt_peft.training.train import train

    result = train(flags)
    first = processes.rank() == 0
    processes.leave()
    if not first:
        return 0
    scores = []
    if result.top1 is not None:
        scores.append(f"test top-1 {percent(result.top1)}")
    if result.validation_top1 is not None:
        scores.append(f"validation top-1 {percent(result.validation_top1)}")
    print(", ".join(scores) or "not evaluated: no validation or test clips", end="; ")
    print(f"{result.trained_parameters:,} parameters trained in {result.seconds:.0f} s")
    if result.skipped:
        print(f"{len(result.skipped)} clips could not be read and were skipped; run.json names them")
    print(f"adapter: {result.out}")
    return 0
