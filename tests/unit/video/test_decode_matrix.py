"""Every codec with every trait that its encoder can make: random frames are those of a full decode."""

import random

import numpy as np
import pytest
from clips import decode_all, write_clip, write_trimmed

from apt_peft.video import VideoReader, read_frames

COUNT, GOP = 26, 9
TIMES = [sum([40, 20, 700, 100][i % 4] for i in range(frame)) for frame in range(COUNT)]
VP9 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "6", "auto-alt-ref": "1", "g": str(GOP)}
AV1 = {"preset": "12", "svtav1-params": f"lp=1:keyint={GOP}:lookahead=8", "g": str(GOP)}
# Codec -> containers, encoder, and what is set for B-frames and their like.
CODECS = {
    "h264": (("mp4", "mkv", "ts", "flv", "mov"), {"codec": "libx264"}),
    "hevc": (("mp4", "mkv", "ts"), {"codec": "libx265"}),
    "vp8": (("webm",), {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "8", "b": "200k"}}),
    "vp9": (("webm", "mp4"), {"codec": "libvpx-vp9", "options": VP9}),
    "av1": (("mp4", "webm"), {"codec": "libsvtav1", "options": AV1}),
    "mpeg4": (("avi", "mp4"), {"codec": "mpeg4"}),
    "mpeg2": (("mpg", "ts"), {"codec": "mpeg2video", "fps": 25}),
    "mjpeg": (("avi", "mov"), {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "prores": (("mov",), {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}),
    "wmv": (("wmv",), {"codec": "wmv2"}),
}
B_FRAMES = {
    "h264": {"b_frames": 3},
    "hevc": {"b_frames": 3},
    "mpeg4": {"options": {"bf": "2"}},
    "mpeg2": {"options": {"bf": "2"}},
}
TEN_BIT = ("h264", "hevc", "av1")  # the usual libvpx encodes 8 bits only
ODD = {
    "h264": "yuv444p",
    "hevc": "yuv444p",
    "vp8": "yuv420p",
    "vp9": "yuv420p",
    "av1": "yuv420p",
    "mpeg4": "yuv420p",
    "mjpeg": "yuvj420p",
}
ROTATES = ("mp4", "mov")


def cells():
    for codec, (suffixes, encoder) in CODECS.items():
        made = {"num_frames": COUNT, "gop": GOP, "b_frames": 0, "width": 80, "height": 64} | encoder
        for suffix in suffixes:
            traits = {"plain": {}, "one": {"num_frames": 1}}
            if codec in B_FRAMES:
                traits["b_frames"] = B_FRAMES[codec]
            if codec in ("h264", "hevc"):
                traits["open_gop"] = B_FRAMES[codec] | {"open_gop": True}
            if suffix not in ("avi", "mpg", "ts", "flv", "wmv"):
                traits["vfr"] = B_FRAMES.get(codec, {}) | {"times": TIMES}
            if codec in TEN_BIT:
                traits["ten_bit"] = {"pix_fmt": "yuv420p10le"}
            if codec in ODD:
                traits["odd"] = {"width": 79, "height": 63, "pix_fmt": ODD[codec]}
            if suffix in ROTATES:
                traits["rotated"] = {"rotation": 90}
                if codec != "av1":  # PyAV cannot copy a stream whose decoder has no encoder of the same name
                    traits["trimmed"] = B_FRAMES.get(codec, {}) | {"trim": 5}
            if codec in ("h264", "mpeg2"):
                traits["interlaced"] = {"options": {"flags": "+ildct+ilme", "bf": "2"}}
            traits["sound"] = {"audio": True}
            for trait, settings in traits.items():
                options = encoder.get("options", {}) | settings.get("options", {})
                yield pytest.param(suffix, made | settings | {"options": options}, id=f"{codec}-{suffix}-{trait}")


@pytest.mark.parametrize(("suffix", "settings"), list(cells()))
def test_random_frames_are_the_full_decodes(request, tmp_path, suffix, settings):
    trim = settings.pop("trim", 0)
    file = write_clip(tmp_path / f"clip.{suffix}", **settings)
    if trim:
        file = write_trimmed(tmp_path / f"trimmed.{suffix}", file, trim)
    assert_exact(file, settings["num_frames"] - trim, settings.get("rotation", 0), request.node.name)


def assert_exact(file, count, rotation=0, seed=0, sets=6):
    whole = [np.rot90(frame, rotation // 90) for frame in decode_all(file)]
    assert len(whole) == count
    draw = random.Random(seed)
    with VideoReader(file) as video:
        assert video.num_frames == count
        for _ in range(sets):
            indices = draw.choices(range(count), k=draw.choice([1, 3, 8]))
            assert np.array_equal(video.read(indices).numpy(), [whole[index] for index in indices]), indices
    assert np.array_equal(read_frames(file, range(count)).numpy(), whole)
