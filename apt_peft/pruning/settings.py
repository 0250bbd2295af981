"""Every flag of `apt-peft prune` and of `apt-peft prompts`."""

from dataclasses import dataclass

from apt_peft.insight.measures import DEAD_BELOW
from apt_peft.pruning.scores import MEASURES, SCOPES
from apt_peft.scoring.settings import WHAT, LabelledSettings
from apt_peft.settings import INTEGER, NUMBER, NUMBERS, SWITCH, TEXT, Kind, Rule, above, at_least, setting

PRUNING, TRAINING = "pruning", "training what is left"
# With commas, as other commands take lists in one word.
WITH_COMMAS = Kind(
    "be numbers with commas between them",
    NUMBERS.accepts,
    lambda text: [float(part) for part in text.split(",")],
    NUMBERS.convert,
)
PART = Rule("be above 0 and at most 1", lambda value: 0 < value <= 1)
PARTS = Rule("be parts above 0 and at most 1", lambda parts: bool(parts) and all(map(PART.holds, parts)))


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings(LabelledSettings):
    """An adapter and the clips that its prompts are looked at on."""

    adapter: str = setting(
        TEXT, "adapter: a folder or a name on the Hub", group=WHAT, positional=True, metavar="ADAPTER"
    )
    calibration_clips: int = setting(
        INTEGER, "clips that prompts are looked at on, of all classes alike", 64, rule=at_least(1), group=WHAT
    )
    seed: int = setting(INTEGER, "of what is drawn", 0, rule=at_least(0), group=WHAT)


@dataclass(frozen=True, kw_only=True)
class PruneSettings(CalibrationSettings):
    """Every flag of `apt-peft prune`."""

    out: str = setting(TEXT, "new folder for the pruned adapter", group=WHAT, metavar="DIR")
    keep: float = setting(NUMBER, "part of the prompts to keep", 0.25, rule=PART, group=PRUNING)
    by: str = setting(
        TEXT,
        "what is kept: prompts with the most attention, the largest |gradient x value|, the largest change of the loss "
        "where they go, or drawn ones",
        "attention",
        choices=MEASURES,
        group=PRUNING,
    )
    scope: str = setting(
        TEXT, "the same part of each layer, or the best of all layers together", "layer", choices=SCOPES, group=PRUNING
    )
    curve: tuple[float, ...] | None = setting(
        WITH_COMMAS,
        "measure these parts on the validation clips, and drawn prompts for comparison: 1,0.5,0.25",
        None,
        rule=PARTS,
        group=PRUNING,
        metavar="PART,PART,...",
    )
    finetune: int | None = setting(
        INTEGER,
        "train what is left for so many epochs, into OUT/finetuned, as run.json says the adapter was trained",
        None,
        rule=at_least(1),
        group=TRAINING,
    )
    lr_factor: float = setting(
        NUMBER, "learning rates of that, as a part of those in run.json", 0.1, rule=above(0), group=TRAINING
    )


@dataclass(frozen=True, kw_only=True)
class PromptSettings(CalibrationSettings):
    """Every flag of `apt-peft prompts`."""

    split: str = setting(TEXT, "which clips", "train", choices=("train", "val", "test"), group=WHAT)
    dead_below: float = setting(
        NUMBER,
        "a prompt is dead if its attention is below this part of 1 / (N + P) in every head",
        DEAD_BELOW,
        rule=above(0),
        group=WHAT,
    )
    out: str | None = setting(TEXT, "folder for prompts.json and prompts.png", None, group=WHAT, metavar="DIR")
    json: bool = setting(SWITCH, "print JSON", False, group=WHAT)
