"""`apt-peft prune`: an adapter with fewer prompts, the best of them, and what that costs."""

import argparse

from apt_peft import settings
from apt_peft.pruning.settings import PruneSettings

EXAMPLE = """examples:
  apt-peft prune runs/first --data clips --keep 0.25 --out runs/quarter
  apt-peft prune runs/first --data clips --by taylor --scope model --curve 1,0.5,0.25,0.1 --out runs/quarter
  apt-peft prune runs/first --data clips --keep 0.1 --finetune 5 --out runs/tenth
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, PruneSettings)


def run(args: argparse.Namespace) -> int:
    """Prune, and print what is left and what was measured.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: adapter, backbone or clips cannot be used, or the folder is not free.
    """
    flags = settings.from_arguments(PruneSettings, vars(args))
    from apt_peft.pruning.folder import kept_by_layer, prune_adapter
    from apt_peft.training.base import threads
    from apt_peft.training.record import percent

    with threads(flags.threads):
        result = prune_adapter(flags)
    print(f"kept {kept_by_layer(result)}")
    for row in result.curve:
        print(
            f"  {row['by']:9} {row['kept']:>5g} {row['prompts']:>6,} prompts  validation top-1 {percent(row['top1'])} "
            f"({row['correct']} of {row['clips']}), loss {row['loss']:.3f}"
        )
    print(f"adapter: {result.out}")
    if result.finetuned is not None:
        trained = result.finetuned
        scores = [("test", trained.top1), ("validation", trained.validation_top1)]
        shown = ", ".join(f"{split} top-1 {percent(top1)}" for split, top1 in scores if top1 is not None)
        print(f"trained further: {shown or 'not evaluated'}; adapter: {trained.out}")
    return 0
