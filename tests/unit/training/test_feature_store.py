"""Files of features: found again where nothing changed, made anew where anything did, and never taken half or damaged."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from clips import write_classes
from helpers import raises_exactly
from models import tiny_videomae
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from apt_peft import AttentionPromptConfig, ConfigError
from apt_peft.training import feature_store
from apt_peft.training.feature_store import FeatureStore, digest
from apt_peft.training.features import FeatureDataset
from apt_peft.training.seam import find_seam
from apt_peft.video import Clip, ClipTransform, VideoDataset, read_data
from apt_peft.video.cache import FrameCache


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return write_classes(tmp_path_factory.mktemp("videos"), ["a", "b"], clips=5, num_frames=6, width=32, height=24)


def dataset(place: Path, *, training: bool = True, seed: int = 0, **transform) -> VideoDataset:
    return VideoDataset(
        read_data(place).train, num_frames=4, transform=ClipTransform(16, **transform), training=training, seed=seed
    )


def model(**changes):
    return get_peft_model(tiny_videomae(**changes), AttentionPromptConfig(target_modules=[]))


def store(folder: Path, of=None, **options) -> FeatureStore:
    of = model() if of is None else of
    return FeatureStore(folder, of, find_seam(of, torch.randn(2, 4, 3, 16, 16)), **({"batch_size": 3} | options))


def counts(
    folder: Path, data: VideoDataset, of=None, views: int = 1, seeded: bool = False, **options
) -> tuple[int, int]:
    """Files computed and found."""
    opened = store(folder, of, **options)
    opened.load(data, views=views, seeded=seeded)
    return opened.computed, opened.found


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Files of four clips: three of ten."""
    monkeypatch.setattr(feature_store, "CHUNK", 4)


def test_features_are_those_of_the_model_clip_by_clip(tmp_path, videos):
    of, data = model(), dataset(videos)
    (view,) = store(tmp_path, of).load(data)
    assert [len(piece) for piece in view] == [4, 4, 2]
    encoder = of.get_base_model().videomae
    for index in range(10):
        with torch.no_grad():
            wanted = encoder(data[index]["pixel_values"][None]).last_hidden_state.mean(1)[0]
        torch.testing.assert_close(view[index // 4][index % 4], wanted, rtol=1e-5, atol=1e-5)


def test_test_views_and_copies_are_a_second_axis(tmp_path, videos):
    clips = read_data(videos).train
    views = VideoDataset(clips, num_frames=4, transform=ClipTransform(16), segments=2, crops=3)
    copies = VideoDataset(clips, num_frames=4, transform=ClipTransform(16, augment="crop"), training=True, repeats=2)
    assert [tuple(piece.shape) for piece in store(tmp_path).load(views)[0]] == [(4, 6, 32), (4, 6, 32), (2, 6, 32)]
    assert store(tmp_path).load(copies, seeded=True)[0][0].shape == (4, 2, 32)


def test_frames_of_jpeg_are_others_and_those_of_a_raw_cache_the_same(tmp_path, videos):
    def cached(format: str) -> VideoDataset:
        data = dataset(videos)
        data.cache = FrameCache(tmp_path / format, format=format)
        return data

    assert counts(tmp_path / "features", dataset(videos)) == (3, 0)
    assert counts(tmp_path / "features", cached("raw")) == (0, 3)
    assert counts(tmp_path / "features", cached("jpeg")) == (3, 0)


def test_nothing_changed(tmp_path, videos):
    assert counts(tmp_path, dataset(videos)) == (3, 0)
    assert counts(tmp_path, dataset(videos), batch_size=5, workers=1) == (0, 3)
    assert counts(tmp_path, dataset(videos, seed=5)) == (0, 3), "nothing is drawn"
    of = model()
    with torch.no_grad():
        of.get_base_model().classifier.weight.add_(1)  # what is trained is no part of the features
    of.get_base_model().config.id2label = {0: "x", 1: "y", 2: "z"}
    assert counts(tmp_path, dataset(videos), of) == (0, 3)


def changed_number():
    of = model()
    with torch.no_grad():
        of.get_base_model().videomae.encoder.layer[2].output.dense.bias[7] += 1e-6
    return of


@pytest.mark.parametrize(
    "change",
    [
        {"of": changed_number},
        {"of": lambda: model(layer_norm_eps=1e-5)},
        {"mean": (0.5, 0.4, 0.4)},
        {"resize": "squash"},
        {"training": False},
        {"precision": "bfloat16"},
        {"versions": "9.9"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_weight_config_transform_precision_or_version(tmp_path, videos, change, monkeypatch):
    counts(tmp_path, dataset(videos))
    change = dict(change)
    of = change.pop("of", model)()
    options = {name: change.pop(name) for name in ("precision",) if name in change}
    if number := change.pop("versions", None):
        monkeypatch.setattr(feature_store, "versions", lambda packages: {"torch": number})
    assert counts(tmp_path, dataset(videos, **change), of, **options) == (3, 0)
    monkeypatch.undo()
    monkeypatch.setattr(feature_store, "CHUNK", 4)
    assert counts(tmp_path, dataset(videos)) == (0, 3), "the files of before are still there"


def test_a_changed_clip_costs_its_own_file_alone(tmp_path, videos):
    shutil.copytree(videos, tmp_path / "copy")
    folder = tmp_path / "store"
    assert counts(folder, dataset(tmp_path / "copy")) == (3, 0)
    before = store(folder).load(dataset(tmp_path / "copy"))[0]
    shutil.copy(tmp_path / "copy" / "a" / "a_0.mp4", tmp_path / "copy" / "b" / "b_4.mp4")
    assert counts(folder, dataset(tmp_path / "copy")) == (1, 2)
    after = store(folder).load(dataset(tmp_path / "copy"))[0]
    assert torch.equal(before[0], after[0])
    torch.testing.assert_close(after[2][1], after[0][0])


def test_fixed_draws_depend_on_the_seed_and_more_of_them_keep_the_first(tmp_path, videos):
    def data(seed: int = 0) -> VideoDataset:
        return dataset(videos, augment="crop", seed=seed)

    assert counts(tmp_path, data(), views=2, seeded=True) == (6, 0)
    assert counts(tmp_path, data(), views=3, seeded=True) == (3, 6)
    assert counts(tmp_path, data(1), views=2, seeded=True) == (6, 0)
    views = store(tmp_path).load(data(), views=3, seeded=True)
    given = data()
    for view in range(3):
        given.set_epoch(view)
        with torch.no_grad():
            clip = given[5]["pixel_values"][None]
            wanted = model().get_base_model().videomae(clip).last_hidden_state.mean(1)[0]
        torch.testing.assert_close(views[view][1][1], wanted, rtol=1e-5, atol=1e-5)
    assert given.epoch == 2
    assert data().epoch == 0


def damage_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def other_content(path: Path) -> None:
    save_file({"features": torch.zeros(4, 32)}, path)


def fewer(path: Path) -> None:
    tensor = load_file(path)["features"][:1].clone()
    save_file({"features": tensor}, path, metadata={"sha256": digest(tensor)})


@pytest.mark.parametrize(
    "damage",
    [
        damage_byte,
        other_content,
        fewer,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_bytes(os.urandom(400)),
        lambda path: save_file({"other": torch.zeros(1)}, path),
    ],
    ids=["a bit", "other content", "fewer clips", "empty", "cut", "noise", "another name"],
)
def test_a_damaged_file_is_told_and_made_anew(tmp_path, videos, damage, caplog):
    wanted = [piece.clone() for piece in store(tmp_path).load(dataset(videos))[0]]
    path = sorted(tmp_path.iterdir())[1]
    damage(path)
    opened = store(tmp_path)
    got = opened.load(dataset(videos))[0]
    assert (opened.computed, opened.found) == (1, 2)
    assert caplog.messages == [f"{path} is damaged; its features are computed anew."]
    assert all(torch.equal(one, other) for one, other in zip(wanted, got, strict=True))
    assert counts(tmp_path, dataset(videos)) == (0, 3)


def test_what_killed_processes_left_is_swept_up_a_day_later(tmp_path, videos):
    old, new = tmp_path / "abc1.part", tmp_path / "abc2.part"
    for part, age in ((old, 90_000), (new, 60)):
        part.write_bytes(b"half")
        os.utime(part, (time.time() - age,) * 2)
    counts(tmp_path, dataset(videos))
    assert not old.exists()
    assert new.exists()
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_torchs_random_state_and_the_models_mode_stay(tmp_path, videos):
    of = model().train()
    opened = store(tmp_path, of)
    state = torch.get_rng_state()
    opened.load(dataset(videos, augment="crop"), seeded=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert of.training


def test_a_folder_that_cannot_be_written_to(tmp_path, videos, monkeypatch):
    (tmp_path / "file").touch()
    with raises_exactly(
        ConfigError,
        f"feature_cache ({tmp_path / 'file'}) must be a folder that can be written to, but: File exists. "
        "Free space, or name another.",
    ):
        store(tmp_path / "file")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(feature_store.os, "replace", lambda *paths: (_ for _ in ()).throw(full))
    with raises_exactly(
        ConfigError,
        f"feature_cache ({tmp_path / 'store'}) must be a folder that can be written to, but: No space left on device. "
        "Free space, or name another.",
    ):
        store(tmp_path / "store").load(dataset(videos))
    assert list((tmp_path / "store").iterdir()) == []


def test_large_features_are_in_files_of_fewer_clips(tmp_path, videos, monkeypatch):
    monkeypatch.setattr(feature_store, "FILE_BYTES", 3 * 4 * 32 + 5)  # three mean tokens of width 32
    views = store(tmp_path).load(dataset(videos))
    assert [len(piece) for piece in views[0]] == [3, 3, 3, 1]
    items = FeatureDataset(read_data(videos).train, views, training=True)
    assert torch.equal(torch.stack([items[i]["pixel_values"] for i in range(10)]), torch.cat(views[0]))
    monkeypatch.setattr(feature_store, "FILE_BYTES", 1)
    assert [len(piece) for piece in store(tmp_path).load(dataset(videos))[0]] == [1] * 10


def labelled(*labels: int | None) -> list[Clip]:
    return [Clip(b"", label) for label in labels]


def test_items_have_the_form_of_the_clips_own():
    pieces = [torch.arange(64.0)[:, None], torch.arange(64.0, 70.0)[:, None]]
    later = [piece + 100 for piece in pieces]
    training = FeatureDataset(labelled(*(i % 3 for i in range(70))), [pieces, later], training=True)
    assert training[65] == {"pixel_values": torch.tensor([65.0]), "labels": 2}
    assert training[-1]["pixel_values"] == 69
    training.set_epoch(3)
    assert training[65]["pixel_values"] == 165
    assert training.draw(65, 1)["pixel_values"] == 65, "a clip that comes again is another view"
    with pytest.raises(IndexError):
        training[70]
    copies = FeatureDataset(labelled(1, 2), [[torch.zeros(2, 3, 5)]], training=True, repeats=3)
    assert copies[1]["labels"].tolist() == [2, 2, 2]
    testing = FeatureDataset(labelled(1, None), [[torch.zeros(2, 6, 5)]], segments=2, crops=3)
    assert (testing[0]["labels"], testing[0]["index"], "labels" in testing[1]) == (1, 0, False)
