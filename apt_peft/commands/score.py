"""`apt-peft score`: files of scores to numbers with intervals, differences and ensembles; no model, no video."""

import argparse
import json
from dataclasses import dataclass

from apt_peft import flags, settings
from apt_peft.scores.compare import MEANS, ensemble, ensemble_origin, groups_of, read_together
from apt_peft.scores.files import StoredScores, check_path, save_scores
from apt_peft.scores.intervals import SAMPLES
from apt_peft.scores.report import Drawing, as_text, report
from apt_peft.settings import INTEGER, NUMBER, NUMBERS, SWITCH, TEXT, TEXTS, Rule, Settings, at_least, setting

EXAMPLE = """examples:
  apt-peft score first.safetensors
  apt-peft score first.safetensors second.safetensors
  apt-peft score seed-*.safetensors --ensemble probabilities --out together.safetensors
  apt-peft score ucf.parquet --group-by auto
"""
WHAT, TOGETHER, SURE = "what", "together", "how sure"


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(Settings):
    """Every flag of `apt-peft score`."""

    files: tuple[str, ...] = setting(
        TEXTS, "what evaluate --save-scores wrote; the first is what others are compared to", group=WHAT, positional=True,
        metavar="FILE",
    )  # fmt: skip
    json: bool = setting(SWITCH, "print JSON, with classes and confusions", False, group=WHAT)
    ensemble: str | None = setting(
        TEXT, "score the files together: the mean of their probabilities, or of the logarithms of these", None,
        choices=MEANS, group=TOGETHER,
    )  # fmt: skip
    weights: tuple[float, ...] | None = setting(
        NUMBERS, "of each file, in proportion (default: alike)", None, group=TOGETHER
    )
    out: str | None = setting(TEXT, "file for the scores of the ensemble", None, group=TOGETHER, metavar="FILE")
    level: float = setting(
        NUMBER, "how often intervals are to hold the true value", 0.95,
        rule=Rule("be above 0 and below 1", lambda value: 0 < value < 1), group=SURE,
    )  # fmt: skip
    samples: int = setting(INTEGER, "draws of the bootstrap", SAMPLES, rule=at_least(100), group=SURE)
    seed: int = setting(INTEGER, "of the draws", 0, rule=at_least(0), group=SURE)
    method: str | None = setting(
        TEXT,
        "kind of interval (default: bca; basic for the calibration error)",
        None,
        choices=("bca", "percentile"),
        group=SURE,
    )
    group_by: str = flags.group_by(SURE, "none", "draw videos, not clips; clips of one video are known by")

    def conflicts(self) -> list[str]:
        """Values that are fine alone and not together."""
        found = []
        if self.ensemble is None:
            found += [
                f"{name} ({value}) must go with ensemble, for it is about several files together. Add --ensemble."
                for name, value in (("weights", self.weights), ("out", self.out))
                if value is not None
            ]
        elif len(self.files) < 2:
            found.append(f"ensemble ({self.ensemble}) must be of two files or more, but there is one.")
        return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, ScoreSettings)


def run(args: argparse.Namespace) -> int:
    """Print the numbers.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: files that cannot be counted on, or are of different clips.
    """
    chosen = settings.from_arguments(ScoreSettings, vars(args))
    if chosen.out is not None:
        check_path("out", chosen.out)
    files = read_together(chosen.files)
    groups = groups_of(files[0].result, chosen.group_by)
    together = None
    if chosen.ensemble is not None:
        result = ensemble([item.result for item in files], mean=chosen.ensemble, weights=chosen.weights)
        origin = ensemble_origin(files, chosen.ensemble, chosen.weights)
        together = StoredScores(chosen.out or f"ensemble of {len(files)}", result, origin)
    drawing = Drawing(chosen.level, chosen.samples, chosen.seed, chosen.method, groups)
    found = report(files, together, drawing)
    if together is not None and chosen.out is not None:
        save_scores(chosen.out, together.result, together.provenance)
    print(json.dumps(found, indent=2, ensure_ascii=False) if chosen.json else "\n".join(as_text(found)))
    return 0
