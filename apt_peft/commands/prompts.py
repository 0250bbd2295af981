"""`apt-peft prompts`: what an adapter's prompts do, layer by layer."""

import argparse
import json

from apt_peft import settings
from apt_peft.pruning.settings import PromptSettings

EXAMPLE = """examples:
  apt-peft prompts runs/first --data clips
  apt-peft prompts runs/first --data clips --calibration-clips 200 --out runs/first/prompts
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, PromptSettings)


def run(args: argparse.Namespace) -> int:
    """Look at the prompts, and print the table.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: adapter, backbone or clips cannot be used.
    """
    flags = settings.from_arguments(PromptSettings, vars(args))
    from apt_peft.evaluation import unreadable_by_name
    from apt_peft.insight.report import prompt_report
    from apt_peft.opening import open_adapter
    from apt_peft.pruning.clips import calibration_clips, clip_batches, draw_clips
    from apt_peft.pruning.folder import check_prompts
    from apt_peft.training.base import threads
    from apt_peft.video.backends import choose_decoder
    from apt_peft.video.guard import warm_up

    check_prompts(flags)
    warm_up()
    choose_decoder(flags.decoder)
    with threads(flags.threads), unreadable_by_name():
        adapter = open_adapter(flags)
        clips = draw_clips(calibration_clips(flags, adapter, flags.split), flags.calibration_clips, seed=flags.seed)
        report = prompt_report(
            adapter.model, clip_batches(adapter, clips, workers=flags.workers), dead_below=flags.dead_below
        )
    if flags.out is not None:
        report.save(flags.out)
    print(json.dumps(report.to_dict(), indent=2) if flags.json else report.text())
    if not flags.json:
        print(f"on {len(clips)} {flags.split} clips; dead: below {flags.dead_below:g} of 1 / (N + P) in every head")
        if flags.out is not None:
            print(f"prompts.json and prompts.png: {flags.out}")
    return 0
