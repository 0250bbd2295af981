"""Small clips of several kinds, damaged at random in ways that a seed repeats, and what reading one comes to."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from clips import write_clip

from apt_peft.video import Clip, ClipTransform, VideoDataset
from apt_peft.video.examine import examine

KINDS = {
    "h264.mp4": {"codec": "libx264", "open_gop": True, "audio": True},
    "fragments.mp4": {"codec": "libx264", "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "hevc.mp4": {"codec": "libx265", "rotation": 90},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "h264.mkv": {"codec": "libx264"},
    "h264.ts": {"codec": "libx264"},
}
# Frames that a damaged clip may claim to have; more would be a bomb of the size in the file, and have none.
_MOST_FRAMES = 10_000


def write_kinds(folder: Path) -> dict[str, bytes]:
    """A clip of each kind.

    Args:
        folder: for the files.

    Returns:
        Name -> content.
    """
    return {
        name: write_clip(folder / name, num_frames=18, width=64, height=48, **settings).read_bytes()
        for name, settings in KINDS.items()
    }


def flip_bits(content: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(draw.choice([1, 4, 30, 200])):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def flip_bits_at_an_end(content: bytes, draw: random.Random) -> bytes:
    """Where most formats keep their tables."""
    part = min(len(content), 1500)
    if draw.random() < 0.5:
        return flip_bits(content[:part], draw) + content[part:]
    return content[:-part] + flip_bits(content[-part:], draw)


def truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def lose_the_start(content: bytes, draw: random.Random) -> bytes:
    return content[draw.randrange(len(content)) :]


def zero_a_range(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content))
    length = draw.choice([4, 64, 1024])
    return content[:start] + bytes(min(length, len(content) - start)) + content[start + length :]


def swap_ranges(content: bytes, draw: random.Random) -> bytes:
    """Two places of one size change places, such as boxes of headers."""
    length = draw.choice([4, 8, 32, 256])
    first, second = sorted(draw.sample(range(0, len(content) - length, 4), 2))
    second = max(second, first + length)
    one, other = content[first : first + length], content[second : second + length]
    return content[:first] + other + content[first + length : second] + one + content[second + length :]


def extreme_number(content: bytes, draw: random.Random) -> bytes:
    """A number in the headers becomes as large as it can be, or negative."""
    place = draw.randrange(min(len(content), 3000)) if draw.random() < 0.5 else len(content) - draw.randrange(1, 3000)
    place = max(0, place - place % 4)
    value = draw.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x00\x00\x00"])
    return content[:place] + value + content[place + 4 :]


def repeat_a_range(content: bytes, draw: random.Random) -> bytes:
    start, length = draw.randrange(len(content)), draw.choice([16, 256, 2048])
    return content[: start + length] + content[start:]


WAYS: list[Callable[[bytes, random.Random], bytes]] = [
    flip_bits, flip_bits_at_an_end, truncate, lose_the_start, zero_a_range, swap_ranges, extreme_number, repeat_a_range,
]  # fmt: skip


def other_header(content: bytes, other: bytes, draw: random.Random) -> bytes:
    """The start of a file of another kind."""
    length = draw.choice([8, 64, 512])
    return other[:length] + content[length:]


def damaged(kinds: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Damaged clips.

    Args:
        kinds: of `write_kinds`.
        count: how many.
        seed: of what is drawn; the first clips of a longer series are those of a shorter one.

    Yields:
        A name that says what was done, and the content.
    """
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        name = draw.choice(list(kinds))
        content, ways = kinds[name], []
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            if draw.random() < 1 / (len(WAYS) + 1):
                ways.append("other_header")
                content = other_header(content, kinds[draw.choice(list(kinds))], draw)
            elif len(content) > 600:
                way = draw.choice(WAYS)
                ways.append(way.__name__)
                content = way(content, draw)
        yield f"{number:05}-{'-'.join(ways)}-{name}", content


def read(path: str) -> int:
    """Read a file as `check`, training and evaluation do.

    Args:
        path: of the file.

    Returns:
        Frames that were counted.
    """
    found = examine(path)
    count = found.info.num_frames
    assert 1 <= count <= _MOST_FRAMES, count
    assert found.info.width > 0
    assert found.info.height > 0
    transform = ClipTransform(16)
    for settings in ({"training": True, "sampling": "dense"}, {"training": True}, {"segments": 2}):
        item = VideoDataset([Clip(path, 0)], num_frames=4, transform=transform, **settings)[0]
        assert item["pixel_values"].isfinite().all()
    return count
