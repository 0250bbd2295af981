"""Output that is either whole or not there: written beside its place, then renamed."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import CheckpointError


def check_free(out: str | Path) -> None:
    """Make sure that nothing would be overwritten.

    Args:
        out: where a file or a folder is to be written.

    Raises:
        CheckpointError: something is there that is not an empty folder.
    """
    path = Path(out)
    if path.is_dir() and not any(path.iterdir()):
        return
    if os.path.lexists(path):
        kind = "a folder that is not empty" if path.is_dir() else "a file"
        raise CheckpointError(f"out ({out}) must be new or an empty folder, but it is {kind}. Choose another place.")


@contextmanager
def written_whole(out: str | Path) -> Iterator[Path]:
    """A place to write to, which becomes `out` when the block ends well and vanishes when it does not.

    Args:
        out: the final place, free as in `check_free`.

    Yields:
        A path in the same parent folder that does not exist yet; make it a file or a folder.

    Raises:
        CheckpointError: `out` is not free, or its parent folder cannot be made.
    """
    check_free(out)
    path = Path(out).absolute()
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"out ({out}) must be at a place where folders can be made, but {path.parent} cannot. Choose another place."
        ) from error
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        if path.is_dir():
            path.rmdir()
        draft.rename(path)
    except BaseException:
        # Also when the user interrupts: half a model must not look like a whole one.
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink(missing_ok=True)
        with suppress(OSError):  # somebody else may have put something there meanwhile
            for parent in made:
                parent.rmdir()
        raise
