"""`apt-peft lists`: clips to lists of train, val and test clips, stratified, clips of one video never in two of them."""

import argparse
import logging
from dataclasses import dataclass

from apt_peft import flags, settings
from apt_peft.settings import INTEGER, NUMBER, SWITCH, TEXT, Settings, at_least, setting, within

EXAMPLE = """examples:
  apt-peft lists clips --out lists --pool --val 0.1 --test 0.2
  apt-peft lists hmdb51 --out folds --folds 5
"""
WHAT, DATA = "what", "data"
logger = logging.getLogger("apt_peft")


@dataclass(frozen=True, kw_only=True)
class ListsSettings(Settings):
    """Every flag of `apt-peft lists`; those of `train` have the same names."""

    data: str = setting(TEXT, "clips, as for train --data", positional=True, group=WHAT, metavar="DATA")
    out: str = setting(TEXT, "folder for the lists, new or empty", group=WHAT, metavar="DIR")
    val: float | None = setting(NUMBER, "part of the clips for validation, such as 0.1", None, group=WHAT, metavar="X")
    test: float | None = setting(NUMBER, "part of the clips for the test, such as 0.2", None, group=WHAT, metavar="X")
    folds: int | None = setting(
        INTEGER,
        "K pairs of training and validation lists for cross-validation",
        None,
        rule=at_least(2),
        group=WHAT,
        metavar="K",
    )
    pool: bool = setting(
        SWITCH, "divide all clips anew; without it, splits that the data has stay as they are", False, group=WHAT
    )
    group_by: str = flags.group_by(WHAT)
    seed: int = setting(INTEGER, "seed of the split", 0, rule=within(0, 2**32 - 1), group=WHAT)
    overwrite: bool = setting(SWITCH, "replace lists that this command wrote to --out", False, group=WHAT)
    train_list: str | None = setting(TEXT, "file of clips, `path label` lines", None, group=DATA, metavar="FILE")
    val_list: str | None = setting(TEXT, "file of validation clips", None, group=DATA, metavar="FILE")
    test_list: str | None = setting(TEXT, "file of test clips", None, group=DATA, metavar="FILE")
    labels: str | None = setting(
        TEXT, "file of class names in label order, one a line", None, group=DATA, metavar="FILE"
    )
    video_column: str | None = setting(TEXT, "column of a data set's videos", None, group=DATA, metavar="NAME")
    label_column: str | None = setting(TEXT, "column of a data set's labels", None, group=DATA, metavar="NAME")
    layout: str = flags.layout(DATA)
    split_number: int = flags.split_number(DATA)
    on_error: str = flags.on_error("when more than a tenth of a public data set is missing", group=DATA)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, ListsSettings)


def run(args: argparse.Namespace) -> int:
    """Write the lists, and print what is in them.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: clips or flags that cannot be used, or a folder in use.
    """
    chosen = settings.from_arguments(ListsSettings, vars(args))
    from apt_peft.video.folder_of_files import check_folder
    from apt_peft.video.write_lists import SplitPlan, write_lists

    check_folder(chosen.out, overwrite=chosen.overwrite)
    data = flags.read_clips(chosen)
    plan = SplitPlan(chosen.val, chosen.test, chosen.folds, chosen.pool, chosen.group_by, chosen.seed)
    written = write_lists(data, chosen.data, chosen.out, plan, overwrite=chosen.overwrite)
    for warning in written.warnings:
        logger.warning("%s", warning)
    print(written)
    return 0
