"""Shards of a data set on the Hugging Face Hub: fetched into its cache, with what lies beside them."""

import fnmatch
import re
from pathlib import Path
from urllib.parse import unquote

from ...errors import CheckpointError, DataError
from .index import INDEX

HUB = "hf://"
LABELS_FILE = "labels.txt"
_FORM = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")
# Bytes that a shard, and what lies beside it, may have.
_MOST, _MOST_BESIDE = 2**40, 2**32


def is_remote(name: str) -> bool:
    """Whether shards lie on the Hub.

    Args:
        name: of them, or a pattern.
    """
    return name.startswith(HUB)


class HubShards:
    """Shards on the Hub, fetched one by one; all of a data set are of one commit.

    What is in huggingface_hub's cache is not fetched again.
    """

    def __init__(self) -> None:
        self._commits: dict[tuple[str, str | None], str] = {}
        self._folders: set[tuple[str, str, str]] = set()

    def fetch(self, name: str) -> list[str]:
        """Fetch a shard, or those that a star stands for, and `index.json` and `labels.txt` beside them.

        Args:
            name: `hf://datasets/OWNER/NAME/FILE.tar`, with `@REVISION` after NAME where it is not the main branch.

        Returns:
            Paths in the cache.

        Raises:
            DataError: it is no such name, there is no such shard, or it cannot be had.
        """
        found = _FORM.fullmatch(name)
        if found is None:
            raise DataError(
                f"shards ({name}) must be files of a data set on the Hub, hf://datasets/OWNER/NAME/FILE.tar or "
                "hf://datasets/OWNER/NAME@REVISION/FILE.tar, but it is not written so. Shards elsewhere must be downloaded first."
            )
        repository, file = found["name"], found["file"]
        revision = unquote(found["revision"]) if found["revision"] else None
        files = self._listed(repository, file, revision) if "*" in file else [file]
        if not files:
            raise DataError(f"shards ({name}) must be files, but there are no such files. Check the names.")
        return [self._one(repository, file, revision) for file in files]

    def _one(self, name: str, file: str, revision: str | None) -> str:
        path = self._get(name, file, revision, _MOST)
        assert path is not None
        # The cache keeps files of a commit in a folder of its name, in which they lie as in the data set.
        top = path.parents[file.count("/")]
        commit = self._commits.setdefault((name, revision), top.name)
        folder = file.rpartition("/")[0]
        if (name, commit, folder) not in self._folders:
            self._folders.add((name, commit, folder))
            for beside in (INDEX, LABELS_FILE):
                self._get(name, f"{folder}/{beside}" if folder else beside, revision, _MOST_BESIDE, optional=True)
        return str(path)

    def _get(self, name: str, file: str, revision: str | None, most: int, *, optional: bool = False) -> Path | None:
        from ...hub import download  # this and what it brings takes a moment, which other data need not wait for

        revision = self._commits.get((name, revision), revision)
        try:
            return download(name, file, most=most, revision=revision, optional=optional, repo_type="dataset")
        except CheckpointError as error:
            raise DataError(str(error)) from None

    def _listed(self, name: str, pattern: str, revision: str | None) -> list[str]:
        from ...hub import list_files

        try:
            files = list_files(name, revision=revision, repo_type="dataset")
        except CheckpointError as error:
            raise DataError(str(error)) from None
        # As in a folder: a star does not reach over a slash.
        levels = pattern.count("/")
        return sorted(file for file in files if file.count("/") == levels and fnmatch.fnmatchcase(file, pattern))
