"""Decoding with torchcodec gives PyAV's frames; where it is not there or does not load, that is said.

Its own tests skip where it does not load: it needs FFmpeg's shared libraries, which PyAV's wheel has under names of its own.
docs/decoding.md says how they were run.
"""

import subprocess
import sys
from itertools import groupby

import pytest
import torch
from clips import write_clip, write_damaged, write_trimmed
from helpers import raises_exactly
from test_decode_matrix import CODECS, cells
from torch.utils.data import DataLoader

from apt_peft.errors import AptError, ConfigError, MissingExtraError
from apt_peft.settings import from_arguments
from apt_peft.training.settings import TrainSettings
from apt_peft.video import Clip, ClipTransform, VideoDataset, VideoReader, read_frames
from apt_peft.video.backends import _torchcodec, choose_decoder

REPORT = """Could not load libtorchcodec. Likely causes:
[start of libtorchcodec loading traceback]
FFmpeg version 8:
Traceback (most recent call last):
OSError: {eight}

The above exception was the direct cause of the following exception:

OSError: Could not load this library: /site/libtorchcodec_core8.so
FFmpeg version 7:
Traceback (most recent call last):
OSError: libavutil.so.59: cannot open shared object file: No such file or directory
[end of libtorchcodec loading traceback]."""
REMEDY = "Install FFmpeg with shared libraries and the torchcodec made for this torch, or take decoder pyav."


@pytest.fixture
def loads():
    try:
        choose_decoder("torchcodec")
    except AptError as error:
        pytest.skip(f"torchcodec does not load: {error}")


def left_to_pyav(codec, suffix, trait):
    """What torchcodec gives other frames of, or counts otherwise."""
    return (
        trait in ("ten_bit", "odd", "interlaced")
        or codec in ("mpeg2", "prores")
        or (suffix == "ts" and trait in ("b_frames", "open_gop"))
        or (codec, suffix, trait) in (("h264", "flv", "one"), ("mpeg4", "avi", "b_frames"))
    )


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.usefixtures("loads")
def test_frames_are_pyavs(tmp_path, codec):
    cells_of = {key: list(found) for key, found in groupby(cells(), lambda cell: cell.id.partition("-")[0])}
    decoders = {}
    for cell in cells_of[codec]:
        suffix, settings = cell.values
        settings, name = dict(settings), cell.id.split("-")[2]
        trim = settings.pop("trim", 0)
        file = write_clip(tmp_path / f"{name}.{suffix}", **settings)
        if trim:
            file = write_trimmed(tmp_path / f"cut_{name}.{suffix}", file, trim)
        with VideoReader(file) as ours, VideoReader(file, decoder="torchcodec") as theirs:
            last = ours.num_frames - 1
            for indices in ([last, last // 2, last // 2], range(last + 1)):
                assert torch.equal(ours.read(indices), theirs.read(indices)), (cell.id, indices)
            decoders[suffix, name] = theirs.decoder
    expected = {key: "pyav" if left_to_pyav(codec, *key) else "torchcodec" for key in decoders}
    assert decoders == expected


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.usefixtures("loads")
def test_frames_stand_upright(tmp_path, rotation, hflip):
    file = write_clip(tmp_path / "turned.mp4", rotation=rotation, hflip=hflip)
    with VideoReader(file, decoder="torchcodec") as video:
        assert torch.equal(video.read([0, 7]), read_frames(file, [0, 7]))
        assert video.decoder == ("pyav" if hflip else "torchcodec")


@pytest.mark.usefixtures("loads")
def test_damaged_files_bytes_and_playlists(longer, made, tmp_path):
    whole = write_clip(made / "large.mp4", num_frames=60, gop=12, width=160, height=120, options={"crf": "18"})
    damaged = write_damaged(tmp_path / "damaged.mp4", whole, 0.8)
    with VideoReader(damaged, decoder="torchcodec") as video:
        assert torch.equal(video.read(lambda n: range(n)), read_frames(damaged, lambda n: range(n)))
        assert video.decoder == "pyav"
    with VideoReader(longer.read_bytes(), decoder="torchcodec") as video:
        assert torch.equal(video.read([3, 33]), read_frames(longer, [3, 33]))
        assert video.decoder == "torchcodec"
    playlist = tmp_path / "list.m3u8"
    part = write_clip(tmp_path / "part.ts")
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n{part.name}\n#EXT-X-ENDLIST\n")
    with VideoReader(playlist, decoder="torchcodec") as video:
        video.read([0])
        assert video.decoder == "pyav"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.usefixtures("loads")
def test_a_data_set_is_the_same(longer, tmp_path, workers):
    common = {"num_frames": 4, "transform": ClipTransform(16, augment="flip"), "sampling": "dense", "training": True}
    sets = [
        VideoDataset([Clip(longer, 0)] * 3, **common, decoder=decoder, cache=cache)
        for decoder, cache in (("pyav", None), ("torchcodec", None), ("torchcodec", tmp_path / "frames"))
    ]
    ours, theirs, cached = (list(DataLoader(data, num_workers=workers))[-1]["pixel_values"] for data in sets)
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, cached)


def test_auto_is_pyav(longer):
    assert choose_decoder("auto") == choose_decoder("pyav") == "pyav"
    with VideoReader(longer) as video:
        assert video.decoder == "pyav"


def test_an_unknown_decoder(longer):
    message = "decoder ('decord') must be one of 'auto', 'pyav', 'torchcodec'."
    for work in (
        lambda: read_frames(longer, [0], decoder="decord"),
        lambda: VideoDataset([Clip(longer, 0)], num_frames=2, transform=ClipTransform(16), decoder="decord"),
    ):
        with raises_exactly(ConfigError, message):
            work()
    given = {"model": "m", "data": "d", "out": "o", "decoder": "pyaw"}
    with raises_exactly(ConfigError, "decoder ('pyaw') must be one of auto, pyav, torchcodec. Did you mean pyav?"):
        from_arguments(TrainSettings, given)


def test_without_torchcodec(longer, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.delitem(sys.modules, "torchcodec.decoders", raising=False)
    _torchcodec.cache_clear()
    message = "torchcodec must be installed for this, but it is not. Run: pip install 'apt-peft[torchcodec]'"
    with raises_exactly(MissingExtraError, message):
        read_frames(longer, [0], decoder="torchcodec")


@pytest.mark.parametrize(
    ("decoders", "reason"),
    [
        (
            f"raise RuntimeError('''{REPORT.format(eight='libavutil.so.60: cannot open shared object file: No such file')}''')",
            "there is no FFmpeg that it knows: none of libavutil.so.60, libavutil.so.59 is found",
        ),
        (
            "class VideoDecoder:\n    def __init__(self, source, **settings):\n        raise RuntimeError("
            f"'''{REPORT.format(eight='/site/libtorchcodec_core8.so: undefined symbol: _ZN3c1010')}''')",
            "/site/libtorchcodec_core8.so: undefined symbol: _ZN3c1010",
        ),
        ("raise ImportError('libc10.so: no such file')", "libc10.so: no such file"),
        ("raise OSError", "it does not say why"),
    ],
)
def test_a_torchcodec_that_does_not_load(tmp_path, decoders, reason):
    package = tmp_path / "torchcodec"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "decoders.py").write_text(decoders)
    script = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom apt_peft.errors import ConfigError\n"
        "from apt_peft.video import read_frames\n"
        "try:\n    read_frames('a.mp4', [0], decoder='torchcodec')\nexcept ConfigError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out == f"decoder ('torchcodec') must be able to load its libraries, but {reason}. {REMEDY}\n"
