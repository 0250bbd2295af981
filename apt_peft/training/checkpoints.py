"""A run's folder on disk: whole checkpoints told from torn ones, old ones deleted, the adapter moved in when complete.

Trainer saves in place and resumes from the highest number, so a checkpoint that was cut short looks like the newest.
Here a marker with every file's size is the last act of a save, and the first thing that a deletion takes away.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from apt_peft.errors import ConfigError

CHECKPOINTS = "checkpoints"
CACHE = "cache"
MARKER = "complete.json"
STATE = "settings.json"
# Beside the checkpoints: clips that could not be read any more while training.
UNREADABLE = "unreadable.jsonl"
PARTIAL = ".adapter-partial"
# The file by which PEFT knows an adapter folder is moved last, so that a folder with it is whole.
LAST_FILE = "adapter_config.json"


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a half.

    Args:
        path: the file.
        value: what JSON can hold; NaN is not among it.
    """
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def mark_complete(checkpoint: Path, **facts: object) -> None:
    """Write the marker of a checkpoint, which must be the last act of saving it.

    Args:
        checkpoint: its folder.
        facts: what else the marker holds, for example the seconds of training so far.
    """
    sizes = {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != MARKER
    }
    write_json(checkpoint / MARKER, {**facts, "files": sizes})


def read_marker(checkpoint: Path) -> dict | None:
    """The marker of a checkpoint, or None where the checkpoint is not whole.

    Args:
        checkpoint: its folder.

    Returns:
        What `mark_complete` wrote, if every file that it lists is there in full length.
    """
    try:
        marker = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
        whole = all((checkpoint / name).stat().st_size == size for name, size in marker["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return marker if whole else None


def numbered(folder: Path) -> list[Path]:
    """The checkpoint folders of a run, whole or not, by rising step."""
    if not folder.is_dir():
        return []
    found = [
        (int(match[1]), path) for path in folder.iterdir() if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    return [path for _, path in sorted(found)]


def choose(folder: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume from.

    Args:
        folder: OUT/checkpoints.

    Returns:
        The highest whole checkpoint, or None; and the names of the incomplete ones passed over.
    """
    torn = []
    best = None
    for path in numbered(folder):
        if read_marker(path) is None:
            torn.append(path.name)
        else:
            best = path
    return best, torn


def delete(checkpoint: Path) -> None:
    """Delete a checkpoint, its marker first, so that one that is cut short here is not taken for whole."""
    (checkpoint / MARKER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def rotate(folder: Path, keep: set[Path]) -> None:
    """Delete the checkpoints of a run except some.

    Args:
        folder: OUT/checkpoints.
        keep: the last and the best one.
    """
    names = {path.name for path in keep}
    for path in numbered(folder):
        if path.name not in names:
            delete(path)


@contextmanager
def run_folder(out: Path, *, resume: bool) -> Iterator[None]:
    """Make a run's folder, and take it away again where the run fails before it has a checkpoint.

    A wrong setting is often found late, by what the backbone or the clips are; its correction must find OUT as it was.

    Args:
        out: the run's folder.
        resume: whether an earlier run there is to be continued.

    Raises:
        ConfigError: it is a file, or holds files that this run would mix with, or another project's files.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out ({out}) must be a folder, but it is a file. Choose another --out.")
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    folder = out / CHECKPOINTS
    # What a start leaves that was killed while it read clips: the cache may stay, nothing has been trained.
    fresh = not names or (folder.is_dir() and not any(folder.iterdir()) and set(names) <= {CHECKPOINTS, CACHE})
    if not fresh and not resume:
        raise ConfigError(
            f"out ({out}) must be new or empty, but it holds {_few(names)}. "
            "Choose another --out, or add --resume to go on with the run that is in it."
        )
    if not fresh and not folder.is_dir():
        raise ConfigError(
            f"out ({out}) must hold a run to resume, but it holds {_few(names)} and no {CHECKPOINTS} folder. "
            "Choose another --out."
        )
    made = [path for path in (out, *out.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if fresh and not numbered(folder):
            for name in (CHECKPOINTS, CACHE):
                shutil.rmtree(out / name, ignore_errors=True)
            with suppress(OSError):  # a folder that something else was put into stays
                for path in made:
                    path.rmdir()
        raise


def check_same_run(folder: Path, now: dict, usual: Mapping = MappingProxyType({})) -> None:
    """Compare what decides a run's result with what the run in a folder started with; remember it in a new one.

    Args:
        folder: OUT/checkpoints.
        now: settings and data fingerprint of this run.
        usual: what settings were before there was a name for them.

    Raises:
        ConfigError: something differs; all of it is named.
    """
    path = folder / STATE
    now = json.loads(json.dumps(now))
    if not path.exists():
        write_json(path, now)
        return
    refuse_changes(json.loads(path.read_text(encoding="utf-8")), now, usual)


def refuse_changes(before: Mapping, now: Mapping, usual: Mapping) -> None:
    """Compare a run's settings with those that it is resumed with.

    Args:
        before: as JSON gave them.
        now: values that JSON can hold.
        usual: as for `changes`.

    Raises:
        ConfigError: something differs; all of it is named.
    """
    if changed := changes(before, json.loads(json.dumps(now)), usual):
        raise ConfigError(
            f"resume (True) must go on with the same run, but {', '.join(changed)}. Repeat its settings, or choose another --out."
        )


def changes(before: Mapping, now: Mapping, usual: Mapping) -> list[str]:
    """What is not as it was, in words.

    Args:
        before: settings and what else decided a result, by name, as JSON gave them.
        now: likewise.
        usual: what settings were before there was a name for them, so that an older version's folder can be gone on with.

    Returns:
        `epochs was 2 and is 3` for each.
    """
    before = {**{name: usual[name] for name in now if name in usual}, **before}
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in names]


def move_in(partial: Path, out: Path) -> None:
    """Move finished files into a folder, the one that makes it an adapter last.

    Args:
        partial: folder on the same disk, which is removed.
        out: where the files go, over older ones.
    """
    names = sorted((path.name for path in partial.iterdir()), key=lambda name: name == LAST_FILE)
    for name in names:
        if (out / name).is_dir():  # of an earlier try; a folder replaces only an empty one
            shutil.rmtree(out / name)
        os.replace(partial / name, out / name)
    partial.rmdir()


def is_finished(out: Path) -> bool:
    """Whether a run's adapter is whole."""
    return (out / LAST_FILE).is_file()


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
