"""The clip generator: a function of its seed, readable again, splits that share nothing, labels that are true."""

from hashlib import sha256

import pytest
import torch

from apt_peft.demo import clips
from apt_peft.video import read_frames


def draw(seed, split="train", n=24):
    return clips.red(n, torch.Generator().manual_seed(clips.split_seed(seed, split)))


def test_a_seed_gives_the_same_files_again(tmp_path):
    first = clips.write_split(tmp_path / "a", "train", 6, seed=3)
    assert first == clips.write_split(tmp_path / "b", "train", 6, seed=3)
    assert len(first) == 6
    for name in first:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_more_clips_are_the_same_clips_and_more(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "CHUNK", 4)
    few, many = (clips.write_split(tmp_path / str(n), "train", n, seed=0) for n in (4, 8))
    assert set(few) < set(many)
    assert len({(tmp_path / "8" / name).read_bytes() for name in many}) == 8


def test_a_file_decodes_to_what_was_drawn(tmp_path):
    frames, labels, _ = draw(0, n=4)
    written = clips.write_split(tmp_path, "train", 4, seed=0)
    for name, drawn, label in zip(written, frames, labels.tolist(), strict=True):
        assert name.split("/")[1] == clips.DIRECTIONS[label]
        decoded = read_frames(tmp_path / name, range(clips.NUM_FRAMES))
        assert decoded.shape == drawn.shape == (8, 48, 48, 3)
        difference = (torch.as_tensor(decoded).float() - drawn.float()).abs()
        assert difference.mean() < 2
        assert difference.max() < 40


def test_splits_and_seeds_share_no_clip():
    seeds = [clips.split_seed(seed, split) for seed in range(50) for split in clips.SPLITS]
    assert len(set(seeds)) == len(seeds)
    drawn = [draw(seed, split)[0] for seed in (0, 1, 2) for split in clips.SPLITS]
    assert len({sha256(clip.numpy().tobytes()).hexdigest() for split in drawn for clip in split}) == 6 * 24


def centre_of_red(frame):
    """Where the red shape is, as complex numbers x + iy of its pixels on the unit circle (the scene wraps around)."""
    r, g, b = frame.float().unbind(-1)
    weight = ((r - torch.maximum(g, b)) > 70).float()
    turn = 2j * torch.pi * torch.arange(clips.SIZE) / clips.SIZE
    x, y = (weight.sum(dim).to(torch.cfloat) @ turn.exp() for dim in (0, 1))
    return torch.stack([x, y]).angle() * clips.SIZE / (2 * torch.pi)


def test_the_label_is_where_the_red_shape_goes():
    frames, labels, _ = draw(5, n=40)
    right = 0
    for clip, label in zip(frames, labels, strict=True):
        step = centre_of_red(clip[7]) - centre_of_red(clip[3])  # 4 frames later, less than half a scene
        step = (step + clips.SIZE / 2) % clips.SIZE - clips.SIZE / 2
        eighth = torch.round(torch.atan2(step[1], step[0]) / (torch.pi / 4)) % 8
        right += int(eighth == label)
    assert right >= 35  # an upper shape may hide the red one


def test_either_shape_may_be_the_red_one():
    _, labels, larger = draw(0, n=300)
    assert larger.float().mean() == pytest.approx(0.5, abs=0.1)
    assert torch.bincount(labels, minlength=8).min() > 20


def test_the_source_task_tells_of_the_larger_shape():
    frames, (direction, kind, hue) = clips.larger(100, torch.Generator().manual_seed(0))
    assert frames.shape == (100, 8, 48, 48, 3)
    assert direction.unique().tolist() == list(range(8))
    assert kind.unique().tolist() == hue.unique().tolist() == [0, 1, 2]
    # The larger shape covers more of the picture: most often its colour stands out most.
    strength = (frames.float() - frames.float().median()).clamp_min(60).sum((1, 2, 3))
    assert (strength.argmax(1) == hue).float().mean() > 0.8
