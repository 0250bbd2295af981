"""A folder of predictions that a run adds to, and goes on with when it is started again: Parquet files, each written whole."""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from apt_peft.errors import ConfigError, DataError, require
from apt_peft.opening import Adapter

pa, parquet, dataset = (require(name, "ray") for name in ("pyarrow", "pyarrow.parquet", "pyarrow.dataset"))

ADAPTERS_FILE = "_adapters.json"  # readers of Parquet folders pass over names with _ or . before them
TEXT, TEXTS, NUMBERS = pa.string(), pa.list_(pa.string()), pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("path", TEXT),
        ("adapter", TEXT),
        ("label", TEXT),  # the best one
        ("probability", pa.float32()),  # of it
        ("labels", TEXTS),  # from the best one on
        ("probabilities", NUMBERS),
        ("error", TEXT),  # null where the clip was scored
    ]
)


class Predictions:
    """The folder, here or at a URL; one run at a time may write to it.

    A file is written under another name and then moved, and its name follows from the rows in it. So a run that is killed leaves
    whole files, and the same rows written twice are one file.

    Args:
        place: path or URL that fsspec opens; made where it is missing.
    """

    def __init__(self, place: str) -> None:
        import fsspec

        self.place = place
        self._files, self._root = fsspec.url_to_fs(place)
        self._files.makedirs(self._root, exist_ok=True)

    def check(self, adapters: Mapping[str, Adapter]) -> None:
        """Note which adapter each name stands for.

        Args:
            adapters: by the names that their rows get.

        Raises:
            ConfigError: a name stands for another adapter here.
        """
        file = f"{self._root}/{ADAPTERS_FILE}"
        known = json.loads(self._files.cat_file(file)) if self._files.exists(file) else {}
        found = {name: adapter.fingerprint() for name, adapter in adapters.items()}
        if changed := sorted(name for name in found if known.get(name, found[name]) != found[name]):
            raise ConfigError(
                f"adapters ({', '.join(changed)}) must be those that {self.place} was begun with, but their weights, backbone or "
                "clips are others. Give them other names, or choose another folder."
            )
        self._write(ADAPTERS_FILE, json.dumps(known | found, indent=2).encode())

    def missing(self, paths: Sequence[str], names: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
        """What is still to be scored.

        Args:
            paths: of all clips.
            names: of all adapters.

        Returns:
            For each set of adapters that lack clips, those clips; the sets do not overlap.

        Raises:
            DataError: a file of the folder cannot be read.
        """
        done: dict[str, set[str]] = {name: set() for name in names}
        if files := self._parts():
            try:
                rows = dataset.dataset(files, schema=SCHEMA, filesystem=self._files).to_table(
                    columns=["path", "adapter"]
                )
            except (OSError, ValueError) as error:
                raise DataError(
                    f"predictions ({self.place}) must be whole Parquet files, but reading them fails: {error}. Delete the "
                    "file, and its clips are scored again."
                ) from None
            for name in names:
                done[name] = set(rows.filter(dataset.field("adapter") == name)["path"].to_pylist())
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for path in paths:
            if lacking := tuple(name for name in names if path not in done[name]):
                groups[lacking].append(path)
        return dict(groups)

    def write(self, table: Any) -> None:
        """Add rows as one file.

        Args:
            table: a pyarrow table of `SCHEMA`, with rows that are not there yet.
        """
        keys = repr((table["path"].to_pylist(), table["adapter"].to_pylist()))
        self._write(f"part-{hashlib.sha256(keys.encode()).hexdigest()[:20]}.parquet", _as_bytes(table))

    def write_all(
        self, tables: Iterable[Any], *, rows_per_file: int = 10_000, seconds_per_file: float = 60
    ) -> Iterator[int]:
        """Add rows as they come, and those that wait at the end, also where the end is an error.

        Args:
            tables: as for `write`.
            rows_per_file: that are enough for a file.
            seconds_per_file: after which fewer rows become a file.

        Returns:
            The rows of each file, once it is written.
        """
        waiting: list[Any] = []
        begun = time.monotonic()
        try:
            for table in tables:
                waiting.append(table)
                rows = sum(map(len, waiting))
                if rows >= rows_per_file or time.monotonic() - begun > seconds_per_file:
                    self.write(pa.concat_tables(waiting))
                    waiting, begun = [], time.monotonic()
                    yield rows
        finally:
            if waiting:
                self.write(pa.concat_tables(waiting))
        if waiting:
            yield sum(map(len, waiting))

    def drop_errors(self) -> int:
        """Take the rows with an error out, so that their clips are tried again.

        Returns:
            How many.
        """
        dropped = 0
        for file in self._parts():
            table = parquet.read_table(file, filesystem=self._files, schema=SCHEMA)
            kept = table.filter(dataset.field("error").is_null())
            dropped += len(table) - len(kept)
            if not len(kept):
                self._files.rm(file)
            elif len(kept) < len(table):
                self._write(file.rpartition("/")[2], _as_bytes(kept))
        return dropped

    def _parts(self) -> list[str]:
        self._files.invalidate_cache()
        return sorted(self._files.glob(f"{self._root}/part-*.parquet"))

    def _write(self, name: str, content: bytes) -> None:
        # A dot before it: what a kill leaves is passed over.
        begun = f"{self._root}/.{name}.new"
        self._files.pipe_file(begun, content)
        self._files.mv(begun, f"{self._root}/{name}")


def _as_bytes(table: Any) -> bytes:
    buffer = pa.BufferOutputStream()
    parquet.write_table(table.cast(SCHEMA), buffer)
    return bytes(buffer.getvalue().to_pybytes())
