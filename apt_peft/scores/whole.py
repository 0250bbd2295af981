"""Files that are whole or not there: written under another name, then moved."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A place to write a file to, which takes the file's own name once all is written.

    The place has one name, so that what a kill leaves there is written over by the next try. One process writes at a time.

    Args:
        path: the file.

    Returns:
        Where to write; after an error nothing is left there, and the file is as it was.
    """
    place = Path(path)
    begun = place.with_name(f".{place.name}.partial")
    try:
        yield begun
        os.replace(begun, place)
    except BaseException:
        begun.unlink(missing_ok=True)
        raise
