"""`apt-peft predict`: videos to labels with scores."""

import argparse
import json

from apt_peft import settings
from apt_peft.scoring import PredictSettings, predict
from apt_peft.training.base import threads

EXAMPLE = """examples:
  apt-peft predict --adapter runs/first new-clip.mp4
  apt-peft predict --adapter runs/first --json folder-of-clips > predictions.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, PredictSettings)


def run(args: argparse.Namespace) -> int:
    """Predict, and print the best labels of each clip.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: adapter, backbone or clips cannot be used.
    """
    flags = settings.from_arguments(PredictSettings, vars(args))
    with threads(flags.threads):
        predictions = predict(flags)
    if flags.json:
        print(json.dumps(predictions, indent=2, ensure_ascii=False))
        return 0
    for prediction in predictions:
        print(prediction["clip"] + (f": skipped, for {prediction['error']}" if "error" in prediction else ""))
        for best in prediction["scores"]:
            print(f"  {100 * best['score']:5.1f} %  {best['label']}")
    if skipped := sum("error" in prediction for prediction in predictions):
        print(f"{skipped} of {len(predictions)} clips could not be read and were skipped")
    return 0
