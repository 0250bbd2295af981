"""Reading a few frames gives what a full decode gives, whatever the file is like."""

import gc
import io
import multiprocessing
import pickle
import random
import subprocess
import sys

import av
import numpy as np
import pytest
import torch
from clips import decode_all, picture, write_audio, write_clip, write_cut, write_damaged, write_part
from helpers import raises_exactly
from torch.utils.data import DataLoader

from apt_peft.errors import DataError, MissingExtraError
from apt_peft.video import (
    Clip,
    ClipTransform,
    DataSplits,
    UnreadableVideoError,
    VideoDataset,
    VideoReader,
    audit,
    decode,
    probe,
    read_frames,
)

B_FRAMES = {"num_frames": 48, "gop": 12, "b_frames": 3}
OPEN_GOP = B_FRAMES | {"open_gop": True}
TIMES = [sum([40, 20, 700, 100][i % 4] for i in range(frame)) for frame in range(30)]
FILES = {
    "plain.mp4": {},
    "b_frames.mp4": B_FRAMES,
    "open_gop.mp4": OPEN_GOP,
    "open_gop.mkv": OPEN_GOP,
    "open_gop.ts": OPEN_GOP,
    "open_gop_hevc.mp4": OPEN_GOP | {"codec": "libx265"},
    "b_frames_hevc.mkv": B_FRAMES | {"codec": "libx265"},
    "intra_refresh.mp4": {"num_frames": 48, "gop": 15, "b_frames": 0, "options": {"intra-refresh": "1"}},
    "vfr.mp4": {"num_frames": 30, "times": TIMES},
    "vfr.mkv": {"num_frames": 30, "times": TIMES},
    "odd.mp4": {"width": 63, "height": 47, "pix_fmt": "yuv444p"},
    "fragments.mp4": {"num_frames": 30, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "sound.mp4": {"audio": True},
    "flash.flv": {"num_frames": 30},
    "guessed_times.avi": {"num_frames": 30},
    "mpeg4.avi": {"num_frames": 30, "codec": "mpeg4", "options": {"bf": "2"}},
    "motion_jpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg2.mpg": {"num_frames": 30, "fps": 25, "codec": "mpeg2video", "options": {"bf": "2"}},
    "hidden_frames.webm": {
        "num_frames": 40,
        "codec": "libvpx",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"},
    },
    "vp9.webm": {"num_frames": 30, "codec": "libvpx-vp9"},
    "no_times.h264": {"num_frames": 30},
    "picture.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "one.mp4": {"num_frames": 1},
}


@pytest.fixture(scope="module", params=FILES)
def file(request, made):
    return write_clip(made / "kinds" / request.param, **FILES[request.param])


def test_every_frame_is_the_full_decodes(file):
    whole = decode_all(file)
    assert len(whole) == FILES[file.name].get("num_frames", 12)
    assert probe(file).num_frames == len(whole)
    draw = random.Random(0)
    wanted = [[index] for index in range(len(whole))] + [sorted(draw.choices(range(len(whole)), k=4)) for _ in range(5)]
    for indices in [*wanted, list(range(len(whole)))]:
        assert np.array_equal(read_frames(file, indices).numpy(), [whole[index] for index in indices])


def test_frames_come_in_the_wanted_order_with_repeats(plain):
    whole = decode_all(plain)
    frames = read_frames(plain, [7, 2, 7, 11])
    assert frames.dtype == torch.uint8
    assert frames.shape == (4, 48, 64, 3)
    assert np.array_equal(frames.numpy(), [whole[7], whole[2], whole[7], whole[11]])


def test_seeks_instead_of_decoding_everything(longer):
    with VideoReader(longer) as video:
        assert not video.counts_frames
        decoded = 0
        decode = video._video.frames

        def count(*args, **settings):
            nonlocal decoded
            for frame in decode(*args, **settings):
                decoded += 1
                yield frame

        video._video.frames = count
        video.read([50])
    assert decoded < 12  # frames 48 to 50 and what a decoder gives out before them


@pytest.mark.parametrize("name", ["open_gop.mp4", "open_gop.mkv", "open_gop.ts", "open_gop_hevc.mp4"])
def test_a_video_cut_at_an_open_keyframe(made, name):
    whole = write_clip(made / "cuts" / name, **FILES[name])
    cut = write_cut(made / "cuts" / f"cut_{name}", whole, keyframe=1)
    frames = decode_all(cut)
    assert probe(cut).num_frames == len(frames) == 36
    assert np.array_equal(read_frames(cut, range(36)).numpy(), frames)
    for index in (0, 1, 5, 35):
        assert np.array_equal(read_frames(cut, [index]).numpy()[0], frames[index])


@pytest.mark.parametrize(
    ("rotation", "hflip"), [(r, h) for r in (0, 90, 180, 270) for h in (False, True)], ids=lambda value: str(value)
)
def test_frames_stand_upright(made, rotation, hflip):
    file = write_clip(made / f"turned_{rotation}_{hflip}.mp4", rotation=rotation, hflip=hflip)
    expected = np.rot90(decode_all(file)[3], rotation // 90)
    expected = expected[:, ::-1] if hflip else expected
    assert np.array_equal(read_frames(file, [3]).numpy()[0], expected)
    info = probe(file)
    assert (info.height, info.width) == expected.shape[:2]


def test_a_phones_portrait_clip_has_its_top_up(made):
    # A phone held upright stores the picture lying on its side and asks for 90 degrees clockwise.
    file = write_clip(made / "portrait.mp4", rotation=-90)
    upright = read_frames(file, [0]).numpy()[0].astype(int)
    red = (upright[..., 0] > 150) & (upright[..., 1] < 90)
    assert upright.shape == (64, 48, 3)
    assert red[:20, -14:].mean() > 0.9  # stored in the upper left corner
    assert red.mean() < 0.2


def test_colours_are_right(plain):
    assert np.abs(read_frames(plain, [4]).numpy()[0].astype(int) - picture(4)).mean() < 6


def test_describes_a_video(plain, made):
    info = probe(plain)
    assert (info.num_frames, info.width, info.height, info.codec, info.rotation) == (12, 64, 48, "h264", 0)
    assert (info.fps, info.duration_seconds, info.header_frames) == (10, 1.2, 12)
    assert not info.variable_frame_rate
    changing = probe(write_clip(made / "changing.mkv", num_frames=30, times=TIMES))
    assert changing.variable_frame_rate
    assert changing.header_frames is None
    assert changing.duration_seconds == pytest.approx(TIMES[-1] / 1000 * 30 / 29, abs=0.01)


class Held:
    """A video held by something else."""

    name = "row 3"

    def __init__(self, content):
        self.content = content

    def read_bytes(self):
        return self.content


def test_bytes_held_videos_and_text_paths(plain):
    expected = read_frames(plain, [0, 5, 11])
    for source in (str(plain), plain.read_bytes(), Held(plain.read_bytes())):
        assert torch.equal(read_frames(source, [0, 5, 11]), expected)


def test_a_colon_in_a_relative_name_is_no_protocol(plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "take:1.mp4").write_bytes(plain.read_bytes())
    assert probe("take:1.mp4").num_frames == 12


def test_more_threads_give_the_same_frames(longer):
    # In a process of its own: threads of the decoder would not live on in a worker that a later test forks.
    script = (
        "import sys, torch\nfrom apt_peft.video import decode, read_frames\ndecode.FEW_PIXELS = 0\n"
        "file, indices = sys.argv[1], [0, 7, 31, 59]\n"
        "print(all(torch.equal(read_frames(file, indices), read_frames(file, indices, num_threads=n)) for n in (0, 3)))"
    )
    out = subprocess.run([sys.executable, "-c", script, longer], capture_output=True, text=True, check=True).stdout
    assert out == "True\n"


def test_tiny_videos_take_one_thread(longer, monkeypatch):
    pixels = 60 * 64 * 48
    for limit, threads in [(pixels, 1), (pixels - 1, 2)]:
        monkeypatch.setattr(decode, "FEW_PIXELS", limit)
        with VideoReader(longer, num_threads=2) as video:
            assert video._video.stream.codec_context.thread_count == threads
            if threads == 1:  # a thread would not live on in a worker that a later test forks
                assert torch.equal(video.read([7, 59]), read_frames(longer, [7, 59]))


def test_indices_may_depend_on_the_number_of_frames(plain):
    assert torch.equal(read_frames(plain, lambda count: [count - 1]), read_frames(plain, [11]))


def test_an_interrupted_copy_gives_the_frames_it_has(made, tmp_path):
    whole = write_clip(made / "first_index.mp4", num_frames=60, container_options={"movflags": "faststart"})
    part = write_part(tmp_path / "part.mp4", whole, 0.7)
    info = probe(part)
    assert info.header_frames == 60
    assert 10 < info.num_frames < 60
    frames = decode_all(whole)
    got = read_frames(part, range(info.num_frames)).numpy()
    # The last whole packets may be B-frames' anchors: what comes is from the whole video, in its order.
    places = [next(i for i, frame in enumerate(frames) if np.array_equal(frame, one)) for one in got]
    assert places == sorted(set(places))


def test_frames_that_never_come_are_not_counted(made, tmp_path):
    whole = write_clip(made / "big.mp4", num_frames=60, gop=12, width=160, height=120, options={"crf": "18"})
    damaged = write_damaged(tmp_path / "damaged.mp4", whole, 0.8)
    with VideoReader(damaged) as video:
        assert video.num_frames == 60  # by its packets
        frames = video.read(lambda count: range(count))
        assert video.counts_frames
        assert len(frames) == video.num_frames < 60


def test_a_change_of_size_keeps_the_first_size(made, tmp_path):
    first, second = (write_clip(made / f"{size}.h264", width=size) for size in (64, 96))
    both = tmp_path / "both.h264"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    assert read_frames(both, [0, 23]).shape == (2, 48, 64, 3)


def _fails(kind, message, work):
    with raises_exactly(kind, message):
        work()


def unreadable(name, reason):
    return f"video ({name}) must be a readable video file, but {reason}."


def test_unreadable_files(tmp_path, plain):
    text = tmp_path / "text.mp4"
    text.write_text("this is no video")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    invalid = "opening it failed: invalid data found when processing input"
    cut = write_part(tmp_path / "cut.mp4", plain, 0.5)
    for file, reason in [
        (tmp_path / "absent.mp4", "opening it failed: no such file or directory"),
        (tmp_path, "opening it failed: is a directory"),
        (text, invalid),
        (empty, invalid),
        (cut, invalid),
    ]:
        _fails(UnreadableVideoError, unreadable(file, reason), lambda file=file: probe(file))
    _fails(UnreadableVideoError, unreadable("3 bytes", invalid), lambda: probe(b"abc"))
    _fails(UnreadableVideoError, unreadable("row 3", invalid), lambda: probe(Held(b"abc")))


def test_no_video_in_the_file(tmp_path):
    sound = write_audio(tmp_path / "sound.m4a")
    _fails(UnreadableVideoError, unreadable(sound, "there is no video stream in it"), lambda: probe(sound))


def test_a_cover_picture_is_no_video(tmp_path):
    file = tmp_path / "song.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        stream.codec_context.thread_count = 1
        frame = av.VideoFrame.from_ndarray(picture(0), format="rgb24").reformat(format="yuvj420p", threads=1)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    _fails(UnreadableVideoError, unreadable(file, "there is no video stream in it"), lambda: probe(file))


def test_no_frame_can_be_decoded(tmp_path, plain):
    content = bytearray(plain.read_bytes())
    start = content.index(b"mdat") + 4
    end = content.index(b"moov") - 4
    content[start:end] = bytes(end - start)
    file = tmp_path / "zeros.mp4"
    file.write_bytes(content)
    _fails(UnreadableVideoError, unreadable(file, "no frame of it can be decoded"), lambda: read_frames(file, [0]))


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    file = write_clip(tmp_path / "shrinks.h264", num_frames=12)
    shorter = write_clip(tmp_path / "shorter.h264", num_frames=6)
    with VideoReader(file) as video:
        file.write_bytes(shorter.read_bytes())
        reason = "it has fewer frames than when it was opened (12)"
        _fails(UnreadableVideoError, unreadable(file, reason), lambda: video.read([11]))


def test_indices_outside(plain):
    message = f"indices ([12, -1]) must be from 0 to 11, at least one, but {plain} has 12 frames."
    _fails(DataError, message, lambda: read_frames(plain, [0, 12, -1]))
    message = f"indices ([]) must be from 0 to 11, at least one, but {plain} has 12 frames."
    _fails(DataError, message, lambda: read_frames(plain, []))


def test_a_playlist_reaches_no_other_address(tmp_path):
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(UnreadableVideoError, match="opening it failed"):
        probe(playlist)


def test_the_error_survives_pickling_and_a_worker(tmp_path):
    error = pickle.loads(pickle.dumps(UnreadableVideoError("a.mp4", "it is gone")))
    assert str(error) == "video (a.mp4) must be a readable video file, but it is gone."
    data = VideoDataset([Clip(tmp_path / "absent.mp4", 0)], num_frames=2, transform=ClipTransform(16))
    loader = DataLoader(data, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(UnreadableVideoError, match=r"absent\.mp4\) must be a readable video file"):
        next(iter(loader))


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    message = "av must be installed for this, but it is not. Run: pip install 'apt-peft[video]'"
    _fails(MissingExtraError, message, lambda: probe(b""))


def test_importing_loads_no_optional_package():
    names = "('av', 'torchvision', 'datasets', 'matplotlib')"
    script = (
        f"import sys, transformers, peft\nbefore = [name for name in {names} if name in sys.modules]\n"
        f"import apt_peft.video\nprint([name for name in {names} if name in sys.modules and name not in before])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"


def test_a_worker_forked_after_reading_does_not_hang(longer):
    # Frames lie in reference cycles; a worker's garbage collection frees those it inherits, and their threads are not there.
    gc.collect()
    gc.disable()
    try:
        read_frames(longer, [0, 30])
        audit(DataSplits(train=[Clip(longer, 0)], labels=["a"]))
        child = multiprocessing.get_context("fork").Process(target=gc.collect)
        child.start()
        child.join(60)
        hangs = child.is_alive()
        child.kill()
    finally:
        gc.enable()
    assert not hangs


def test_reading_from_memory_equals_reading_the_file(longer):
    assert torch.equal(read_frames(io.BytesIO(longer.read_bytes()).getvalue(), [3, 33]), read_frames(longer, [3, 33]))
