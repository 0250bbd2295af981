"""Random erasing of clips: one box for all frames, drawn from a generator, after the clip is normalised."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import raises_exactly

from apt_peft import ConfigError
from apt_peft.video import ClipTransform
from apt_peft.video.erasing import drawing_from, erase
from apt_peft.video.sampling import clip_generator

CLIP = torch.rand(4, 3, 20, 30, generator=torch.Generator().manual_seed(0)) + 0.1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_box_of_the_published_kind_is_zero_in_every_frame_and_channel():
    areas, erased = [], 0
    for seed in range(400):
        got = erase(CLIP, 0.5, generator(seed))
        changed = got != CLIP
        if not changed.any():
            continue
        erased += 1
        assert (got[changed] == 0).all()
        assert (changed == changed[:1, :1]).all(), "the same in all frames and channels"
        rows, columns = changed[0, 0].any(dim=1).nonzero()[:, 0], changed[0, 0].any(dim=0).nonzero()[:, 0]
        height, width = len(rows), len(columns)
        assert changed[0, 0].sum() == height * width
        assert (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) == (height, width), "one box"
        areas.append(height * width / 600)
    assert abs(erased - 200) < 40  # four deviations
    assert 0.01 < min(areas) < 0.05
    assert 0.28 < max(areas) < 0.35
    assert sum(areas) / len(areas) == pytest.approx(0.175, abs=0.03)


def test_draws_come_from_the_generator_and_torchs_own_state_stays():
    state, one = torch.get_rng_state(), generator()
    first = erase(CLIP, 1.0, one)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(erase(CLIP, 1.0, one), first), "the generator went on"
    torch.manual_seed(3)
    assert torch.equal(erase(CLIP, 1.0, generator()), first)


def test_the_state_comes_back_where_drawing_fails():
    def fail() -> None:
        with drawing_from(generator()):
            torch.rand(-torch.ones(1, dtype=torch.int64))

    state = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        fail()
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_do_not_draw_from_each_others_generators():
    state = torch.get_rng_state()
    wanted = [erase(CLIP, 1.0, generator(seed)) for seed in range(64)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda seed: erase(CLIP, 1.0, generator(seed)), range(64)))
    assert all(torch.equal(one, other) for one, other in zip(wanted, got, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_transform_erases_last_and_only_where_a_generator_draws():
    frames = torch.randint(1, 256, (4, 24, 32, 3), dtype=torch.uint8, generator=generator())
    plain = ClipTransform(16, augment="flip")
    erasing = ClipTransform(16, augment="flip", random_erasing=1.0)
    assert torch.equal(erasing(frames), plain(frames)), "test clips stay whole"
    before = plain(frames, clip_generator(0, 0, 0))
    after = erasing(frames, clip_generator(0, 0, 0))
    changed = before != after
    assert changed.any()
    assert (after[changed] == 0).all(), "0 after normalising is the mean colour"
    assert torch.equal(after[~changed], before[~changed]), "the flip was drawn before"


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_what_is_no_probability(value):
    with raises_exactly(ConfigError, f"random_erasing ({value}) must be a probability, from 0 to 1."):
        ClipTransform(16, random_erasing=value)
