"""Damaged clips are decoded or named; a small part of what `run.py` reads."""

import av
from clips import write_clip
from damage import damaged, write_kinds
from helpers import raises_exactly
from run import kind_of, run

from apt_peft.video import Clip, ClipTransform, UnreadableVideoError, VideoDataset, probe


def test_damaged_clips_are_decoded_or_named(tmp_path):
    told = run(tmp_path, count=60, seed=1, time_limit=60)
    assert [(name, what) for name, what in told if isinstance(what, str) and kind_of(what) != "named"] == []
    # Both happen, so the damage is neither too small to matter nor too large to be of interest.
    assert 10 <= sum(isinstance(what, int) for _, what in told) <= 50


def test_the_damage_is_that_of_its_seed(tmp_path):
    kinds = write_kinds(tmp_path)
    first = list(damaged(kinds, 5, seed=3))
    assert first == list(damaged(kinds, 8, seed=3))[:5] != list(damaged(kinds, 5, seed=4))
    assert all(content != kinds[name.rpartition("-")[2]] for name, content in first)


def test_a_title_in_another_encoding_is_no_reason_not_to_read(tmp_path):
    plain = write_clip(tmp_path / "plain.mp4")
    with av.open(str(plain)) as source, av.open(str(tmp_path / "title.mp4"), "w") as target:
        target.metadata["title"] = "ABCDEFGH"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    content = (tmp_path / "title.mp4").read_bytes()
    assert content.count(b"ABCDEFGH") == 1
    (tmp_path / "title.mp4").write_bytes(content.replace(b"ABCDEFGH", "Straße ü".encode("latin-1")))
    assert probe(tmp_path / "title.mp4") == probe(plain)


def test_a_codec_that_nobody_knows(tmp_path):
    file = tmp_path / "strange.mp4"
    file.write_bytes(write_clip(tmp_path / "plain.mp4").read_bytes().replace(b"avc1", b"zzzz"))
    message = f"video ({file}) must be a readable video file, but there is no decoder for its video."
    with raises_exactly(UnreadableVideoError, message):
        probe(file)


def test_an_avi_that_ends_within_its_first_frame(tmp_path):
    """Its one packet is no frame that is shown, so its table has a keyframe and no frames."""
    whole = write_clip(tmp_path / "whole.avi", codec="mpeg4", num_frames=18).read_bytes()
    file = tmp_path / "cut.avi"
    file.write_bytes(whole[: whole.index(b"movi") + 150])
    message = f"video ({file}) must be a readable video file, but no frame of it can be decoded."
    for look in (probe, lambda path: VideoDataset([Clip(path, 0)], num_frames=2, transform=ClipTransform(16))[0]):
        with raises_exactly(UnreadableVideoError, message):
            look(file)
