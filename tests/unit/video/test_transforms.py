"""Frames become tensors alike for a whole clip, drawn by the given generator alone."""

from dataclasses import replace

import pytest
import torch
from helpers import raises_exactly
from torchvision.transforms.v2 import functional

from apt_peft.errors import ConfigError
from apt_peft.video import IMAGENET_MEAN, IMAGENET_STD, ClipTransform, RandAugment, clip_generator

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def gradient(height: int, width: int, frames: int = 2) -> torch.Tensor:
    """Rows in the red channel, columns in the green one."""
    clip = torch.zeros(frames, height, width, 3, dtype=torch.uint8)
    clip[..., 0] = torch.arange(height)[:, None]
    clip[..., 1] = torch.arange(width)[None, :]
    return clip


def test_normalises_with_mean_and_std():
    frames = torch.full((2, 8, 8, 3), 128, dtype=torch.uint8)
    clip = ClipTransform(8)(frames)
    expected = (128 / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    assert clip.dtype == torch.float32
    assert clip.shape == (2, 3, 8, 8)
    assert torch.allclose(clip, expected[None, :, None, None].expand_as(clip))


@pytest.mark.parametrize("shape", [(3, 9, 7), (5, 3, 9, 7), (2, 5, 3, 9, 7)])
def test_every_value_is_torchvisions(shape):
    transform, draw = ClipTransform(8), torch.Generator().manual_seed(0)
    levels = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    clip = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
    for pixels in (levels, clip, clip.flip(-1).transpose(-1, -2), clip / 255):
        expected = functional.normalize(
            functional.to_dtype(pixels, torch.float32, scale=True), IMAGENET_MEAN, IMAGENET_STD
        )
        made = transform.normalize(pixels)
        assert torch.equal(made, expected)
        assert made.is_contiguous()
        if pixels is clip and len(shape) == 4:
            assert torch.equal(transform.normalize(pixels, [1, 0, 0, 1, 1]), expected[[1, 0, 0, 1, 1]])


@pytest.mark.parametrize(
    "options",
    [
        {"augment": "flip", "rand_augment": "rand-m9-n2-mstd0.5-inc1", "random_erasing": 1.0},
        {"augment": "flip", "random_resized_crop": True},
        {"augment": "crop", "area": (0.1, 0.2)},
        {"full_resolution": True},
    ],
)
def test_repeated_frames_are_made_once_and_come_out_the_same(options):
    transform, rows = ClipTransform(16, **options), [0, 0, 1, 2, 2, 2]
    noise = torch.randint(0, 256, (3, 30, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    prepared = transform.prepare(noise)
    for index in range(6):
        drawn = [clip_generator(0, 0, index) for _ in range(2)]
        assert torch.equal(transform.finish(prepared, drawn[0], rows), transform.finish(prepared[rows], drawn[1]))
    assert torch.equal(transform.finish(prepared, None, rows), transform.finish(prepared[rows]))


@pytest.mark.parametrize(("resize", "shape"), [("crop", (10, 20)), ("squash", (10, 10))])
@pytest.mark.parametrize("stored", [(40, 80), (80, 40)])
def test_prepare_resizes_once(resize, shape, stored):
    prepared = ClipTransform(10, resize=resize).prepare(gradient(*stored))
    assert prepared.dtype == torch.uint8
    assert prepared.shape[:2] == (2, 3)
    assert tuple(prepared.shape[2:]) == (shape if stored[0] < stored[1] else shape[::-1])


def test_prepared_side():
    assert ClipTransform(224).prepared_side == 224
    assert ClipTransform(224, augment="flip").prepared_side == 224
    assert ClipTransform(224, augment="crop").prepared_side == 256
    assert ClipTransform(224, short_side=300).prepared_side == 300


def test_evaluation_takes_the_centre_unflipped():
    frames = gradient(20, 40)
    for augment in ("none", "flip"):
        clip = ClipTransform(20, augment=augment, **PLAIN)(frames) * 255
        assert torch.allclose(clip[0, 1, 0], torch.arange(10.0, 30.0))


def test_flip_is_drawn_and_alike_for_all_frames():
    transform = ClipTransform(20, augment="flip", **PLAIN)
    prepared = transform.prepare(gradient(20, 20))
    flipped = 0
    for index in range(200):
        row = transform.finish(prepared, clip_generator(0, 0, index))[:, 1, 0] * 255
        assert torch.equal(row[0], row[1])
        assert row[0, 0].round() in (0, 19)
        flipped += int(row[0, 0].round() == 19)
    assert 70 < flipped < 130


def test_random_crops_keep_their_area_and_proportions():
    transform = ClipTransform(64, augment="crop", **PLAIN)
    prepared = transform.prepare(gradient(100, 150))
    areas = []
    for index in range(200):
        clip = transform.finish(prepared, clip_generator(0, 0, index))
        assert torch.equal(clip[0], clip[1])
        assert clip.shape == (2, 3, 64, 64)
        _, _, height, width = transform._random_box(73, 110, clip_generator(0, 0, index))
        assert 0.72 < width / height < 1.37
        areas.append(height * width / (73 * 110))
    assert 0.49 < min(areas) < 0.6
    assert max(areas) > 0.75


@pytest.mark.parametrize("augment", ["none", "flip"])
def test_published_crops_are_bilinear_parts_of_the_picture_from_a_twelfth_up(augment):
    transform = ClipTransform(64, augment=augment, random_resized_crop=True, **PLAIN)
    assert transform.prepared_side == 73
    prepared = transform.prepare(gradient(100, 150))
    assert prepared.shape[-2:] == (73, 109)
    areas, flips = [], 0
    for index in range(200):
        clip = transform.finish(prepared, clip_generator(0, 0, index))
        top, left, height, width = transform._random_box(73, 109, clip_generator(0, 0, index))
        box = prepared[..., top : top + height, left : left + width]
        columns = ((torch.arange(64) + 0.5) * width / 64 - 0.5).clamp(0, width - 1)
        first, part = columns.long(), columns % 1
        row = box[0, 1, 0].float()  # which rises along the columns
        by_hand = row[first] * (1 - part) + row[(first + 1).clamp(max=width - 1)] * part
        flipped = bool(clip[0, 1, 0, 0] > clip[0, 1, 0, -1])
        assert torch.allclose(clip[:, 1] * 255, (by_hand.flip(-1) if flipped else by_hand).expand(2, 64, 64), atol=1e-3)
        areas.append(height * width / (73 * 109))
        flips += flipped
    assert 0.075 < min(areas) < 0.12
    assert max(areas) > 0.8
    assert flips == 0 if augment == "none" else 70 < flips < 130
    assert torch.equal(transform.finish(prepared), ClipTransform(64, short_side=73, **PLAIN).finish(prepared))


def test_random_operations_come_before_the_crop():
    transform = ClipTransform(16, rand_augment="rand-m9-n2-inc1", random_resized_crop=True, **PLAIN)
    prepared = transform.prepare(gradient(40, 60))
    seen = 0
    for index in range(20):
        generator = clip_generator(0, 0, index)
        augmented = RandAugment.parse("rand-m9-n2-inc1")(prepared, generator)
        expected = replace(transform, rand_augment=None).finish(augmented, generator)
        assert torch.equal(transform.finish(prepared, clip_generator(0, 0, index)), expected)
        seen += not torch.equal(augmented, prepared)
    assert seen > 8
    assert torch.equal(transform.finish(prepared), replace(transform, rand_augment=None).finish(prepared))


def test_without_a_flip_nothing_is_mirrored():
    frames = gradient(30, 40)
    for augment in ("flip", "crop"):
        transform = ClipTransform(20, augment=augment, flip=False, **PLAIN)
        for index in range(50):
            row = transform(frames, clip_generator(0, 0, index))[0, 1, 5]
            assert row[0] < row[-1]
        # And the crop is that of the run with flips: what is drawn before it is the same.
        mirrored = [replace(transform, flip=True)(frames, clip_generator(0, 0, index)) for index in range(50)]
        assert sum(bool(clip[0, 1, 5, 0] > clip[0, 1, 5, -1]) for clip in mirrored) > 10


def test_full_resolution_augments_frames_as_they_were_decoded():
    frames = gradient(100, 150)
    published = {"augment": "flip", "flip": False, "random_resized_crop": True, "full_resolution": True}
    transform = ClipTransform(16, **published, **PLAIN)
    assert torch.equal(transform.prepare(frames), frames.permute(0, 3, 1, 2))
    for index in range(20):
        # The parts of the whole picture that a plain loop would average, from its own coordinates.
        clip = transform(frames, clip_generator(0, 0, index))
        top, left, height, width = transform._random_box(100, 150, clip_generator(0, 0, index))
        box = frames[:, top : top + height, left : left + width].permute(0, 3, 1, 2) / 255
        by_hand = torch.nn.functional.interpolate(box, (16, 16), mode="bilinear", align_corners=False)
        assert torch.allclose(clip, by_hand, atol=1e-6)
    first = replace(transform, rand_augment="rand-m9-n2-inc1")
    generator = clip_generator(0, 0, 3)
    augmented = RandAugment.parse("rand-m9-n2-inc1")(frames.permute(0, 3, 1, 2), generator)
    assert torch.equal(first(frames, clip_generator(0, 0, 3)), transform.finish(augmented, generator))


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_full_resolution_is_of_training_alone(resize):
    frames = gradient(40, 60)
    plain = ClipTransform(16, resize=resize)
    full = replace(plain, full_resolution=True)
    assert torch.equal(full(frames), plain(frames))
    assert torch.equal(replace(full, random_resized_crop=True)(frames), plain(frames))
    assert torch.equal(full.finish_views(full.prepare(frames), 1), plain.finish_views(plain.prepare(frames), 1))
    flips = replace(plain, augment="flip")  # a flip needs no full picture
    for index in range(4):
        draw = clip_generator(0, 0, index), clip_generator(0, 0, index)
        assert torch.equal(replace(flips, full_resolution=True)(frames, draw[0]), flips(frames, draw[1]))


def test_a_crop_that_cannot_fit_is_the_largest_centre():
    transform = ClipTransform(16, augment="crop", area=(1, 1), ratio=(1, 1), **PLAIN)
    assert transform._random_box(20, 50, clip_generator(0, 0, 0)) == (0, 15, 20, 20)
    assert transform._random_box(50, 20, clip_generator(0, 0, 0)) == (15, 0, 20, 20)


def test_the_generator_is_the_only_source_of_chance():
    transform = ClipTransform(16, augment="crop")
    frames = gradient(40, 60)
    torch.manual_seed(0)
    first = transform(frames, clip_generator(0, 1, 2))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(transform(frames, clip_generator(0, 1, 2)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(transform(frames, clip_generator(0, 2, 2)), first)


@pytest.mark.parametrize("tall", [False, True])
def test_crops_go_along_the_longer_side(tall):
    transform = ClipTransform(20, **PLAIN)
    prepared = transform.prepare(gradient(50, 20) if tall else gradient(20, 50))
    views = transform.finish_views(prepared, 3) * 255
    assert views.shape == (3, 2, 3, 20, 20)
    assert views[:, 0, 0 if tall else 1, 0, 0].round().tolist() == [0, 15, 30]
    assert torch.equal(transform.finish_views(prepared, 1)[0], transform.finish(prepared))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size (0) must be whole numbers from 1 up."),
        ({"short_side": 0}, "short_side (0) must be whole numbers from 1 up."),
        ({"resize": "pad"}, "resize ('pad') must be one of 'crop', 'squash'."),
        ({"augment": "all"}, "augment ('all') must be one of 'none', 'flip', 'crop'."),
        (
            {"augment": "crop", "random_resized_crop": True},
            "random_resized_crop (True) must go with augment 'none' or 'flip', but augment is 'crop', which crops another "
            "part at random. Take 'flip'.",
        ),
        (
            {"rand_augment": "rand-m4-x"},
            "rand_augment ('rand-m4-x') must be rand and parts with dashes between, each once at most, but 'x' cannot stand "
            "there. The parts are m0 to m10, the magnitude; n1 to n15, the operations of a clip; mstd0 to mstd100, the "
            "magnitude's deviation; inc0 or inc1, whether all operations grow with the magnitude.",
        ),
        ({"short_side": 8}, "short_side (8) must be at least size, but size is 16."),
        ({"mean": (0.5,)}, "mean ([0.5]) must be three numbers, one for each of red, green and blue."),
        (
            {"std": (1, 1, float("nan"))},
            "std ([1, 1, nan]) must be three numbers, one for each of red, green and blue.",
        ),
        ({"std": (1, 1, 0)}, "std ([1.0, 1.0, 0.0]) must be above 0: values are divided by it."),
        ({"area": (0.9, 0.5)}, "area ((0.9, 0.5)) must be two parts of the picture, 0 < smallest <= largest <= 1."),
        ({"ratio": (0, 1)}, "ratio ((0, 1)) must be two proportions, 0 < smallest <= largest."),
    ],
)
def test_values_that_cannot_be_used(settings, message):
    with raises_exactly(ConfigError, message):
        ClipTransform(**{"size": 16} | settings)
