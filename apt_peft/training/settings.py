"""Every flag of `apt-peft train`: its default, its rule and its help, in one table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apt_peft import flags
from apt_peft.presets import PRESETS
from apt_peft.settings import (
    INTEGER,
    INTEGERS,
    NUMBER,
    NUMBERS,
    SWITCH,
    TEXT,
    Kind,
    Rule,
    Settings,
    at_least,
    setting,
    within,
)
from apt_peft.training.conflicts import OWN, PREFETCH, conflicts
from apt_peft.training.recipes import RECIPES, plain

# Settings that say where and how a run is carried out and not what comes out of it: a resumed run may change them.
HOW_NOT_WHAT = frozenset(
    {
        *("model", "start_from", "data", "out", "cache", "cache_limit", "feature_cache"),
        *("workers", "prefetch", "decoder", "threads", "progress", "resume", "push_to_hub", "device"),
        *("look_over", "time_limit", "save_steps", "on_error"),
    }
)

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
WHAT, DATA, CLIPS, PROMPTS, TRAINING, MACHINE, RUN = "what", "data", "clips", "prompts", "training", "machine", "run"
# Given in the place of another setting, which a recipe may have: that one is left out then.
INSTEAD_OF = {"warmup_fraction": "warmup_epochs"}

# A flag cannot leave a text out that a recipe has: `none` does.
TEXT_OR_NONE = Kind(TEXT.says, TEXT.accepts, str, lambda value: None if value == "none" else str(value))
LAYERS = Rule(
    "be a list of at least one layer, counted from 0. For a head without prompts, take --method linear",
    lambda layers: len(layers) > 0 and min(layers) >= 0,
)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """What `train` needs to know; every field is a flag of `apt-peft train` and a key of its TOML file.

    Raises:
        ConfigError: values that break their rules, all named at once.
    """

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
    train_list: str | None = setting(
        TEXT, "file of training clips, `path label` lines", None, group=DATA, metavar="FILE"
    )
    val_list: str | None = setting(TEXT, "file of validation clips", None, group=DATA, metavar="FILE")
    test_list: str | None = setting(TEXT, "file of test clips", None, group=DATA, metavar="FILE")
    labels: str | None = setting(
        TEXT, "file of class names in label order, one a line", None, group=DATA, metavar="FILE"
    )
    video_column: str | None = setting(TEXT, "column of a data set's videos", None, group=DATA, metavar="NAME")
    label_column: str | None = setting(TEXT, "column of a data set's labels", None, group=DATA, metavar="NAME")
    layout: str = flags.layout(DATA)
    split_number: int = flags.split_number(DATA)
    shard_window: int = setting(
        INTEGER, "shards whose clips are mixed with each other in an epoch, see docs/shards.md", 16, rule=at_least(1),
        group=DATA,
    )  # fmt: skip
    val_fraction: float = setting(
        NUMBER,
        "part of each training class that chooses the best epoch where there is no validation split; 0 keeps the last epoch",
        0.2,
        rule=within(0, 1, below=True),
        group=DATA,
    )
    group_by: str = flags.group_by(DATA, what="which clips stay together where validation clips are held out")
    on_error: str = flags.on_error(
        "when clips cannot be read: stop and name them, or leave them out and count them, while training too",
        group=DATA,
    )
    look_over: str = flags.look_over(group=DATA)
    time_limit: float = flags.time_limit(group=DATA)
    cache: str = setting(
        TEXT,
        "folder for decoded frames, of other than even sampling for whole videos; auto: OUT/cache while training, for even "
        "sampling, if it stays below 1 GiB; none",
        "auto",
        group=DATA,
        metavar="DIR|auto|none",
    )
    cache_format: str = flags.cache_format(group=DATA)
    cache_limit: int | None = flags.cache_limit(group=DATA)

    feature_cache: str | None = setting(
        TEXT_OR_NONE,
        "for --method linear: folder for what the backbone makes of each clip, computed once; auto: OUT/cache while training",
        None,
        group=DATA,
        metavar="DIR|auto|none",
    )
    feature_views: int | None = setting(
        INTEGER,
        "with --feature-cache and random changes of clips: so many fixed draws of each, which epochs take in turn",
        None,
        rule=at_least(1),
        group=DATA,
    )

    num_frames: int | None = setting(
        INTEGER, "frames a clip (default: the backbone's)", None, rule=at_least(1), group=CLIPS
    )
    sampling: str = setting(
        TEXT,
        "which frames: evenly over the whole video, one at random in each of equal segments, or a window with a stride",
        "even",
        choices=("even", "uniform", "dense"),
        group=CLIPS,
    )
    frame_stride: int = setting(INTEGER, "frames between two frames of a dense clip", 4, rule=at_least(1), group=CLIPS)
    size: int | None = setting(
        INTEGER, "height and width of a clip in pixels (default: the backbone's)", None, rule=at_least(1), group=CLIPS
    )
    resize: str | None = setting(
        TEXT,
        "cut a square out or squash the whole picture into one (default: as the backbone's preprocessor says, else crop)",
        None,
        choices=("crop", "squash"),
        group=CLIPS,
    )
    augment: str = setting(
        TEXT,
        "training clips: none, a random flip, or a random crop and flip",
        "flip",
        choices=("none", "flip", "crop"),
        group=CLIPS,
    )
    flip: bool = setting(
        SWITCH,
        "flip every second training clip with --augment flip and crop; --no-flip is for classes that tell directions",
        True,
        group=CLIPS,
    )
    rand_augment: str | None = setting(
        TEXT_OR_NONE,
        "random operations on training clips, written as timm does: rand-m4-n2-mstd0.2-inc1 is as published; none",
        None,
        group=CLIPS,
        metavar="CONFIG",
    )
    random_resized_crop: bool = setting(
        SWITCH,
        "train on a random 8 to 100 % of the picture, as published; for --augment flip or none",
        False,
        group=CLIPS,
    )
    augment_resolution: str = setting(
        TEXT,
        "augment frames as decoded, as published, or prepared ones, which are resized first: less work, and they can be kept",
        "prepared",
        choices=("prepared", "full"),
        group=CLIPS,
    )
    repeated_augmentation: int = setting(
        INTEGER, "how often each clip of a batch is augmented; it is decoded once", 1, rule=at_least(1), group=CLIPS
    )
    random_erasing: float = setting(
        NUMBER,
        "probability that a box of a training clip is erased, the same in all frames",
        0.0,
        rule=within(0, 1),
        group=CLIPS,
    )
    mean: tuple[float, ...] | None = setting(
        NUMBERS,
        "mean of each colour channel in 0..1 (default: the backbone's preprocessor's, else ImageNet's)",
        None,
        group=CLIPS,
    )
    std: tuple[float, ...] | None = setting(
        NUMBERS, "deviation of each colour channel (default: as for mean)", None, group=CLIPS
    )
    segments: int = setting(INTEGER, "clips of a test video in time", 1, rule=at_least(1), group=CLIPS)
    crops: int = setting(INTEGER, "squares of a test clip along its longer side", 1, rule=at_least(1), group=CLIPS)

    num_prompt_tokens: int = setting(
        INTEGER, "prompt keys and values of each layer", 100, rule=within(1, 65536), group=PROMPTS
    )
    prompt_dropout: float = setting(NUMBER, "dropout on the prompts", 0.1, rule=within(0, 1, below=True), group=PROMPTS)
    reparameterization: str = setting(
        TEXT, "factor of each prompt", "max", choices=("max", "softplus", "none"), group=PROMPTS
    )
    key_gate: int = setting(
        INTEGER,
        "directions of a layer that score the tokens' own keys: an addition to the published method; 0: none",
        0,
        rule=within(0, 1024),
        group=PROMPTS,
    )
    train_norms: bool = setting(
        SWITCH,
        "train the norms of the blocks that get prompts as well, at the prompts' rate: an addition",
        False,
        group=PROMPTS,
    )
    share_prompts_across_heads: bool = setting(SWITCH, "all heads of a layer use the same prompts", True, group=PROMPTS)
    init_weights: str = setting(
        TEXT,
        "start of the prompts: at random as published, or keys and values of a training batch",
        "published",
        choices=("published", "data"),
        group=PROMPTS,
    )
    layers_to_transform: tuple[int, ...] | None = setting(
        INTEGERS, "layers that get prompts, from 0 (default: all)", None, rule=LAYERS, group=PROMPTS
    )

    epochs: int = setting(INTEGER, "passes over the training clips", 20, rule=at_least(1), group=TRAINING)
    batch_size: int = setting(INTEGER, "clips of a batch", 8, rule=at_least(1), group=TRAINING)
    gradient_accumulation_steps: int = setting(
        INTEGER, "batches of an optimizer step", 1, rule=at_least(1), group=TRAINING
    )
    lr: float | None = setting(
        NUMBER,
        "learning rate of the prompts, or of the baseline's parameters (default: 0.1, less for most baselines; 0.05 by the "
        "published rule)",
        None,
        rule=at_least(0),
        group=TRAINING,
    )
    head_lr: float | None = setting(
        NUMBER,
        "learning rate of the head (default: 0.01; by the published rule that of the prompts, or 0.01 for --method linear)",
        None,
        rule=at_least(0),
        group=TRAINING,
    )
    lr_rule: str = setting(
        TEXT,
        "absolute: rates as given; published: rates, their start and minimum x clips per step / 256",
        "absolute",
        choices=("absolute", "published"),
        group=TRAINING,
    )
    min_lr: float | None = setting(
        NUMBER, "rate at the end (default: 0; 1e-6 by the published rule)", None, rule=at_least(0), group=TRAINING
    )
    warmup_start_lr: float | None = setting(
        NUMBER,
        "rate at the start of the warm-up (default: 0; 1e-6 by the published rule)",
        None,
        rule=at_least(0),
        group=TRAINING,
    )
    warmup_fraction: float | None = setting(
        NUMBER, "part of all steps in which the rate rises (default: 0.1)", None, rule=within(0, 1), group=TRAINING
    )
    warmup_epochs: float | None = setting(
        NUMBER, "epochs in which the rate rises, in the place of a fraction", None, rule=at_least(0), group=TRAINING
    )
    weight_decay: float = setting(
        NUMBER, "weight decay of tensors with two dimensions and more", 1e-5, rule=at_least(0), group=TRAINING
    )
    label_smoothing: float = setting(
        NUMBER, "part of each target spread over all classes", 0.1, rule=within(0, 1, below=True), group=TRAINING
    )
    mixup: float = setting(
        NUMBER,
        "mix clips of a batch, in parts from Beta(ALPHA, ALPHA); 0: never",
        0.0,
        rule=at_least(0),
        group=TRAINING,
        metavar="ALPHA",
    )
    cutmix: float = setting(
        NUMBER,
        "put a box of another clip of the batch into each, of a size from Beta(ALPHA, ALPHA); 0: never",
        0.0,
        rule=at_least(0),
        group=TRAINING,
        metavar="ALPHA",
    )
    mixup_prob: float | None = setting(
        NUMBER,
        "with --mixup or --cutmix: probability for each batch (default: 1)",
        None,
        rule=within(0, 1),
        group=TRAINING,
    )
    mixup_switch_prob: float | None = setting(
        NUMBER,
        "with both: probability of cutmix rather than mixup (default: 0.5)",
        None,
        rule=within(0, 1),
        group=TRAINING,
    )
    loss: str = setting(
        TEXT,
        "cross entropy, or the focal loss, in which clips that are easy count less",
        "cross-entropy",
        choices=("cross-entropy", "focal"),
        group=TRAINING,
    )
    focal_gamma: float | None = setting(
        NUMBER,
        "with --loss focal: how much less (default: 2; 0 is cross entropy)",
        None,
        rule=at_least(0),
        group=TRAINING,
    )
    class_weights: str = setting(
        TEXT,
        "weight of a class in the loss: n / (k n_c), or by the effective number of its clips",
        "none",
        choices=("none", "balanced", "effective"),
        group=TRAINING,
    )
    class_weights_beta: float | None = setting(
        NUMBER,
        "with --class-weights effective: 0 weighs classes alike, near 1 is nearly balanced (default: 0.999)",
        None,
        rule=within(0, 1, below=True),
        group=TRAINING,
    )
    balanced_sampling: bool = setting(
        SWITCH, "draw clips so that an epoch has as many of each class", False, group=TRAINING
    )
    max_grad_norm: float = setting(
        NUMBER, "clip the gradient to this norm; 0: never", 0.0, rule=at_least(0), group=TRAINING
    )
    validate_every: int = setting(
        INTEGER, "validate after every so many epochs, and after the last; the best of these is kept", 1, rule=at_least(1),
        group=TRAINING, metavar="EPOCHS",
    )  # fmt: skip
    drop_last: bool = setting(SWITCH, "leave out an epoch's incomplete last batch, as published", False, group=TRAINING)
    seed: int = setting(INTEGER, "seed of everything random", 0, rule=within(0, 2**32 - 1), group=TRAINING)

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

    def conflicts(self) -> list[str]:
        """Values that are fine alone and not together."""
        return conflicts(self)

    @classmethod
    def complete(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Put the values of a recipe, and those of a preset over them, below the given ones.

        Args:
            given: settings by name, perhaps with a `recipe` and a `preset`.

        Returns:
            Those of both and the given ones over them.
        """
        below: dict[str, Any] = {}
        for name, table in (("recipe", RECIPES), ("preset", PRESETS)):
            if isinstance(given.get(name), str) and given[name] in table:
                below |= table[given[name]].settings
        left_out = {theirs for ours, theirs in INSTEAD_OF.items() if ours in given}
        return {name: value for name, value in below.items() if name not in left_out} | dict(given)

    @classmethod
    def of_recipe(cls, recipe: str, **given: Any) -> "TrainSettings":
        """The settings of a recipe, some of them given.

        Args:
            recipe: its name.
            **given: settings; `model`, `data` and `out` at least.

        Returns:
            What `apt-peft train --recipe` with these flags would take.

        Raises:
            ConfigError: there is no such recipe, or values break their rules.
        """
        return cls(**cls.complete({"recipe": recipe, **given}))

    @classmethod
    def of_preset(cls, preset: str, **given: Any) -> "TrainSettings":
        """The settings of a preset, some of them given.

        Args:
            preset: its name.
            **given: settings; `model`, `data` and `out` at least.

        Returns:
            What `apt-peft train --preset` with these flags would take.

        Raises:
            ConfigError: there is no such preset, or values break their rules.
        """
        return cls(**cls.complete({"preset": preset, **given}))

    def overridden(self) -> dict[str, dict[str, Any]]:
        """The recipe's values that this run has otherwise: name -> `from` (the recipe's) and `to` (this run's)."""
        return {} if self.recipe is None else self._changed(RECIPES[self.recipe].settings)

    def preset_run(self) -> dict[str, Any] | None:
        """What run.json says of the preset: its name, source and values, and those that this run has otherwise."""
        if self.preset is None:
            return None
        preset = PRESETS[self.preset]
        changed = self._changed(preset.settings)
        return {
            "name": preset.name,
            "source": preset.source,
            "settings": plain(preset.settings),
            "overridden": changed,
        }

    def _changed(self, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        now = self.as_dict()
        return {name: {"from": value, "to": now[name]} for name, value in plain(settings).items() if now[name] != value}

    def warmup_steps(self, steps: int) -> int:
        """Steps in which the rate rises.

        Args:
            steps: of the whole run.

        Returns:
            As many as `warmup_epochs` have, else `warmup_fraction` of all.
        """
        if self.warmup_epochs is not None:
            return round(steps * self.warmup_epochs / self.epochs)
        return round((0.1 if self.warmup_fraction is None else self.warmup_fraction) * steps)

    @property
    def clips_per_step(self) -> int:
        """Clips of one optimizer step of one process."""
        return self.batch_size * self.gradient_accumulation_steps

    def what_comes_out(self) -> dict:
        """The settings that decide the result, which a resumed run must repeat."""
        return {name: value for name, value in self.as_dict().items() if name not in HOW_NOT_WHAT}
