"""Shards -> clips by split, each a place in a tar file; nothing of a video is read."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import DataError
from ..clip import SPLITS, VIDEO_SUFFIXES, Clip, DataSplits, unknown_labels
from ..layouts import LAYOUTS
from ..lists import MAX_LABELS, text_lines
from .index import ShardIndex, indexed, read_index
from .names import SUFFIX, common_folder, expand, is_tar, split_of
from .remote import LABELS_FILE, HubShards, is_remote
from .scan import Row, Shard
from .source import LostVideo, ShardVideo

_LISTS = frozenset(f"{split}.csv" for split in SPLITS)


def is_shards(data: str | os.PathLike) -> bool:
    """Whether data is shards: a pattern or list of tar files, or a folder of them.

    Archives that lie beside what somebody unpacked from them (folders, videos, or lists of videos) are no shards, unless an
    index says so.

    Args:
        data: what a user gave.
    """
    if os.path.isdir(data):
        folder = Path(data)
        if next(_tars(folder), None) is None:
            return False
        return read_index(folder) is not None or not any(_is_loose(entry) for entry in folder.iterdir())
    return is_tar(os.fspath(data))


def find_shards(data: str | os.PathLike) -> tuple[dict[str, list[Shard]], list[str] | None]:
    """The shards that data names, and what is in each.

    Args:
        data: a folder of shards; or names of tar files with commas between them, braces such as `{000..127}` and `*` in them;
            `hf://datasets/OWNER/NAME/FILE.tar` is fetched from the Hub.

    Returns:
        Shards by split: as `index.json` says, or as their names begin; all are training shards where none begins with
        the name of a split. And the names of the classes that lie beside them, or None.

    Raises:
        DataError: there are no such files, or only some names begin with a split; a damaged index; several sets of labels.
    """
    return _find(data, _Folders(data))


def _find(data: str | os.PathLike, folders: "_Folders") -> tuple[dict[str, list[Shard]], list[str] | None]:
    if os.path.isdir(data):
        index = folders.index(Path(data))
        if index is not None:
            shards = {split: [_as_it_is(shard) for shard in of_split] for split, of_split in index.splits.items()}
            return shards, index.labels
        paths = sorted(_tars(Path(data)))
    else:
        paths = list(_paths(os.fspath(data)))
    if absent := [path for path in paths if not os.path.isfile(path)]:
        shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        raise DataError(f"shards ({shown}) must be files, but there are no such files. Check the names.")
    if twice := sorted(path for path, count in Counter(paths).items() if count > 1):
        raise DataError(f"shards ({', '.join(twice[:5])}) must be named once each, but are named twice.")
    found: dict[str, list[Shard]] = {}
    for split, path in zip(_splits(data, paths), paths, strict=True):
        found.setdefault(split, []).append(folders.shard(path))
    return {split: found[split] for split in SPLITS if split in found}, folders.labels(paths)


def read_shards(data: str | os.PathLike, names: list[str] | None = None) -> DataSplits:
    """Find the clips in shards; no video is read.

    Args:
        data: as for `find_shards`.
        names: of the classes; None takes those of the shards (`index.json`, `labels.txt` beside them), else the numbers or the
            sorted names that occur.

    Returns:
        The clips in the order of shards and of videos in them. What a shard should hold and does not is a clip that cannot
        be read, so that it is named or left out like any other.

    Raises:
        DataError: there are no such shards, or no videos in them; classes that `names` lacks.
    """
    folders = _Folders(data)
    by_split, own = _find(data, folders)
    shards = [shard for of_split in by_split.values() for shard in of_split]
    rows = [row for shard in shards for row in shard.rows]
    if not any(row.reason is None for row in rows):
        reasons = [f"\n  {_lost(shard, row).name}: {row.reason}" for shard in shards for row in shard.rows]
        raise DataError(
            f"shards ({data}) must hold videos, but there are none in them that can be read.{''.join(reasons[:20])}"
        )
    number = _Numbers(own, names, rows)
    labelled = any(row.label is not None for row in rows)
    folder = common_folder([shard.path for shard in shards])
    result = DataSplits(labels=number.names, layout=folders.layout())
    for split, of_split in by_split.items():
        clips: list[Clip] = getattr(result, split)
        for shard in of_split:
            for row in shard.rows:
                label, reason = number(row.label) if row.reason is None else (None, row.reason)
                if reason is None and row.label is None and labelled:
                    reason = "it has no label: neither cls nor a label in json"
                told = (folder, row.name, row.group)
                if reason is None:
                    clips.append(Clip(ShardVideo(shard.path, row.member, row.offset, row.size, *told), label))
                else:
                    clips.append(Clip(LostVideo(shard.path, row.member, reason, *told), label))
    if number.strange:
        raise unknown_labels(number.strange, number.names)
    return result


class _Numbers:
    """Labels as shards have them -> numbers of the classes.

    Args:
        own: names that come with the shards.
        given: names that the user gave, whose order decides.
        rows: of all shards.
    """

    def __init__(self, own: list[str] | None, given: list[str] | None, rows: Sequence[Row]) -> None:
        found = {row.label for row in rows if row.reason is None and row.label is not None}
        self.own, self.strange = own, set[str]()
        numbers = own is None and all(isinstance(label, int) for label in found)
        if given is not None:
            self.names = given
        elif own is not None:
            self.names = own
        elif numbers:
            top = max((label for label in found if isinstance(label, int) and label < MAX_LABELS), default=-1)
            self.names = [str(label) for label in range(top + 1)]
        else:
            self.names = sorted(map(str, found))
        self.by_place = own if own is not None else self.names if numbers else None
        self.number = {name: place for place, name in enumerate(self.names)}

    def __call__(self, label: int | str | None) -> tuple[int | None, str | None]:
        """The number of a class, and what is wrong with its label."""
        if label is None:
            return None, None
        name = str(label)
        if isinstance(label, int) and self.by_place is not None:
            if not 0 <= label < len(self.by_place):
                return None, f"its label {label} is outside of the {len(self.by_place)} labels"
            name = self.by_place[label]
        elif self.own is not None and name not in self.own:
            return None, f"its label {name!r} is not among the {len(self.own)} labels"
        if name not in self.number:
            self.strange.add(name)
            return None, None
        return self.number[name], None


def _tars(folder: Path) -> Iterator[str]:
    return (str(path) for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def _is_loose(entry: Path) -> bool:
    """Whether a file or folder belongs to videos that lie as files."""
    if entry.name.startswith("."):
        return False
    return entry.suffix.lower() in VIDEO_SUFFIXES or entry.name in _LISTS or entry.is_dir()


def _paths(data: str) -> Iterator[str]:
    if os.path.isfile(data):  # a name may have braces, commas and stars in it
        yield data
        return
    hub = HubShards()
    for name in expand(data):
        if is_remote(name):
            yield from hub.fetch(name)
        elif "*" in name and not os.path.isfile(name):
            found = sorted(glob.glob(name))
            if not found:
                raise DataError(f"shards ({name}) must be files, but there are no such files. Check the names.")
            yield from found
        else:
            yield name


def _splits(data: str | os.PathLike, paths: Sequence[str]) -> list[str]:
    found = [split_of(Path(path).name) for path in paths]
    if not any(found):
        return ["train"] * len(paths)
    if others := [path for path, split in zip(paths, found, strict=True) if split is None]:
        raise DataError(
            f"shards ({data}) must all begin with the name of their split (train, val, test) or none, but {others[0]} does "
            "not. Rename it, or leave it out."
        )
    return [str(split) for split in found]


class _Folders:
    """What lies beside shards, each folder's index read once.

    Args:
        data: what to call all of it in messages.
    """

    def __init__(self, data: str | os.PathLike) -> None:
        self.data = data
        self._known: dict[Path, tuple[ShardIndex | None, dict[str, Shard]]] = {}

    def index(self, folder: Path) -> ShardIndex | None:
        """The index of a folder, or None."""
        return self._look(folder)[0]

    def shard(self, path: str) -> Shard:
        """What is in a shard."""
        known = self._look(Path(path).parent)[1].get(Path(path).name)
        if known is not None:
            return _as_it_is(known)
        try:
            return indexed(path)
        except OSError as error:
            return Shard(path, 0, [Row("", 0, 0, None, f"it cannot be read: {(error.strerror or str(error)).lower()}")])

    def layout(self) -> str | None:
        """The public data set that all shards were made from, or None."""
        found = {str(index and index.made_from.get("layout")) for index, _ in self._known.values()}
        return next((layout for layout in LAYOUTS if found == {layout}), None)

    def labels(self, paths: Sequence[str]) -> list[str] | None:
        """Names of the classes beside the shards; they must be the same in all folders."""
        folders = list(dict.fromkeys(Path(path).parent for path in paths))
        found = {folder: names for folder in folders if (names := self._labels_in(folder)) is not None}
        if not found:
            return None
        first = next(iter(found))
        for folder in folders:
            if found.get(folder) != found[first]:
                raise DataError(
                    f"shards ({self.data}) must have the same labels, but those of {first} and of {folder} differ. Put the same "
                    f"{LABELS_FILE} beside all of them."
                )
        return found[first]

    def _labels_in(self, folder: Path) -> list[str] | None:
        index = self.index(folder)
        if index is not None:
            return index.labels
        file = folder / LABELS_FILE
        return [line.strip() for line in text_lines(file) if line.strip()] if file.is_file() else None

    def _look(self, folder: Path) -> tuple[ShardIndex | None, dict[str, Shard]]:
        if folder not in self._known:
            index = read_index(folder)
            if index is not None:
                index.splits = {split: [_named(shard) for shard in shards] for split, shards in index.splits.items()}
            shards = [shard for of_split in index.splits.values() for shard in of_split] if index else []
            self._known[folder] = index, {Path(shard.path).name: shard for shard in shards}
        return self._known[folder]


def _lost(shard: Shard, row: Row) -> LostVideo:
    return LostVideo(shard.path, row.member, str(row.reason))


def _named(shard: Shard) -> Shard:
    """A shard with the names of its clips, which an index of version 1 lacks: the shard itself has them."""
    if all(row.name is not None for row in shard.rows):
        return shard
    try:
        found = {row.member: row for row in indexed(shard.path).rows}
    except OSError:  # it is told where the shard is looked at
        return shard
    told = [found.get(row.member, row) for row in shard.rows]
    rows = [row._replace(name=own.name, group=own.group) for row, own in zip(shard.rows, told, strict=True)]
    return Shard(shard.path, shard.size, rows, shard.sha256)


def _as_it_is(shard: Shard) -> Shard:
    """A shard of our index, with the reason at each video that its file cannot hold: sizes are compared, which is quick."""
    try:
        size = os.stat(shard.path).st_size
    except OSError as error:
        reason = f"its shard cannot be read: {(error.strerror or str(error)).lower()}"
        return Shard(shard.path, 0, [row._replace(reason=reason) for row in shard.rows], shard.sha256)
    if size == shard.size:
        return shard
    reason = f"its shard has {size:,} bytes and {shard.size:,} in the index"
    # A shard that was cut short still has the videos before the cut; one that has grown is another file.
    rows = [
        row._replace(reason=reason) if size < row.offset + row.size or size > shard.size else row for row in shard.rows
    ]
    return Shard(shard.path, size, rows, shard.sha256)
