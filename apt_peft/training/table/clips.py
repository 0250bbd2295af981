"""Flags of `apt-peft train` about clips: which there are, and what becomes of them before the model sees them."""

from dataclasses import dataclass

from apt_peft import flags
from apt_peft.settings import INTEGER, NUMBER, NUMBERS, SWITCH, TEXT, Kind, Settings, at_least, setting, within

# Headings of --help.
DATA, CLIPS = "data", "clips"

# A flag cannot leave a text out that a recipe has: `none` does.
TEXT_OR_NONE = Kind(TEXT.says, TEXT.accepts, str, lambda value: None if value == "none" else str(value))


@dataclass(frozen=True, kw_only=True)
class Data(Settings):
    """Where clips and their labels are, how they are divided, and what is kept of them."""

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


@dataclass(frozen=True, kw_only=True)
class Clips(Settings):
    """Frames, size, augmentation and views of a clip."""

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
