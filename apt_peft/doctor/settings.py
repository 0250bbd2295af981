"""Every flag of `apt-peft doctor`."""

from dataclasses import dataclass

from apt_peft import flags
from apt_peft.settings import INTEGER, SWITCH, TEXT, Settings, at_least, setting

DATA = "data"


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(Settings):
    """What `doctor` needs to know; those of data have the same names as in `train`.

    Raises:
        ConfigError: values that break their rules, all named at once.
    """

    model: str = setting(
        TEXT, "backbone, or adapter with its backbone: a folder or a name on the Hub", positional=True, metavar="MODEL"
    )
    data: str | None = setting(TEXT, "clips, as for train --data", None, positional=True, metavar="DATA")
    base: str | None = setting(
        TEXT, "backbone of an adapter (default: the one that it names)", None, metavar="DIR_OR_HUB"
    )
    revision: str | None = setting(TEXT, "branch, tag or commit on the Hub", None, metavar="NAME")
    fix: str | None = setting(
        TEXT, "write a copy with what is mechanical mended; the original stays", None, metavar="OUT"
    )
    features: bool = setting(SWITCH, "run a few clips through the backbone; without it only files are read", True)
    clips: int = setting(INTEGER, "clips of DATA for the probe, at most", 96, rule=at_least(4), group=DATA)
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
    time_limit: float = flags.time_limit(DATA)
    threads: int | None = setting(INTEGER, "CPU threads of torch (default: torch's choice)", None, rule=at_least(1))
    json: bool = setting(SWITCH, "print JSON", False)
