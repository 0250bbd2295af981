"""`write_shards` killed at random moments, again and again: no half of a shard is ever seen, and the end is always the same.

    python tests/shard_kills.py FOLDER --kills 50

FOLDER is new; clips and shards are written there. Children are forked, so that a kill costs no import of torch.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path


def killed_after(work: Callable[[], object], begun: Callable[[], bool], seconds: float) -> bool:
    """Run a function in a forked process and kill that, with all that it started, so long after it has begun.

    Args:
        work: the function.
        begun: tells that it has.
        seconds: after that.

    Returns:
        Whether it was killed; False where it had ended before.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    end = None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"the work failed: {status}"
            return False
        if end is None and begun():
            end = time.monotonic() + seconds
        if end is not None and time.monotonic() >= end:
            break
        time.sleep(0.0005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def content(folder: Path) -> dict[str, str]:
    """Checksum of every file that is no part of a run under way."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    }


def main() -> int:
    """Write, kill, compare; prints what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from clips import write_clip

    from apt_peft.video import read_data
    from apt_peft.video.shards.write import ShardPlan, write_shards

    data, out, draw = options.folder / "clips", options.folder / "out", random.Random(options.seed)
    for number in range(options.clips):
        write_clip(data / f"class{number % 3}" / f"{number}.mp4", num_frames=2, width=32, height=24, seed=number)

    def work(where: Path = out) -> None:
        write_shards(read_data(data), where, ShardPlan(max_clips=1), root=str(data), workers=1)

    def has_shards() -> bool:
        return any(out.glob("*.tar"))

    begin = time.monotonic()
    work(options.folder / "whole")
    lasts = time.monotonic() - begin
    wanted = content(options.folder / "whole")
    writes = max(0.01, 0.5 * lasts)
    kills = ends = 0
    while kills < options.kills:
        # Some while it starts and looks at videos, most while it writes.
        early = draw.random() < 0.2
        before = out.exists
        killed = killed_after(work, before if early else has_shards, draw.uniform(0, lasts if early else writes / 4))
        found = content(out) if out.exists() else {}
        half = [name for name, digest in found.items() if name.endswith(".tar") and digest != wanted.get(name)]
        assert not half, f"not whole: {half}"
        assert "index.json" not in found or found == wanted, "an index before the shards"
        kills += killed
        if not killed:
            assert found == wanted
            left = sorted({path.name for path in out.iterdir()} - set(wanted))
            assert not left, f"left behind: {left}"
            ends += 1
            shutil.rmtree(out)
    at_last = len(content(out)) if out.exists() else 0
    work()
    assert content(out) == wanted
    assert sorted(path.name for path in out.iterdir()) == sorted(wanted)
    print(
        f"{kills} kills, {ends} ends between them, {at_last} files whole at the last kill: all ends are the same bytes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
