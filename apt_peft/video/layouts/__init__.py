"""Public data sets as they are downloaded -> clips: one table, a small file for each set."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import ConfigError, DataError
from ..clip import DataSplits
from . import hmdb51, k400, ssv2, ucf101
from .listing import assemble


@dataclass(frozen=True)
class Layout:
    """How a public data set lies on the disk.

    Args:
        module: has `find(root)`, `read(root, found, split_number)`, `group(path)` and TITLE.
        must_have: what `find` looks for, as the end of a sentence.
        splits: how many splits into training and test clips are published.
    """

    module: ModuleType
    must_have: str
    splits: int = 1

    @property
    def title(self) -> str:
        """What to call it in messages."""
        return self.module.TITLE

    @property
    def group(self) -> Callable[[Path], str | None]:
        """The name of the video that a clip was cut from."""
        return self.module.group


LAYOUTS = {
    "ucf101": Layout(ucf101, "classInd.txt and trainlist01.txt in a folder such as ucfTrainTestlist", 3),
    "hmdb51": Layout(hmdb51, "CLASS_test_split1.txt in a folder such as testTrainMulti_7030_splits", 3),
    "ssv2": Layout(ssv2, "labels.json and train.json with templates in a folder such as labels"),
    "k400": Layout(
        k400, "csv files with the columns youtube_id, time_start and time_end in a folder such as annotations"
    ),
}
AUTO, NONE = "auto", "none"
CHOICES = (AUTO, *LAYOUTS, NONE)


def find_layout(root: Path, layout: str = AUTO) -> tuple[str, Any] | None:
    """Which public data set a folder holds.

    Args:
        root: the folder.
        layout: a name of `LAYOUTS`; `"auto"` finds it by its annotations, `"none"` looks for none.

    Returns:
        The name and what its module found; None where it is no public data set.

    Raises:
        ConfigError: an unknown layout.
        DataError: it is not what it is said to be, or several at once.
    """
    if layout not in CHOICES:
        raise ConfigError(f"layout ({layout!r}) must be one of {', '.join(CHOICES)}.")
    if layout == NONE:
        return None
    if layout != AUTO:
        found = LAYOUTS[layout].module.find(root)
        if found is None:
            raise DataError(
                f"data ({root}) must be laid out as {LAYOUTS[layout].title}, with {LAYOUTS[layout].must_have}, but there is "
                "no such thing in it. Give the folder that holds both these and the videos."
            )
        return layout, found
    all_found = {name: found for name, entry in LAYOUTS.items() if (found := entry.module.find(root)) is not None}
    if len(all_found) > 1:
        raise DataError(
            f"data ({root}) must be one data set, but it looks like {' and '.join(all_found)}. Give the folder of one of "
            "them, or say which it is by --layout."
        )
    return next(iter(all_found.items()), None)


def read_layout(
    root: Path, name: str, found: Any, names: list[str] | None, *, split_number: int = 1, on_error: str = "raise"
) -> DataSplits:
    """Read the clips of a public data set; no video is opened.

    Args:
        root: the folder.
        name: of the layout.
        found: what `find_layout` gave.
        names: of the classes, in another order; None for the set's own.
        split_number: which published split, from 1.
        on_error: `"skip"` takes what there is where more than a tenth of a split is missing.

    Returns:
        The clips.

    Raises:
        ConfigError: there is no split of that number.
        DataError: lists that cannot be used, or too many videos that are missing.
    """
    layout = LAYOUTS[name]
    if not 1 <= split_number <= layout.splits:
        numbers = f"1 to {layout.splits}" if layout.splits > 1 else "1"
        raise ConfigError(f"split_number ({split_number}) must be {numbers} for {layout.title}.")
    result = assemble(root, layout.title, layout.module.read(root, found, split_number), names, on_error)
    result.layout = name
    return result
