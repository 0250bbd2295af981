"""A folder written whole or not at all, also where the process is killed."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError

MANIFEST = "manifest.json"


def write_folder(out: str | os.PathLike, files: Mapping[str, bytes], *, overwrite: bool = False) -> None:
    """Write files into a new folder, which appears with all of them or not at all.

    The files are written into a hidden folder beside it, which then gets its name. A folder that is replaced is moved away first
    and deleted last; where a kill falls between, the next call puts it back. One call at a time may write to a folder.

    Args:
        out: the folder: new, empty, or written by this function where `overwrite` says so.
        files: name in the folder, with `/` for folders in it -> content; among them `manifest.json` of JSON, whose `files` names
            the others.
        overwrite: replace a folder that this function wrote.

    Raises:
        ConfigError: there is something else in the folder, or it cannot be written.
    """
    place = Path(os.path.abspath(out))
    begun, old = place.with_name(f".{place.name}.new"), place.with_name(f".{place.name}.old")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if old.exists():  # a run was killed while it replaced the folder
            if place.exists():
                shutil.rmtree(old)
            else:
                old.rename(place)
        _check_place(Path(out), place, overwrite)
        if begun.exists():
            shutil.rmtree(begun)
        for name, content in files.items():
            _write(begun / name, content)
        for folder in (begun, *(path for path in begun.rglob("*") if path.is_dir())):
            _sync(folder)
        if place.exists():
            place.rename(old)
        begun.rename(place)
        _sync(place.parent)
        if old.exists():
            shutil.rmtree(old)
    except OSError as error:
        raise ConfigError(
            f"out ({out}) must be a folder that can be written, but: {error.strerror}. Choose another one."
        ) from None


def check_folder(out: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Refuse a folder that `write_folder` would refuse, before the work for it is done.

    Args:
        out: the folder.
        overwrite: as there.

    Raises:
        ConfigError: there is something else in it.
    """
    _check_place(Path(out), Path(os.path.abspath(out)), overwrite)


def _check_place(out: Path, place: Path, overwrite: bool) -> None:
    if not os.path.lexists(place):
        return
    if not place.is_dir():
        raise ConfigError(f"out ({out}) must be a new or empty folder, but it is a file. Choose another one.")
    if not any(place.iterdir()):
        return
    if not overwrite:
        raise ConfigError(
            f"out ({out}) must be a new or empty folder, but there is something in it. Choose another one, or replace lists "
            "that are there by --overwrite."
        )
    own = _own_files(place)
    others = sorted(
        name
        for path in place.rglob("*")
        if not path.is_dir() and (name := path.relative_to(place).as_posix()) not in own
    )
    if others:
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        raise ConfigError(
            f"out ({out}) must hold only what apt-peft lists wrote to be overwritten, but there is more in it: {shown}. Choose "
            "another folder."
        )


def _own_files(place: Path) -> set[str]:
    try:
        table = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        return {MANIFEST, *map(str, table["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Let the names in a folder reach the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
