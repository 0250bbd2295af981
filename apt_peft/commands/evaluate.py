"""`apt-peft evaluate`: an adapter folder and labelled clips to a score, tables and a picture."""

import argparse

from apt_peft import settings
from apt_peft.scoring import EvaluateSettings, evaluate_adapter
from apt_peft.training import processes
from apt_peft.training.base import threads
from apt_peft.training.record import percent

EXAMPLE = """examples:
  apt-peft evaluate --adapter runs/first --data clips
  apt-peft evaluate --adapter runs/first --data clips --segments 5 --crops 3 --out runs/first/views
  apt-peft evaluate --adapter runs/first --data clips --save-scores first.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, EvaluateSettings)


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the scores, the classes and the misclassified files.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: adapter, backbone or clips cannot be used.
    """
    flags = settings.from_arguments(EvaluateSettings, vars(args))
    with threads(flags.threads):
        result, split, out = evaluate_adapter(flags)
    first = processes.rank() == 0
    processes.leave()
    if not first:
        return 0
    top5 = "" if result.top5 is None else f", top-5 {percent(result.top5)}"
    print(f"top-1 {percent(result.top1)}{top5} of {len(result.names)} {split} clips")
    print(
        f"mean class accuracy {percent(result.values['mean_class_accuracy'])}, "
        f"calibration error {percent(result.values['calibration_error'])}, loss {result.loss:.3f}"
    )
    width = max(map(len, result.labels))
    for row in result.per_class():
        print(
            f"  {row['label']:{width}}  {row['correct']:>4} of {row['clips']:<4} precision {percent(row['precision'])}"
        )
    for row in result.mistakes():
        print(f"wrong: {row['clip']} is {row['label']}, taken for {row['predicted']} ({row['score_of_predicted']:.2f})")
    if result.skipped:
        print(f"{len(result.skipped)} clips could not be read and were skipped: {', '.join(result.skipped)}")
    if out is not None:
        print(f"tables and confusion.png: {out}")
    if flags.save_scores:
        print(f"scores: {flags.save_scores} (apt-peft score tells how sure they are)")
    return 0
