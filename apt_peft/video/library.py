"""A library of videos, here or at a URL -> their paths; and a video at a URL as a source of clips."""

import posixpath
from dataclasses import dataclass
from typing import Any

from ..errors import DataError, require
from .clip import VIDEO_SUFFIXES
from .source import UnreadableVideoError

PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class RemoteVideo:
    """A video at a URL that fsspec opens, for example `s3://bucket/clip.mp4`; each read fetches the whole file.

    Args:
        name: the URL.
    """

    name: str

    def read_bytes(self) -> bytes:
        """The whole file.

        Raises:
            UnreadableVideoError: it cannot be fetched.
        """
        import fsspec

        try:
            with fsspec.open(self.name) as file:
                return bytes(file.read())
        except Exception as error:  # every file system has its own kinds
            raise UnreadableVideoError(self.name, f"fetching it failed: {_first_line(error)}") from None


def video_source(path: str) -> str | RemoteVideo:
    """What a clip is made of, from a path or a URL.

    Args:
        path: of a file, or a URL with `://` in it.

    Returns:
        The path itself, or a `RemoteVideo`.
    """
    return RemoteVideo(path) if "://" in path else path


def list_videos(library: str, *, column: str = "path") -> list[str]:
    """Find the videos of a library; none is opened.

    Args:
        library: a folder, which is searched by the suffixes of videos; a text file with a path or URL a line; a file or folder
            named `*.parquet` with a column of them. Itself a path, or a URL that fsspec opens.
        column: of Parquet.

    Returns:
        Absolute paths and URLs, each once: of a folder sorted, else in their order. Paths in a list are relative to its folder.

    Raises:
        DataError: there is no such library, it cannot be read, or there is no video in it.
        MissingExtraError: pyarrow is needed and not installed.
    """
    import fsspec

    try:
        files, place = fsspec.url_to_fs(library)
        if place.endswith(PARQUET):
            paths = _column(files, place, column)
        elif files.isdir(place):
            return _some(library, [_url(library, files, path) for path in sorted(files.find(place)) if _is_video(path)])
        else:
            paths = files.cat_file(place).decode("utf-8-sig").splitlines()
    except (OSError, ValueError, ImportError) as error:  # among them an unknown protocol, or one that is not installed
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"library ({library}) must be a folder of videos, a text file of paths or Parquet, but reading it fails: "
            f"{_first_line(error)}"
        ) from None
    folder = _url(library, files, posixpath.dirname(place))
    kept = (path.strip() for path in paths if path and path.strip())
    return _some(library, list(dict.fromkeys(path if "://" in path else posixpath.join(folder, path) for path in kept)))


def _column(files: Any, place: str, column: str) -> list[Any]:
    table = require("pyarrow.parquet", "video")
    names = table.ParquetDataset(place, filesystem=files).schema.names
    if column not in names:
        raise DataError(f"column ({column}) must be a column of {place}, but it has {names}.")
    return table.read_table(place, columns=[column], filesystem=files)[column].to_pylist()


def _some(library: str, paths: list[str]) -> list[str]:
    if not paths:
        raise DataError(f"library ({library}) must have videos, but there are none in it.")
    return paths


def _is_video(path: str) -> bool:
    name = posixpath.basename(path)
    return posixpath.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith(".")


def _url(library: str, files: Any, path: str) -> str:
    """A path of a file system as one writes it: with the protocol of the library, and the archive that it lies in."""
    from fsspec.implementations.local import LocalFileSystem

    if isinstance(files, LocalFileSystem):
        return path
    return files.unstrip_protocol(path) + "".join(library.partition("::")[1:])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
