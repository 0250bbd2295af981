"""`apt-peft check`: every clip looked at once, before a training that would fail or mislead."""

import argparse
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from apt_peft import flags, settings
from apt_peft.settings import INTEGER, NUMBER, SWITCH, TEXT, Settings, at_least, setting, within

if TYPE_CHECKING:
    from apt_peft.video import AuditReport, DataSplits

EXAMPLE = """examples:
  apt-peft check clips
  apt-peft check clips --train-list train.csv --test-list test.csv --num-frames 16
"""
WOULD_FAIL = 1


@dataclass(frozen=True, kw_only=True)
class CheckSettings(Settings):
    """Every flag of `apt-peft check`; those of `train` have the same names."""

    data: str = setting(TEXT, "clips, as for train --data", positional=True, metavar="DATA")
    train_list: str | None = setting(TEXT, "file of training clips, `path label` lines", None, metavar="FILE")
    val_list: str | None = setting(TEXT, "file of validation clips", None, metavar="FILE")
    test_list: str | None = setting(TEXT, "file of test clips", None, metavar="FILE")
    labels: str | None = setting(TEXT, "file of class names in label order, one a line", None, metavar="FILE")
    video_column: str | None = setting(TEXT, "column of a data set's videos", None, metavar="NAME")
    label_column: str | None = setting(TEXT, "column of a data set's labels", None, metavar="NAME")
    layout: str = flags.layout()
    split_number: int = flags.split_number()
    on_error: str = flags.on_error("as for train: with skip, unreadable clips do not fail")
    group_by: str = flags.group_by(what="which clips were cut from one video, as for train")
    time_limit: float = flags.time_limit()
    num_frames: int | None = setting(INTEGER, "frames a clip, to count shorter videos", None, rule=at_least(1))
    val_fraction: float = setting(
        NUMBER, "as for train: part of the training clips to hold out", 0.2, rule=within(0, 1, below=True)
    )
    decode: bool = setting(SWITCH, "decode every frame; without it only the first, which is quick", True)
    sheet: str | None = setting(
        TEXT, "write a contact sheet: clips to look at, and some of each class", None, metavar="FILE.html|FILE.png"
    )
    json: bool = setting(SWITCH, "print JSON", False)
    progress: bool = setting(SWITCH, "show a progress bar", True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, CheckSettings)


def run(args: argparse.Namespace) -> int:
    """Look at the clips, and print what was found.

    Args:
        args: parsed arguments.

    Returns:
        0, or 1 where training would fail.

    Raises:
        AptError: there are no clips to look at, or lists that cannot be used.
    """
    chosen = settings.from_arguments(CheckSettings, vars(args))
    from apt_peft.video import audit
    from apt_peft.video.guard import warm_up
    from apt_peft.video.shards.read import is_shards
    from apt_peft.video.shards.verify import verify_shards
    from apt_peft.video.sheet import check_sheet, write_sheet

    if chosen.sheet is not None:
        check_sheet(chosen.sheet)
    warm_up()
    splits = flags.read_clips(chosen)
    count = sum(len(clips) for _, clips in splits.items())
    with tqdm(total=count, desc="reading clips", unit="clip", disable=not chosen.progress, leave=False) as bar:
        report = audit(
            splits,
            num_frames=chosen.num_frames,
            decode=chosen.decode,
            on_error=chosen.on_error,
            root=chosen.data,
            group_by=chosen.group_by,
            time_limit=chosen.time_limit,
            progress=bar.update,
        )
    if chosen.decode and not chosen.train_list and is_shards(chosen.data):
        (report.warnings if chosen.on_error == "skip" else report.problems).extend(verify_shards(chosen.data))
    if chosen.sheet is not None:
        with tqdm(desc="contact sheet", unit="clip", disable=not chosen.progress, leave=False) as bar:
            write_sheet(chosen.sheet, report, splits, time_limit=chosen.time_limit, progress=bar.update)
    if not splits.val and chosen.val_fraction > 0:
        _see_what_is_held_out(report, splits, chosen)
    print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) if chosen.json else report)
    return WOULD_FAIL if report.fatal else 0


def _see_what_is_held_out(report: "AuditReport", splits: "DataSplits", chosen: CheckSettings) -> None:
    """Say what training would meet when it holds validation clips out."""
    from apt_peft.video.groups import group_clips, held_out_warnings

    groups, rule = group_clips(splits.train, chosen.data, group_by=chosen.group_by, layout=splits.layout)
    report.warnings.extend(held_out_warnings(splits.train, rule, group_by=chosen.group_by))
    files = [file for file in report.files if file.split == "train"]
    usable = {(group, file.label) for group, file in zip(groups, files, strict=True) if file.found is not None}
    classes = {label for _, label in usable}
    if len(classes) > 1 and len(usable) == len(classes):
        report.problems.append(
            "No class has two training videos, so none can be held out for validation. Give validation clips, or "
            "train with --val-fraction 0."
        )
