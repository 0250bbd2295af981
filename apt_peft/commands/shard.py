"""`apt-peft shard`: clips to tar shards, which a run that was killed goes on with."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from apt_peft import flags, settings
from apt_peft.settings import INTEGER, NUMBER, SWITCH, TEXT, Settings, above, at_least, setting, within

if TYPE_CHECKING:
    from apt_peft.video.shards.index import ShardIndex

EXAMPLE = """examples:
  apt-peft shard clips shards
  apt-peft train --model BACKBONE --data shards --out runs/first
"""


@dataclass(frozen=True, kw_only=True)
class ShardSettings(Settings):
    """Every flag of `apt-peft shard`."""

    data: str = setting(TEXT, "clips, as for train --data", positional=True, metavar="DATA")
    out: str = setting(
        TEXT, "folder: new, or of the same command before, which goes on there", positional=True, metavar="OUT"
    )
    train_list: str | None = setting(TEXT, "file of training clips, `path label` lines", None, metavar="FILE")
    val_list: str | None = setting(TEXT, "file of validation clips", None, metavar="FILE")
    test_list: str | None = setting(TEXT, "file of test clips", None, metavar="FILE")
    labels: str | None = setting(TEXT, "file of class names in label order, one a line", None, metavar="FILE")
    video_column: str | None = setting(TEXT, "column of a data set's videos", None, metavar="NAME")
    label_column: str | None = setting(TEXT, "column of a data set's labels", None, metavar="NAME")
    layout: str = flags.layout()
    split_number: int = flags.split_number()
    max_megabytes: float = setting(NUMBER, "size of a shard (10^6 bytes)", 1000.0, rule=above(0))
    max_clips: int = setting(INTEGER, "clips of a shard", 10_000, rule=at_least(1))
    shuffle: bool = setting(SWITCH, "put clips into a random order; a shard then has clips of all classes", True)
    seed: int = setting(INTEGER, "seed of that order", 0, rule=within(0, 2**32 - 1))
    group_by: str = flags.group_by(what="which clips were cut from one video, which the shards then tell")
    on_error: str = flags.on_error("when clips cannot be read")
    time_limit: float = flags.time_limit()
    verify: bool = setting(
        SWITCH, "compare shards that are there with their checksums; those that differ are written anew", False
    )
    workers: int | None = setting(
        INTEGER, "processes that look at videos (default: one for each core)", None, rule=at_least(1)
    )
    json: bool = setting(SWITCH, "print JSON", False)
    progress: bool = setting(SWITCH, "show a progress bar", True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    settings.add_arguments(parser, ShardSettings)


def run(args: argparse.Namespace) -> int:
    """Write the shards, and print what there is.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: data or folder cannot be used; videos that cannot be read.
    """
    chosen = settings.from_arguments(ShardSettings, vars(args))
    from apt_peft.video.shards.write import ShardPlan, write_shards

    splits = flags.read_clips(chosen)
    count = sum(len(clips) for _, clips in splits.items())
    with tqdm(total=count, desc="writing shards", unit="clip", disable=not chosen.progress, leave=False) as bar:
        index = write_shards(
            splits,
            chosen.out,
            ShardPlan(chosen.seed, chosen.shuffle, max(int(chosen.max_megabytes * 1e6), 1), chosen.max_clips),
            root=chosen.data,
            group_by=chosen.group_by,
            on_error=chosen.on_error,
            verify=chosen.verify,
            time_limit=chosen.time_limit,
            workers=chosen.workers,
            progress=bar.update,
        )
    counts, skipped = index.counts(), index.skipped
    if chosen.json:
        found: dict[str, Any] = {"out": chosen.out, "counts": counts, "skipped": [list(pair) for pair in skipped]}
        found["grouped_by"] = index.made_from["grouped_by"]
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    for split, of_split in counts.items():
        size = of_split["bytes"] / 1e6
        print(f"{split}: {of_split['clips']} clips in {of_split['shards']} shards, {size:,.1f} MB")
    print(f"clips of one video: {_of_one_video(index)}")
    if skipped:
        print(f"{len(skipped)} clips could not be read and were skipped:")
        print("\n".join(f"  {name}: {reason}" for name, reason in skipped))
    suffixes = {Path(row.member).suffix for shards in index.splits.values() for shard in shards for row in shard.rows}
    if len(suffixes) > 1:
        print(f"note: videos with {', '.join(sorted(suffixes))} side by side; `datasets` reads shards of one kind only")
    print(f"use them: --data {chosen.out}")
    return 0


def _of_one_video(index: "ShardIndex") -> str:
    rule = index.made_from["grouped_by"]
    if rule == "none":
        return "not known, each is taken for a video of its own (--group-by)"
    rows = [row for shards in index.splits.values() for shard in shards for row in shard.rows]
    return f"{len({row.group for row in rows})} videos, by the rule {rule}"
