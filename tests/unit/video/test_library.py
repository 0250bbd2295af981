"""A library of videos as a folder, a list or Parquet, here and at URLs; and videos at URLs as clips."""

import shutil
import zipfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from clips import write_clip
from helpers import raises_exactly

from apt_peft import DataError
from apt_peft.video import Clip, RemoteVideo, UnreadableVideoError, list_videos, read_frames, video_source


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("one") / "clip.mp4", num_frames=6, width=32, height=24)


@pytest.fixture
def folder(clip, tmp_path) -> Path:
    """Three videos in two levels, and files that are none."""
    root = tmp_path / "my clips"
    for name in ("b/one.MP4", "b/two.mkv", "a.mp4", "b/.hidden.mp4", "b/notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, root / name)
    return root


def test_a_folder(folder, monkeypatch):
    expected = [str(folder / name) for name in ("a.mp4", "b/one.MP4", "b/two.mkv")]
    assert list_videos(str(folder)) == list_videos(f"{folder}/") == list_videos(f"file://{folder}") == expected
    monkeypatch.chdir(folder.parent)
    assert list_videos(folder.name) == expected


def test_a_list(folder):
    text = "\ufeffa.mp4\n\n  b/two.mkv  \r\n/elsewhere/c.mp4\ns3://bucket/d e.mp4\na.mp4\n"
    (folder / "list.txt").write_text(text, encoding="utf-8")
    expected = [str(folder / "a.mp4"), str(folder / "b/two.mkv"), "/elsewhere/c.mp4", "s3://bucket/d e.mp4"]
    assert list_videos(str(folder / "list.txt")) == expected


def test_parquet_as_a_file_and_as_a_folder(folder):
    (folder / "many.parquet").mkdir()
    table = pa.table({"id": [1, 2, 3], "video": ["a.mp4", None, "b/two.mkv"]})
    pq.write_table(table, folder / "one.parquet")
    pq.write_table(table.slice(0, 1), folder / "many.parquet" / "0.parquet")
    pq.write_table(table.slice(1), folder / "many.parquet" / "1.parquet")
    expected = [str(folder / "a.mp4"), str(folder / "b/two.mkv")]
    assert list_videos(str(folder / "one.parquet"), column="video") == expected
    assert list_videos(str(folder / "many.parquet"), column="video") == expected
    with raises_exactly(
        DataError, f"column (path) must be a column of {folder}/one.parquet, but it has ['id', 'video']."
    ):
        list_videos(str(folder / "one.parquet"))


def test_an_archive_and_another_file_system(clip, folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder).as_posix())
    found = list_videos(f"zip://::{tmp_path}/clips.zip")
    assert found == [f"zip://{name}::{tmp_path}/clips.zip" for name in ("a.mp4", "b/one.MP4", "b/two.mkv")]
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/library/x/clip.mp4", clip.read_bytes())
    memory.pipe_file("/library/list.txt", b"x/clip.mp4\n")
    try:
        assert list_videos("memory://library") == ["memory:///library/x/clip.mp4"]
        assert list_videos("memory://library/list.txt") == ["memory:///library/x/clip.mp4"]
        expected = read_frames(clip, [0, 3, 5])
        for url in (found[1], "memory:///library/x/clip.mp4"):
            source = video_source(url)
            assert isinstance(source, RemoteVideo)
            assert Clip(source).name == url
            torch.testing.assert_close(read_frames(source, [0, 3, 5]), expected, rtol=0, atol=0)
    finally:
        memory.rm("/library", recursive=True)
    assert video_source(str(clip)) == str(clip)


def test_a_video_that_cannot_be_fetched():
    url = "memory:///nowhere/clip.mp4"
    with raises_exactly(
        UnreadableVideoError,
        f"video ({url}) must be a readable video file, but fetching it failed: /nowhere/clip.mp4.",
    ):
        RemoteVideo(url).read_bytes()


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        ("/no/such/place", "[Errno 2] No such file or directory: '/no/such/place'"),
        ("strange://bucket/clips", "Protocol not known: strange"),
        ("{}/not.parquet", None),
        ("{}/latin.txt", "'utf-8' codec can't decode byte 0xe9 in position 0: unexpected end of data"),
    ],
)
def test_libraries_that_cannot_be_read(library, reason, tmp_path):
    library = library.format(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    (tmp_path / "not.parquet").write_text("text")
    if reason is None:
        with pytest.raises(pa.ArrowInvalid) as told:
            pq.ParquetDataset(library)
        reason = str(told.value).split("\n")[0]
    with raises_exactly(
        DataError,
        f"library ({library}) must be a folder of videos, a text file of paths or Parquet, but reading it fails: {reason}",
    ):
        list_videos(library)


@pytest.mark.parametrize("name", ["", "list.txt"])
def test_a_library_without_videos(name, tmp_path):
    (tmp_path / "list.txt").write_text("\n \n")
    library = str(tmp_path / name)
    with raises_exactly(DataError, f"library ({library}) must have videos, but there are none in it."):
        list_videos(library)
