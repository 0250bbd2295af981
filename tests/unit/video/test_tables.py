"""Data sets of the `datasets` library become clips, bytes fetched only when a video is read."""

import gc
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from clips import write_classes
from helpers import raises_exactly

from apt_peft.errors import DataError
from apt_peft.video import ClipTransform, VideoDataset, probe, read_data
from apt_peft.video.tables import TableVideo


@pytest.fixture(scope="module")
def folder(made):
    return write_classes(made / "classes", ["jump", "wave"], num_frames=4)


@pytest.fixture(scope="module")
def paths(folder):
    return sorted(str(path) for path in folder.glob("*/*.mp4"))


def table(values, labels=(0, 0, 1, 1), names=("jump", "wave"), video=None) -> datasets.Dataset:
    features = {"video": video or datasets.Video(decode=False)}
    features["label"] = datasets.ClassLabel(names=list(names)) if names else datasets.Value("string")
    return datasets.Dataset.from_dict({"video": list(values), "label": list(labels)}, datasets.Features(features))


def test_videos_by_path(paths):
    splits = read_data(table(paths, video=datasets.Video()))
    assert [(clip.source, clip.label) for clip in splits.train] == list(zip(paths, [0, 0, 1, 1], strict=True))
    assert splits.labels == ["jump", "wave"]


def test_videos_held_in_rows(paths):
    rows = [{"path": f"{n}.mp4", "bytes": Path(path).read_bytes()} for n, path in enumerate(paths)]
    splits = read_data(
        datasets.DatasetDict(train=table(rows), validation=table(rows[:1], [1]), test=table(rows[1:2], [0]))
    )
    assert [clip.name for clip in splits.train] == [f"train[{n}] {n}.mp4" for n in range(4)]
    assert isinstance(splits.train[0].source, TableVideo)
    assert splits.train[2].source.read_bytes() == rows[2]["bytes"]
    assert probe(splits.val[0].source).num_frames == 4
    assert (splits.val[0].label, splits.test[0].label) == (1, 0)
    shuffled = read_data(table(rows).select([3, 1]))
    assert [clip.source.read_bytes() for clip in shuffled.train] == [rows[3]["bytes"], rows[1]["bytes"]]


def test_rows_give_the_same_items_as_files_also_from_spawned_workers(paths, folder):
    rows = table([{"path": None, "bytes": Path(path).read_bytes()} for path in paths])
    settings = {"num_frames": 2, "transform": ClipTransform(16)}
    from_rows = VideoDataset(read_data(rows).train, **settings)
    from_files = VideoDataset(read_data(folder).train, **settings)
    loader = torch.utils.data.DataLoader(from_rows, num_workers=1, multiprocessing_context="spawn", batch_size=4)
    (batch,) = loader
    assert torch.equal(batch["pixel_values"], torch.stack([item["pixel_values"] for item in from_files]))
    assert batch["labels"].tolist() == [0, 0, 1, 1]


def test_columns_of_paths_and_bytes(paths):
    assert [
        clip.source for clip in read_data(table(paths, video=datasets.Value("string")), video_column="video").train
    ] == paths
    content = [Path(path).read_bytes() for path in paths]
    splits = read_data(table(content, video=datasets.Value("binary")), video_column="video")
    assert [clip.source.read_bytes() for clip in splits.train] == content


def test_labels_as_text_and_numbers(paths):
    assert read_data(table(paths, ["b", "b", "a", "a"], None)).labels == ["a", "b"]
    splits = read_data(table(paths, ["10", "9", "2", "2"], None))
    assert splits.labels == ["2", "9", "10"]
    named = read_data(table(paths, ["1", "0", "1", "1"], None), labels=["jump", "wave"])
    assert [clip.label for clip in named.train] == [1, 0, 1, 1]
    assert [clip.label for clip in read_data(table(paths), labels=["wave", "jump"]).train] == [1, 1, 0, 0]


# `datasets` leaves metadata.csv open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_saved_data_sets_and_videofolders(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = table([{"path": None, "bytes": Path(path).read_bytes()} for path in paths])
    rows.save_to_disk(tmp_path / "saved")
    assert len(read_data(tmp_path / "saved").train) == 4
    (tmp_path / "parquet").mkdir()
    rows.to_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet")
    assert [clip.label for clip in read_data(tmp_path / "parquet").train] == [0, 0, 1, 1]
    described = tmp_path / "described"
    described.mkdir()
    lines = ["file_name,label"]
    for number, path in enumerate(paths):
        (described / f"{number}.mp4").write_bytes(Path(path).read_bytes())
        lines.append(f"{number}.mp4,{'wave' if number % 2 else 'jump'}")
    (described / "metadata.csv").write_text("\n".join(lines))
    splits = read_data(described)
    assert splits.labels == ["jump", "wave"]
    assert [clip.label for clip in splits.train] == [0, 1, 0, 1]
    assert probe(splits.train[0].source).num_frames == 4
    gc.collect()  # so that the warning comes while it is not an error


def _fails(data, message, **settings):
    with raises_exactly(DataError, message):
        read_data(data, **settings)


def test_what_is_no_data_set(paths):
    rule = "must be a folder, a Dataset or a DatasetDict. A streamed data set cannot be drawn from by index: "
    _fails([1], f"data (list) {rule}load it without streaming.")
    _fails(table(paths).to_iterable_dataset(), f"data (IterableDataset) {rule}load it without streaming.")


def test_lists_beside_a_data_set(paths):
    message = (
        "train_list, test_list must not be given with a `datasets` data set, which has its own splits. "
        "Give the folder of the videos instead."
    )
    _fails(table(paths), message, train_list="a.csv", test_list="b.csv")


def test_splits_of_other_names(paths):
    one = table(paths)
    message = "splits (['extra', 'unlabelled']) must be named train, val or test. Rename them, or leave them out."
    _fails(datasets.DatasetDict(train=one, extra=one, unlabelled=one), message)
    message = "splits (['val', 'validation']) must be one of each kind, but two of them mean the same. Leave one out."
    _fails(datasets.DatasetDict(val=one, validation=one), message)


def test_video_columns(paths):
    one = table(paths)
    message = "video_column (None) must be given, but 0 columns of ['label'] are videos. Name the one."
    _fails(one.select_columns(["label"]), message)
    two = one.add_column("second", paths).cast_column("second", datasets.Video(decode=False))
    message = (
        "video_column (None) must be given, but 2 columns of ['video', 'label', 'second'] are videos. Name the one."
    )
    _fails(two, message)
    for column in ("label", "absent"):
        message = f"video_column ({column!r}) must be a column of videos, paths or bytes among ['video', 'label']."
        _fails(one, message, video_column=column)


def test_label_columns(paths):
    one = table(paths)
    _fails(one, "label_column ('absent') must be one of ['video', 'label'].", label_column="absent")
    message = "label_column (None) must be given, but none of ['video', 'kind', 'sort'] is clearly it. Name the one."
    two = one.rename_column("label", "kind").add_column("sort", list("aabb"))
    two = two.cast_column("kind", datasets.Value("int64"))
    _fails(two, message)
    assert read_data(two, label_column="sort").labels == ["a", "b"]


def test_classes_that_the_labels_lack(paths):
    _fails(table(paths), "classes (['jump']) must be among the labels, but these are ['wave'].", labels=["wave"])


def test_empty_rows(paths):
    message = "rows ([1, 3]) of 'video' in train must hold a video, but they are empty."
    _fails(table([paths[0], None, paths[2], None]), message)
    strings = table([paths[0], None, paths[2], None], video=datasets.Value("string"))
    _fails(strings, message, video_column="video")
    _fails(table(paths, [0, -1, 1, None]), "rows ([1, 3]) of 'label' must have a label, but they have none.")
    _fails(table(paths, ["a", None, "b", "b"], None), "rows ([1]) of 'label' must have a label, but they have none.")


def test_a_data_set_that_cannot_be_loaded(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError) as caught:
        read_data(tmp_path)
    cause = caught.value.__cause__
    message = f"data ({tmp_path}) must be a data set that `datasets` can load, but that failed: {type(cause).__name__}: {cause}"
    assert str(caught.value) == message


def test_the_hub_is_asked_by_its_own_address():
    # The tests run offline, so the name is all that comes back.
    with pytest.raises(DataError) as caught:
        read_data("hf://datasets/owner/clips")
    cause = caught.value.__cause__
    message = (
        "data (hf://datasets/owner/clips) must be a data set that `datasets` can load, but that failed: "
        f"{type(cause).__name__}: {cause}"
    )
    assert str(caught.value) == message
    assert "owner/clips" in str(cause)


def test_a_broken_torchcodec_is_named(paths, tmp_path):
    # A package like the one that is installed where FFmpeg's libraries are not.
    package = tmp_path / "site" / "torchcodec"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise OSError('Could not load libtorchcodec')")
    info = tmp_path / "site" / "torchcodec-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchcodec\nVersion: 1.0\n")
    data = tmp_path / "data"
    data.mkdir()
    (data / "0.mp4").write_bytes(Path(paths[0]).read_bytes())
    (data / "metadata.csv").write_text("file_name,label\n0.mp4,wave\n")
    script = (
        "import sys\nfrom apt_peft.video import read_data\nfrom apt_peft.errors import DataError\n"
        "try:\n    print(len(read_data(sys.argv[1]).train))\nexcept DataError as error:\n    print(error)"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site"), "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    out = subprocess.run(
        [sys.executable, "-c", script, str(data)], capture_output=True, text=True, env=environment, check=True
    ).stdout
    assert out == (
        f"data ({data}) must be loaded by `datasets`, but the installed torchcodec cannot load its libraries. It is "
        "not needed here. Run: pip uninstall torchcodec\n"
    )


def test_a_missing_extra_is_named(monkeypatch):
    from apt_peft.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "datasets", None)
    message = "datasets must be installed for this, but it is not. Run: pip install 'apt-peft[video]'"
    with raises_exactly(MissingExtraError, message):
        read_data("hf://datasets/owner/clips")
