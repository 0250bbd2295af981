"""The clips of a run: held out, named, fingerprinted, and refused where nothing can be learned from them."""

import shutil
from pathlib import Path

import pytest
import torch
from clips import write_classes
from helpers import raises_exactly

from apt_peft import DataError
from apt_peft.training.clips import IMAGENET_MEAN, IMAGENET_STD, ClipSettings
from apt_peft.training.data import clip_name, data_fingerprint, load_data
from apt_peft.training.datasets import collate
from apt_peft.training.settings import TrainSettings
from apt_peft.video import Clip, ClipTransform, read_data

CLIPS = ClipSettings(4, "even", 4, 16, "crop", IMAGENET_MEAN, IMAGENET_STD, 1, 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_classes(root / "train", ["a", "b"], clips=5, num_frames=4, width=32, height=24)
    return write_classes(root / "test", ["a", "b"], clips=1, num_frames=4, width=32, height=24).parent


def load(place: Path, tmp_path: Path, **given):
    values = {"model": "m", "data": str(place), "out": str(tmp_path / "out"), "progress": False} | given
    return load_data(TrainSettings(**values), CLIPS)


def test_validation_clips_are_held_out_of_each_class_and_never_of_the_test_split(place, tmp_path):
    found = load(place, tmp_path, val_fraction=0.4)
    assert found.held_out
    assert {split: len(clips) for split, clips in found.splits.items()} == {"train": 6, "val": 4, "test": 2}
    assert sorted(clip.label for clip in found.splits["val"]) == [0, 0, 1, 1]
    assert not {clip.name for clip in found.splits["val"]} & {clip.name for clip in found.splits["train"]}
    assert all(name.startswith("train/") for name in found.names("val"))
    assert [clip.name for clip in load(place, tmp_path, val_fraction=0.4).splits["val"]] == [
        clip.name for clip in found.splits["val"]
    ]
    assert found.describe() == "6 training, 4 validation, 2 test clips (validation held out of training)"


def test_nothing_is_held_out_where_there_is_a_validation_split_or_no_fraction(place, tmp_path):
    assert not load(place, tmp_path, val_fraction=0.0).splits["val"]
    both = tmp_path / "both"
    shutil.copytree(place, both)
    shutil.copytree(place / "test", both / "val")
    found = load(both, tmp_path)
    assert not found.held_out
    assert (len(found.splits["train"]), len(found.splits["val"])) == (10, 2)


def test_the_test_split_is_left_alone_without_a_test(place, tmp_path):
    (tmp_path / "data").mkdir()
    shutil.copytree(place, tmp_path / "data", dirs_exist_ok=True)
    (tmp_path / "data" / "test" / "a" / "a_0.mp4").write_bytes(b"")
    assert load(tmp_path / "data", tmp_path, test=False).splits["test"] == []


def test_the_fingerprint_is_of_names_sizes_and_labels(place, tmp_path):
    def of(root: Path) -> str:
        found = read_data(root)
        return data_fingerprint({"train": found.train, "val": found.val, "test": found.test}, str(root))

    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    assert of(copy) == of(place)
    clip = copy / "train" / "a" / "a_0.mp4"
    clip.write_bytes(clip.read_bytes() + b"0")
    longer = of(copy)
    clip.rename(copy / "train" / "b" / "a_0.mp4")
    assert len({of(place), longer, of(copy)}) == 3


def test_names_of_clips_outside_the_folder_and_in_memory(tmp_path):
    assert clip_name(Clip(tmp_path / "x" / "y.mp4"), str(tmp_path)) == "x/y.mp4"
    assert clip_name(Clip("/elsewhere/y.mp4"), str(tmp_path)) == "/elsewhere/y.mp4"
    assert clip_name(Clip(b"12"), str(tmp_path)) == Clip(b"12").name


def test_the_cache_is_left_out_where_it_would_be_large(place, tmp_path, monkeypatch):
    assert load(place, tmp_path).cache == tmp_path / "out" / "cache"
    monkeypatch.setattr("apt_peft.training.data.AUTO_CACHE_BYTES", 1000)
    assert load(place, tmp_path).cache is None
    assert load(place, tmp_path, cache=str(tmp_path / "mine")).cache == tmp_path / "mine"
    assert load(place, tmp_path, cache="none").cache is None
    assert load(place, tmp_path, sampling="dense").cache is None
    assert load(place, tmp_path, sampling="dense", cache=str(tmp_path / "mine")).cache == tmp_path / "mine"
    assert load(place, tmp_path, augment_resolution="full").cache is None


def test_classes_that_are_folders_of_folders_are_told(place, tmp_path, caplog):
    load(place, tmp_path)
    assert caplog.messages == []
    for label in ("a", "b"):
        shutil.copytree(place / "train" / label, tmp_path / "data" / label / "deep")
    load(tmp_path / "data", tmp_path)
    assert caplog.messages == [
        "Class folders with no videos of their own, only folders of videos: a, b (in a: deep). "
        "If those are the classes, give the folder that they lie in as the data."
    ]


def test_data_without_training_clips(place, tmp_path):
    (tmp_path / "data").mkdir()
    shutil.copytree(place / "test", tmp_path / "data" / "test")
    with raises_exactly(
        DataError,
        f"data ({tmp_path / 'data'}) must have training clips, but it has only test. Add a train folder or --train-list.",
    ):
        load(tmp_path / "data", tmp_path)


def test_data_of_one_class(place, tmp_path):
    shutil.copytree(place / "train" / "a", tmp_path / "data" / "a")
    with raises_exactly(
        DataError,
        f"data ({tmp_path / 'data'}) must have readable training clips of two classes or more, but it has ['a'].",
    ):
        load(tmp_path / "data", tmp_path)


def test_data_of_one_class_after_skipping(place, tmp_path):
    shutil.copytree(place / "train", tmp_path / "data")
    for clip in (tmp_path / "data" / "b").iterdir():
        clip.write_bytes(b"")
    with raises_exactly(
        DataError,
        f"data ({tmp_path / 'data'}) must have readable training clips of two classes or more, but it has ['a'].",
    ):
        load(tmp_path / "data", tmp_path, on_error="skip")


def test_the_augmentation_is_of_training_clips_alone(place, tmp_path):
    given = {"rand_augment": "rand-m4-n2", "random_resized_crop": True, "repeated_augmentation": 2, "flip": False}
    given["augment_resolution"] = "full"
    found = load(place, tmp_path, **given, cache="none")
    training, testing = found.training(), found.testing("test")
    assert (training.transform.rand_augment, training.transform.random_resized_crop) == ("rand-m4-n2", True)
    assert (training.transform.flip, training.transform.full_resolution) == (False, True)
    assert (training.repeats, testing.repeats) == (2, 1)
    assert testing.transform == ClipTransform(16)
    batch = collate([training[0], training[-1]], name="pixel_values_videos")
    assert batch["labels"].tolist() == [0, 0, 1, 1]
    assert batch["pixel_values_videos"].shape == (4, 4, 3, 16, 16)
    assert torch.equal(batch["pixel_values_videos"][2:], training[-1]["pixel_values"])


@pytest.mark.parametrize(
    ("augment", "flip"), [("flip", True), ("crop", True), ("none", True), ("flip", False), ("crop", False)]
)
def test_names_of_directions_are_told_where_clips_are_flipped(tmp_path, caplog, augment, flip):
    names = ["LEFT side", "TurnRight", "bright", "leftover", "push from left to right", "turn_left", "upright"]
    write_classes(tmp_path / "data", names, clips=2, num_frames=4, width=32, height=24)
    load(tmp_path / "data", tmp_path, augment=augment, flip=flip, cache="none")
    told = "LEFT side, TurnRight, push from left to right, turn_left"
    assert (
        caplog.messages
        == [
            f"Clips are flipped at random, which turns left into right, but names of classes tell directions: {told}. "
            "Should they differ in these, take --no-flip."
        ][: augment != "none" and flip]
    )


def test_the_cache_is_as_the_flags_say(place, tmp_path):
    folder = tmp_path / "frames"
    data = load(place, tmp_path, cache=str(folder), cache_format="jpeg", cache_limit="20kB")
    kept = data.training().cache
    assert (kept.folder, kept.format, kept.limit) == (folder, "jpeg", 20_000)
    assert 0 < sum(path.stat().st_size for path in folder.glob("*.frames")) <= 20_000
