"""Every clip of a run read before the first step, so that what cannot be read is named then, all of it at once."""

import logging
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from apt_peft.errors import DataError
from apt_peft.training import processes
from apt_peft.video.readable import errors_of, fill_cache, unreadable_error

if TYPE_CHECKING:
    from apt_peft.training.data import RunData

logger = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
NAMES = ("training", "validation", "test")


def look_over(data: "RunData") -> dict[str, str]:
    """See that every clip can be read; with a cache by reading just what training will need, and keeping it.

    Args:
        data: the clips of a run; those that are left out are taken out of its splits.

    Returns:
        Names of the clips that were left out -> what is wrong with them.

    Raises:
        DataError: clips that cannot be read, where the run is not told to leave them out; a split without any that can.
    """
    settings = data.settings
    jobs = [(split, clip) for split in SPLITS for clip in data.splits[split]]
    mine = jobs[processes.rank() :: processes.world_size()]
    bar = tqdm(total=len(mine), desc="reading clips", unit="clip", disable=not settings.progress, leave=False)
    with bar:
        if data.cache is None:
            looked_at = errors_of(
                [clip for _, clip in mine],
                whole=settings.look_over == "whole",
                time_limit=settings.time_limit,
                progress=bar.update,
            )
            errors = [error for error in looked_at if error is not None]
        else:
            # Made here: this checks the settings.
            datasets = {"train": data.training()} | {split: data.testing(split) for split in ("val", "test")}
            errors = fill_cache(datasets, mine, time_limit=settings.time_limit, progress=bar.update)
    found = {error.name: error for errors in processes.gather(errors) for error in errors}
    bad = {clip.name: found[clip.name] for _, clip in jobs if clip.name in found}
    if bad and settings.on_error == "stop":
        raise unreadable_error(list(bad.values()), len(jobs), settings.on_error)
    for error in bad.values():
        logger.warning("Skipped %s: %s.", error.name, error.reason)
    lost = []
    for split, name in zip(SPLITS, NAMES, strict=True):
        given = data.splits[split]
        data.splits[split] = [clip for clip in given if clip.name not in bad]
        data.skipped_of[split] = tuple(clip.name for clip in given if clip.name in bad)
        if given and not data.splits[split] and split != "train":
            lost.append(f"none of its {len(given)} {name} clips can")
    if lost:
        raise DataError(
            f"data ({settings.data}) must have clips that can be read in each split, but {' and '.join(lost)}. "
            "Repair them, or leave the split out."
        )
    return {name: error.reason for name, error in bad.items()}
