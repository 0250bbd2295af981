"""RandAugment on clips against timm's on single frames: strengths, pixels, and how often what is drawn."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import raises_exactly
from PIL import Image
from timm.data import auto_augment as timm

from apt_peft.errors import ConfigError
from apt_peft.video import RandAugment, clip_generator
from apt_peft.video.augment import MOVES, OPERATIONS, PLAIN, apply_operation, strength

PUBLISHED = "rand-m4-n2-mstd0.2-inc1"
# Against timm 1.0.31 with Pillow, bicubic: the largest difference of a value in 0..255, and the largest share of values that
# differ at all. Where it is not 0, float32 rounds down to another whole number than Pillow's float64.
TOLERANCES = {
    "AutoContrast": (1, 1e-3), "Equalize": (0, 0), "Invert": (0, 0), "Rotate": (1, 1e-3), "Posterize": (0, 0),
    "Solarize": (0, 0), "SolarizeAdd": (0, 0), "Color": (0, 0), "Contrast": (0, 0), "Brightness": (0, 0),
    "Sharpness": (1, 1e-3), "ShearX": (1, 1e-3), "ShearY": (1, 1e-3), "TranslateXRel": (1, 1e-3),
    "TranslateYRel": (1, 1e-3),
}  # fmt: skip
GROWING = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Large smooth patches with noise on them."""
    numbers = np.random.default_rng(seed)
    patches = Image.fromarray(numbers.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8))
    smooth = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + numbers.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)


def timm_name(name: str, increasing: bool) -> str:
    return f"{name}Increasing" if increasing and name in GROWING else name


def timm_arguments(name: str, magnitude: float, increasing: bool) -> set[float | None]:
    """What timm makes of a magnitude: two values where it draws a sign."""
    level = timm.LEVEL_TO_ARG[timm_name(name, increasing)]
    if level is None:
        return {None}
    random.seed(0)
    return {round(level(magnitude, {})[0], 12) for _ in range(12)}


def ours(name: str, magnitude: float, increasing: bool) -> set[float | None]:
    values = [strength(name, magnitude, increasing=increasing, negative=negative) for negative in (False, True)]
    return {None if value is None else round(value, 12) for value in values}


@pytest.mark.parametrize("increasing", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_magnitudes_mean_what_they_mean_in_timm(name, increasing):
    for magnitude in np.linspace(0, 10, 41).tolist():
        assert ours(name, magnitude, increasing) == timm_arguments(name, magnitude, increasing), magnitude


@pytest.mark.parametrize("name", OPERATIONS)
def test_pixels_are_timms(name):
    differences = []
    for seed, size in enumerate([(47, 65), (80, 60), (33, 33)]):
        frame = picture(*size, seed)
        for magnitude in (0, 1.3, 4, 4.2, 9.9):
            for value in sorted(timm_arguments(name, magnitude, True), key=str):
                arguments = () if value is None else (value,)
                theirs = timm.NAME_TO_OP[timm_name(name, True)](
                    Image.fromarray(frame), *arguments, fillcolor=timm._FILL, resample=Image.Resampling.BICUBIC
                )
                mine = apply_operation(name, torch.from_numpy(frame).permute(2, 0, 1)[None], value)
                assert mine.dtype == torch.uint8
                mine = mine[0].permute(1, 2, 0).numpy()
                differences.append(np.abs(np.asarray(theirs).astype(int) - mine).ravel())
    found = np.concatenate(differences)
    largest, share = TOLERANCES[name]
    assert found.max() <= largest
    assert (found > 0).mean() <= share


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_frame_of_a_clip_is_treated_as_if_it_were_alone(name):
    clip = torch.from_numpy(np.stack([picture(20, 30, seed) for seed in range(3)])).permute(0, 3, 1, 2)
    before = clip.clone()
    value = strength(name, 6, increasing=True)
    together = apply_operation(name, clip, value)
    assert torch.equal(together, torch.cat([apply_operation(name, frame[None], value) for frame in clip]))
    assert not torch.equal(together, clip)
    assert torch.equal(clip, before)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_plain_frame_stays_plain(name, level):
    clip = torch.full((2, 3, 9, 12), level, dtype=torch.uint8)
    done = apply_operation(name, clip, strength(name, 4, increasing=True))
    values = set(done.unique().tolist())
    assert len(values - {128} if name in MOVES else values) == 1
    if name in MOVES or name in ("AutoContrast", "Equalize", "Color", "Contrast", "Sharpness"):
        assert level in values


def test_no_bits_left_is_black():
    """As in Pillow before it refused to keep no bit, where timm fails now."""
    clip = torch.full((1, 3, 4, 4), 200, dtype=torch.uint8)
    assert int(apply_operation("Posterize", clip, strength("Posterize", 10, increasing=True)).max()) == 0


@pytest.mark.parametrize("config", [PUBLISHED, "rand-m9-n3-mstd2-inc0"])
def test_ten_thousand_draws_agree_with_timms(config):
    """Counts within 4 standard deviations of a difference, distributions of strengths by Kolmogorov and Smirnov at 1 %."""
    draws = 10_000
    augment = RandAugment.parse(config)
    mine = [augment.draw(torch.Generator().manual_seed(seed)) for seed in range(draws)]
    theirs = timm_draws(config, draws, augment.increasing)
    for count in range(augment.layers + 1):
        assert_close(*(sum(len(drawn) == count for drawn in both) for both in (mine, theirs)), draws)
    for name in OPERATIONS:
        strengths = [[value for drawn in both for found, value in drawn if found == name] for both in (mine, theirs)]
        assert_close(*map(len, strengths), draws * augment.layers)
        if name in PLAIN:
            assert {*strengths[0], *strengths[1]} == {None}
            continue
        first, second = (np.sort(values) for values in strengths)
        places = np.concatenate([first, second])
        parts = [np.searchsorted(values, places, side="right") / len(values) for values in (first, second)]
        assert np.abs(parts[0] - parts[1]).max() < 1.63 * (1 / len(first) + 1 / len(second)) ** 0.5, name
    pairs = Counter(tuple(name for name, _ in drawn) for drawn in mine if len(drawn) == 2)
    assert any(first == second for first, second in pairs), "an operation may be drawn twice"


def assert_close(first: int, second: int, of: int) -> None:
    part = (first + second) / (2 * of)
    assert abs(first - second) <= 4 * (2 * of * part * (1 - part)) ** 0.5


def timm_draws(config: str, draws: int, increasing: bool) -> list[list[tuple[str, float | None]]]:
    """What timm draws, noted down in place of carried out."""
    names = {timm_name(name, increasing): name for name in OPERATIONS}
    transform = timm.rand_augment_transform(config, {"interpolation": Image.Resampling.BICUBIC})
    drawn: list[tuple[str, float | None]] = []
    for operation in transform.ops:

        def note(image, *values, operation=operation, **_):
            drawn.append((names[operation.name], values[0] if values else None))
            return image

        operation.aug_fn = note
    random.seed(0)
    np.random.seed(0)
    found = []
    for _ in range(draws):
        drawn.clear()
        transform(None)
        found.append(list(drawn))
    return found


def test_the_generator_is_the_only_source_of_chance():
    clip = torch.from_numpy(np.stack([picture(20, 30, seed) for seed in range(2)])).permute(0, 3, 1, 2)
    augment = RandAugment.parse("rand-m9-n3-mstd0.5-inc1")
    torch.manual_seed(0)
    state = torch.get_rng_state()
    results = [augment(clip, clip_generator(0, 1, index)) for index in range(20)]
    assert all(torch.equal(result, augment(clip, clip_generator(0, 1, index))) for index, result in enumerate(results))
    assert torch.equal(torch.get_rng_state(), state)
    assert len({result.numpy().tobytes() for result in results}) > 12
    after = set()
    for index in range(20):  # what is drawn afterwards does not hang on what came out
        generator = torch.Generator().manual_seed(index)
        augment.draw(generator)
        other = torch.Generator().manual_seed(index)
        torch.rand(3, 3, generator=other, dtype=torch.float64), torch.randn(3, generator=other, dtype=torch.float64)
        after.add(float(torch.rand((), generator=generator)) == float(torch.rand((), generator=other)))
    assert after == {True}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PUBLISHED, RandAugment(4, 2, 0.2, True)),
        ("rand-inc1-mstd0.2-n2-m4", RandAugment(4, 2, 0.2, True)),
        ("rand-m9-n3", RandAugment(9, 3, 0.0, False)),
        ("rand", RandAugment(10, 2, 0.0, False)),
    ],
)
def test_configurations(config, expected):
    assert RandAugment.parse(config) == expected


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        ("", "''"),
        ("augmix-m3", "'augmix'"),
        ("rand-m4-x2-n2", "'x2'"),
        ("rand-m11", "'m11'"),
        ("rand-n0", "'n0'"),
        ("rand-n99", "'n99'"),
        ("rand-m4-m5", "'m5'"),
        ("rand-m4.5", "'m4.5'"),
        ("rand-mstd", "'mstd'"),
        ("rand-mstd101", "'mstd101'"),
        ("rand-inc2", "'inc2'"),
        ("rand-p0.5-tweights", "'p0.5', 'tweights'"),
        ("rand-m-4", "'m', '4'"),
        ("rand-m٤", "'m٤'"),
    ],
)
def test_what_is_no_configuration(config, wrong):
    with raises_exactly(
        ConfigError,
        f"rand_augment ({config!r}) must be rand and parts with dashes between, each once at most, but {wrong} cannot "
        "stand there. The parts are m0 to m10, the magnitude; n1 to n15, the operations of a clip; mstd0 to mstd100, the "
        "magnitude's deviation; inc0 or inc1, whether all operations grow with the magnitude.",
    ):
        RandAugment.parse(config)
