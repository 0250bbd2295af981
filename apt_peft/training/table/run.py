"""Flags of `apt-peft train` that say what is trained from which files, and where and how the run is carried out."""

from dataclasses import dataclass

from apt_peft import flags
from apt_peft.presets import PRESETS
from apt_peft.settings import INTEGER, SWITCH, TEXT, Settings, at_least, setting
from apt_peft.training.conflicts import OWN, PREFETCH
from apt_peft.training.recipes import RECIPES

# Names of baselines/methods.py, which a command line that asks for none of them need not import.
METHODS = (
    *OWN,
    "vpt-shallow",
    "vpt-deep",
    "adaptformer",
    "bitfit",
    "lora",
    "ia3",
    "oft",
    "ln",
    "partial",
    "full",
)

# Headings of --help.
WHAT, MACHINE, RUN = "what", "machine", "run"


@dataclass(frozen=True, kw_only=True)
class What(Settings):
    """Backbone, clips, place of the adapter, and the method."""

    model: str = setting(TEXT, "backbone: a folder or a name on the Hub", group=WHAT, metavar="DIR_OR_HUB")
    data: str = setting(
        TEXT,
        "clips: a folder per class, train/val/test folders of these, the folder that list files refer to, or a data set",
        group=WHAT,
        metavar="DATA",
    )
    out: str = setting(TEXT, "folder for the adapter", group=WHAT, metavar="DIR")
    recipe: str | None = setting(
        TEXT,
        "defaults of a published run, by its name: apt-peft recipes lists them; --config and flags override it",
        None,
        choices=tuple(RECIPES),
        group=WHAT,
        metavar="NAME",
    )
    preset: str | None = setting(
        TEXT,
        "variant of the prompts that was chosen by measurement (docs/science.md); stands over a recipe, flags override it",
        None,
        choices=tuple(PRESETS),
        group=WHAT,
        metavar="NAME",
    )
    method: str = setting(
        TEXT, "what is trained: prompts and head, the head alone, or a baseline", "apt", choices=METHODS, group=WHAT
    )
    method_size: int | None = setting(
        INTEGER,
        "size of a baseline: rank of lora, width of adaptformer, tokens of vpt, blocks of partial (default: as usual there)",
        None,
        rule=at_least(1),
        group=WHAT,
    )
    start_from: str | None = setting(
        TEXT,
        "adapter whose prompts and head the training goes on from, with its settings of the prompts",
        None,
        group=WHAT,
        metavar="DIR_OR_HUB",
    )


@dataclass(frozen=True, kw_only=True)
class How(Settings):
    """What the run computes with, and what it does besides training."""

    bf16: bool = setting(SWITCH, "mixed precision in bfloat16", False, group=MACHINE)
    fp16: bool = setting(SWITCH, "mixed precision in float16 (needs a GPU)", False, group=MACHINE)
    gradient_checkpointing: bool = setting(SWITCH, "compute activations twice to save memory", False, group=MACHINE)
    device: str = setting(
        TEXT, "where to compute: a GPU where there is one, or the CPU", "auto", choices=("auto", "cpu"), group=MACHINE
    )
    threads: int | None = setting(
        INTEGER, "CPU threads of torch (default: torch's choice)", None, rule=at_least(1), group=MACHINE
    )
    workers: int = setting(
        INTEGER, "processes that decode clips; 0: none besides the main one", 0, rule=at_least(0), group=MACHINE
    )
    prefetch: int = setting(
        INTEGER, "batches that each of --workers reads ahead of the training", PREFETCH, rule=at_least(1), group=MACHINE
    )
    decoder: str = flags.decoder(group=MACHINE)
    test: bool = setting(SWITCH, "evaluate a test split once at the end", True, group=RUN)
    save_steps: int | None = setting(
        INTEGER,
        "save every so many optimizer steps too, not only after each epoch; --resume then goes on in the middle of one",
        None,
        rule=at_least(1),
        group=RUN,
    )
    resume: bool = setting(
        SWITCH, "go on from the last complete checkpoint in --out, or start there if there is none", False, group=RUN
    )
    progress: bool = setting(SWITCH, "show a progress bar", True, group=RUN)
    push_to_hub: str | None = setting(
        TEXT, "upload the adapter to this repository at the end", None, group=RUN, metavar="USER/NAME"
    )
