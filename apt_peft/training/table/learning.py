"""Flags of `apt-peft train` about learning: the prompts, and the optimization of whatever is trained."""

from dataclasses import dataclass

from apt_peft.settings import INTEGER, INTEGERS, NUMBER, SWITCH, TEXT, Rule, Settings, at_least, setting, within

# Headings of --help.
PROMPTS, TRAINING = "prompts", "training"

LAYERS = Rule(
    "be a list of at least one layer, counted from 0. For a head without prompts, take --method linear",
    lambda layers: len(layers) > 0 and min(layers) >= 0,
)


@dataclass(frozen=True, kw_only=True)
class Prompts(Settings):
    """The prompts, in the words of `AttentionPromptConfig` and beyond."""

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


@dataclass(frozen=True, kw_only=True)
class Training(Settings):
    """Epochs, batches, rates, the loss, and all that is random."""

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
