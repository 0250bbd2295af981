"""Mixup and CutMix on clips against the same written out, frame by frame, and what their draws depend on."""

import pytest
import torch
from torchvision.transforms import v2

from apt_peft.training.losses import IGNORED
from apt_peft.training.mixing import Mixing

CLASSES, SIZE = 5, 12


def batch(clips: int = 6, name: str = "pixel_values") -> dict:
    """Clips (B, T, C, height, width) of which each number tells clip, frame, channel and place."""
    numbers = torch.arange(clips * 4 * 3 * SIZE * SIZE, dtype=torch.float64).reshape(clips, 4, 3, SIZE, SIZE)
    return {name: numbers / numbers.numel(), "labels": torch.arange(clips) % CLASSES}


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return torch.eye(CLASSES)[labels]


@pytest.mark.parametrize("step", range(5))
def test_mixup_has_one_part_for_all_frames_of_all_clips(step):
    plain = batch()
    mixed = Mixing(CLASSES, mixup=0.8)(plain, step)
    clips, before = plain["pixel_values"], plain["pixel_values"].roll(1, 0)
    # lambda from a single number, and it must explain all others
    lam = (mixed["pixel_values"][1, 0, 0, 0, 0] - before[1, 0, 0, 0, 0]) / (clips - before)[1, 0, 0, 0, 0]
    assert 0 <= lam <= 1
    torch.testing.assert_close(mixed["pixel_values"], lam * clips + (1 - lam) * before, rtol=0, atol=1e-12)
    labels = one_hot(plain["labels"])
    torch.testing.assert_close(mixed["labels"], (lam * labels + (1 - lam) * labels.roll(1, 0)).float())


@pytest.mark.parametrize("step", range(5))
def test_cutmix_has_one_box_for_all_frames_of_all_clips(step):
    plain = batch()
    mixed = Mixing(CLASSES, cutmix=1.0)(plain, step)
    clips, before = plain["pixel_values"], plain["pixel_values"].roll(1, 0)
    replaced = mixed["pixel_values"] != clips
    rows, columns = replaced[1, 0, 0].any(dim=1).nonzero()[:, 0], replaced[1, 0, 0].any(dim=0).nonzero()[:, 0]
    box = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    if len(rows):
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    assert torch.equal(mixed["pixel_values"], torch.where(box, before, clips))
    lam = 1 - box.double().mean().item()
    labels = one_hot(plain["labels"])
    torch.testing.assert_close(mixed["labels"], lam * labels + (1 - lam) * labels.roll(1, 0))


def test_the_draws_are_those_of_mixup_and_cutmix():
    """Over many steps: a box in which steps differ, parts from Beta(0.8, 0.8), CutMix as often as asked for."""
    mixing = Mixing(CLASSES, mixup=0.8, cutmix=1.0, probability=0.5, switch_probability=0.25)
    plain = batch(2)
    clips, before = plain["pixel_values"], plain["pixel_values"].roll(1, 0)
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    parts = []
    for step in range(1000):
        mixed = mixing(plain, step)["pixel_values"]
        if torch.equal(mixed, clips):
            kinds["none"] += 1
        elif ((mixed == clips) | (mixed == before)).all():
            kinds["cutmix"] += 1
        else:
            kinds["mixup"] += 1
            parts.append(((mixed - before) / (clips - before))[0, 0, 0, 0, 0].item())
    # 0.5, 0.375, 0.125 of 1000; four deviations. A box that is empty counts as none.
    assert abs(kinds["mixup"] - 375) < 62
    assert abs(kinds["cutmix"] - 115) < 52
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1))
    found = torch.tensor(parts)
    assert found.mean().item() == pytest.approx(0.5, abs=0.07)
    assert found.var().item() == pytest.approx(1 / (4 * 2.6), abs=0.015)


def test_clips_that_do_not_count_are_left_out_and_have_no_label():
    plain = batch()
    plain["labels"][4:] = IGNORED
    mixed = Mixing(CLASSES, mixup=0.8)(plain, 0)
    four = Mixing(CLASSES, mixup=0.8)({name: value[:4] for name, value in plain.items()}, 0)
    for name in plain:
        assert torch.equal(mixed[name][:4], four[name])
    assert torch.equal(mixed["pixel_values"][4:], plain["pixel_values"][4:])
    assert torch.equal(mixed["labels"].sum(dim=1), torch.tensor([1.0, 1, 1, 1, 0, 0]))


@pytest.mark.parametrize("counted", [0, 1])
def test_a_batch_with_nothing_to_mix_stays_as_it_is(counted):
    plain = batch(3)
    plain["labels"][counted:] = IGNORED
    mixed = Mixing(CLASSES, mixup=0.8)(plain, 0)
    assert torch.equal(mixed["pixel_values"], plain["pixel_values"])
    assert mixed["labels"].sum() == counted


def test_copies_of_a_clip_are_not_mixed_with_each_other():
    plain = batch(3)
    repeated = {name: value.repeat_interleave(2, dim=0) for name, value in plain.items()}
    mixed = Mixing(CLASSES, mixup=0.8, repeats=2)(repeated, 0)
    assert ((mixed["labels"] > 0).sum(dim=1) == 2).all(), "each is of two classes"
    torch.testing.assert_close(mixed["labels"].sum(dim=0), one_hot(repeated["labels"]).sum(dim=0))


def test_draws_depend_on_seed_step_batch_and_process_alone(monkeypatch):
    mixing, plain = Mixing(CLASSES, mixup=0.8, cutmix=1.0), batch()

    def labels(*place, seed: int = 0) -> torch.Tensor:
        return Mixing(CLASSES, mixup=0.8, cutmix=1.0, seed=seed)(plain, *place)["labels"]

    state = torch.get_rng_state()
    first = mixing(plain, 3, 1)
    assert torch.equal(torch.get_rng_state(), state), "torch's own state, which dropout draws from, is as it was"
    torch.manual_seed(7)
    again = mixing(plain, 3, 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    others = [labels(4, 1), labels(3, 0), labels(3, 1, seed=1)]
    monkeypatch.setattr("apt_peft.training.processes.rank", lambda: 1)
    others.append(labels(3, 1))
    assert not any(torch.equal(first["labels"], other) for other in others)


def test_the_batch_given_stays_as_it_was_and_other_things_in_it_come_along():
    plain = batch(name="pixel_values_videos") | {"more": 1}
    before = {name: value.clone() for name, value in plain.items() if name != "more"}
    mixed = Mixing(CLASSES, name="pixel_values_videos", mixup=0.8)(plain, 0)
    assert all(torch.equal(plain[name], value) for name, value in before.items())
    assert mixed["more"] == 1
    assert type(mixed["pixel_values_videos"]) is torch.Tensor


def test_torchvision_takes_clips_for_pictures_only_where_it_is_told_that_they_are_videos():
    """Why clips are handed over as `tv_tensors.Video`: what torchvision says to five dimensions otherwise."""
    with pytest.raises(ValueError, match="Expected a batched input with 4 dims, but got 5"):
        v2.MixUp(num_classes=CLASSES)(*batch().values())
