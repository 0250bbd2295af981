"""Flags of `apt-peft evaluate` and `apt-peft predict`."""

from dataclasses import dataclass

from apt_peft import flags
from apt_peft.settings import INTEGER, NUMBERS, SWITCH, TEXT, Settings, at_least, setting

WHAT, CLIPS, MACHINE = "what", "clips (default: as the adapter was trained)", "machine"


@dataclass(frozen=True, kw_only=True)
class ScoringSettings(Settings):
    """What both commands need to know; fields without a value follow the adapter's run.json."""

    adapter: str = setting(TEXT, "adapter: a folder or a name on the Hub", group=WHAT, metavar="DIR_OR_HUB")
    revision: str | None = setting(
        TEXT, "branch, tag or commit of an adapter on the Hub", None, group=WHAT, metavar="NAME"
    )
    model: str | None = setting(
        TEXT, "backbone (default: the one the adapter names)", None, group=WHAT, metavar="DIR_OR_HUB"
    )
    on_error: str = flags.on_error("when clips cannot be read: stop and name them, or leave them out", group=WHAT)
    look_over: str = flags.look_over(group=WHAT)
    time_limit: float = flags.time_limit(group=WHAT)
    num_frames: int | None = setting(INTEGER, "frames a clip", None, rule=at_least(1), group=CLIPS)
    sampling: str | None = setting(TEXT, "which frames", None, choices=("even", "uniform", "dense"), group=CLIPS)
    frame_stride: int | None = setting(
        INTEGER, "frames between two frames of a dense clip", None, rule=at_least(1), group=CLIPS
    )
    size: int | None = setting(INTEGER, "height and width in pixels", None, rule=at_least(1), group=CLIPS)
    resize: str | None = setting(TEXT, "cut a square out, or squash", None, choices=("crop", "squash"), group=CLIPS)
    mean: tuple[float, ...] | None = setting(NUMBERS, "mean of each colour channel", None, group=CLIPS)
    std: tuple[float, ...] | None = setting(NUMBERS, "deviation of each colour channel", None, group=CLIPS)
    segments: int | None = setting(INTEGER, "clips of a video in time", None, rule=at_least(1), group=CLIPS)
    crops: int | None = setting(INTEGER, "squares along the longer side", None, rule=at_least(1), group=CLIPS)
    batch_size: int | None = setting(
        INTEGER, "clips x views of one forward pass (default: training's)", None, rule=at_least(1), group=MACHINE
    )
    workers: int = setting(INTEGER, "processes that decode", 0, rule=at_least(0), group=MACHINE)
    decoder: str = flags.decoder(group=MACHINE)
    threads: int | None = setting(INTEGER, "CPU threads of torch", None, rule=at_least(1), group=MACHINE)
    device: str = setting(TEXT, "where to compute", "auto", choices=("auto", "cpu"), group=MACHINE)
    progress: bool = setting(SWITCH, "show a progress bar", True, group=MACHINE)


@dataclass(frozen=True, kw_only=True)
class LabelledSettings(ScoringSettings):
    """What commands that take labelled clips need to know besides."""

    data: str = setting(TEXT, "labelled clips, as for train", group=WHAT, metavar="DATA")
    train_list: str | None = setting(
        TEXT, "file of training clips, `path label` lines", None, group=WHAT, metavar="FILE"
    )
    val_list: str | None = setting(TEXT, "file of validation clips", None, group=WHAT, metavar="FILE")
    test_list: str | None = setting(TEXT, "file of test clips", None, group=WHAT, metavar="FILE")
    video_column: str | None = setting(TEXT, "column of a data set's videos", None, group=WHAT, metavar="NAME")
    label_column: str | None = setting(TEXT, "column of a data set's labels", None, group=WHAT, metavar="NAME")
    layout: str = flags.layout(group=WHAT)
    split_number: int = flags.split_number(group=WHAT)
    labels: str | None = setting(TEXT, "file of the data's class names, one a line", None, group=WHAT, metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(LabelledSettings):
    """Every flag of `apt-peft evaluate`."""

    split: str | None = setting(
        TEXT,
        "which clips (default: test, else val, else all there are)",
        None,
        choices=("train", "val", "test"),
        group=WHAT,
    )
    out: str | None = setting(
        TEXT,
        "folder for tables and pictures (default: ADAPTER/evaluation, with -train or -val for these splits; none for an "
        "adapter on the Hub)",
        None,
        group=WHAT,
        metavar="DIR",
    )
    group_by: str = flags.group_by(WHAT, what="which clips were cut from one video, as --save-scores writes down")
    save_scores: str | None = setting(
        TEXT,
        "file for the scores of each clip, .safetensors or .parquet: see apt-peft score",
        None,
        group=WHAT,
        metavar="FILE",
    )
    per_view: bool = setting(SWITCH, "save the logits of each view as well", False, group=WHAT)
    resume: bool = setting(
        SWITCH, "with --save-scores: go on with an evaluation of the same that was cut short", True, group=WHAT
    )

    def conflicts(self) -> list[str]:
        """Values that are fine alone and not together."""
        if self.per_view and self.save_scores is None:
            return [
                "per_view (True) must go with save_scores, for the logits are written there. Add --save-scores FILE."
            ]
        return []


@dataclass(frozen=True, kw_only=True)
class PredictSettings(ScoringSettings):
    """Every flag of `apt-peft predict`."""

    clips: str = setting(
        TEXT, "a video, a folder of them, or shards", group=WHAT, positional=True, metavar="CLIP_OR_FOLDER"
    )
    top_k: int = setting(INTEGER, "labels to show a clip", 5, rule=at_least(1), group=WHAT)
    json: bool = setting(SWITCH, "print JSON", False, group=WHAT)
