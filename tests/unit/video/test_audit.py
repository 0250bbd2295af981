"""Everything is read once: what there is, what cannot be read, what would spoil a result."""

import json
import shutil

import av
import numpy as np
import pytest
from clips import write_audio, write_clip, write_cut, write_damaged, write_film, write_part
from helpers import raises_exactly

from apt_peft.errors import ConfigError, DataError
from apt_peft.video import Clip, DataSplits, audit, keep_readable, read_data
from apt_peft.video.examine import examine


@pytest.fixture
def data(tmp_path):
    """Two classes of two clips to train on and one to test."""
    for seed, name in enumerate(["jump_0", "jump_1", "wave_0", "wave_1"]):
        write_film(tmp_path / "train" / name[:4] / f"{name}.mp4", seed, num_frames=8, width=64, height=48)
    write_film(tmp_path / "test" / "jump" / "t.mp4", 99, num_frames=20, width=96, height=48)
    return tmp_path


def test_a_good_data_set(data):
    steps = []
    report = audit(read_data(data), num_frames=16, progress=steps.append)
    assert not report.fatal
    assert steps == [1] * 5
    assert report.counts() == {"train": {"jump": 2, "wave": 2}, "test": {"jump": 1, "wave": 0}}
    assert str(report) == (
        "5 videos, 2 classes\n"
        "\n"
        "class  train  test\n"
        f"jump       2     1  {'#' * 30}\n"
        f"wave       2     -  {'#' * 30}\n"
        "total      4     1\n"
        "\n"
        "frames   8 to 20, median 8\n"
        "seconds  0.8 to 2.0, median 0.8\n"
        "sizes    64x48 (4), 96x48 (1)\n"
        "rates    10 fps (5)\n"
        "codecs   h264 (5)\n"
        "short    4 have fewer than 16 frames, so their clips repeat some\n"
        "\n"
        "Training can start."
    )
    assert json.loads(json.dumps(report.to_dict()))["fatal"] is False


def test_unreadable_files_make_training_fail(data):
    write_audio(data / "train" / "jump" / "sound.mp4")
    (data / "train" / "wave" / "text.mp4").write_text("no video")
    (data / "train" / "wave" / "notes.txt").write_text("")
    report = audit(read_data(data))
    assert report.fatal
    assert [file.name for file in report.unreadable] == [
        str(data / "train" / "jump" / "sound.mp4"),
        str(data / "train" / "wave" / "text.mp4"),
    ]
    assert str(report).endswith(
        f"\nFiles that are no videos by their names, ignored (1):\n  {data}/train/wave/notes.txt\n"
        "\nUnreadable (2):\n"
        f"  {data}/train/jump/sound.mp4: there is no video stream in it\n"
        f"  {data}/train/wave/text.mp4: opening it failed: invalid data found when processing input\n"
        "\nTraining would fail (1):\n"
        "  2 of 7 videos cannot be read. Repair or remove them, or leave them out with --on-error skip."
    )
    assert not audit(read_data(data), on_error="skip").fatal


def test_too_little_to_train_on(data):
    one = DataSplits(train=[Clip(data / "train/jump/jump_0.mp4", 0)] * 2, labels=["jump", "wave"])
    report = audit(one)
    assert report.problems == ["The training videos are all of one class: there is nothing to tell apart."]
    assert report.warnings == ["Classes without a training video: wave."]
    (data / "empty.mp4").touch()
    none = DataSplits(train=[Clip(data / "empty.mp4", 0)], test=one.train, labels=["jump"])
    assert audit(none, on_error="skip").problems == ["There is no readable training video."]


def test_the_same_video_in_several_places(data):
    first = data / "train" / "jump" / "jump_0.mp4"
    shutil.copy(first, data / "test" / "jump" / "copy.mp4")
    # The same packets in another container are the same video.
    write_cut(data / "train" / "wave" / "other.mkv", first, keyframe=0)
    shutil.copy(data / "train" / "wave" / "wave_0.mp4", data / "train" / "wave" / "again.mp4")
    report = audit(read_data(data))
    assert not report.fatal
    assert len(report.duplicates) == 2
    assert [len(group) for group in report.duplicates_across_splits] == [3]
    text = str(report)
    assert (
        "The same video in several splits (1):\n"
        f"  {first} (train) = {data}/train/wave/other.mkv (train) = {data}/test/jump/copy.mp4 (test)\n" in text
    )
    assert (
        f"The same video twice in a split (1):\n  {data}/train/wave/again.mp4 (train) = {data}/train/wave/wave_0.mp4 (train)\n"
        in text
    )
    assert report.warnings == [
        "Videos that stand under two classes (see the duplicates): 1.",
        "Videos that lie in several splits, which flatters the score: 1.",
    ]


def test_uneven_classes(plain, longer):
    splits = DataSplits(train=[Clip(plain, 0)] * 11 + [Clip(longer, 1)], labels=["a", "b"])
    assert "Classes are uneven: from 1 to 11 training videos." in audit(splits).warnings


def suspicions(file, **settings):
    return examine(file, **settings).suspicions


def test_suspicious_files(tmp_path, plain):
    assert suspicions(plain) == []
    big = {"num_frames": 60, "gop": 12, "width": 160, "height": 120, "options": {"crf": "18"}}
    whole = write_clip(tmp_path / "whole.mp4", **big, container_options={"movflags": "faststart"})
    part = write_part(tmp_path / "part.mp4", whole, 0.6)
    assert suspicions(part) == [f"its header promises 60 frames, but {examine(part).info.num_frames} can be read"]
    fragments = write_clip(
        tmp_path / "fragments.mp4", **big, container_options={"movflags": "frag_keyframe+empty_moov"}
    )
    (broken,) = suspicions(write_part(tmp_path / "broken.mp4", fragments, 0.55))
    assert broken == "it breaks off in the middle of a frame"
    (damage,) = suspicions(write_damaged(tmp_path / "damaged.mp4", whole, 0.5))
    assert damage.endswith("of its frames are damaged")
    assert suspicions(write_damaged(tmp_path / "damaged.mp4", whole, 0.5), decode=False) == []
    assert suspicions(write_clip(tmp_path / "one.mp4", num_frames=1)) == ["it has a single frame"]
    times = "its frames have no times of their own, so every read decodes it from the start"
    assert suspicions(write_clip(tmp_path / "raw.h264")) == [times]


@pytest.mark.parametrize(
    ("frame", "suspicion"),
    [(np.zeros((48, 64, 3), np.uint8), "its pictures are black"), (None, "nothing moves in it")],
)
def test_nothing_to_see(tmp_path, frame, suspicion):
    if frame is None:
        frame = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    file = tmp_path / "still.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.codec_context.thread_count = 64, 48, 1
        for _ in range(8):
            shown = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p", threads=1)
            container.mux(stream.encode(shown))
        container.mux(stream.encode())
    assert suspicions(file) == [suspicion]
    report = audit(DataSplits(train=[Clip(file, 0)], labels=["a", "b"]))
    assert f"Suspicious (1):\n  {file}: {suspicion}\n" in str(report)


def test_rotated_and_variable_videos_are_counted(tmp_path):
    files = [
        write_clip(tmp_path / "turned.mp4", rotation=90),
        write_clip(tmp_path / "uneven.mp4", times=[n * n * 10 for n in range(12)]),
    ]
    text = str(audit(DataSplits(train=[Clip(file, n) for n, file in enumerate(files)], labels=["a", "b"])))
    assert "\nsizes    48x64 (1), 64x48 (1)\n" in text
    assert "\nrates    10 fps (1), variable (1)\n" in text
    assert "\nrotated  1 are turned upright when they are read\n" in text


def test_settings_of_the_audit():
    with raises_exactly(ConfigError, "on_error ('ignore') must be one of 'raise', 'skip'."):
        audit(DataSplits(), on_error="ignore")
    with raises_exactly(ConfigError, "num_frames (0) must be whole numbers from 1 up."):
        audit(DataSplits(), num_frames=0)


def test_an_empty_data_set_is_no_crash():
    report = audit(DataSplits(labels=["a"]))
    assert str(report) == (
        "0 videos, 1 classes\n\nclass\ntotal\n\nTraining would fail (1):\n  There is no readable training video."
    )


def unreadable_lines(folder):
    return (
        f"  {folder}/a.mp4: opening it failed: no such file or directory\n"
        f"  {folder}/b.mp4: opening it failed: no such file or directory"
    )


def test_all_unreadable_files_are_listed(tmp_path, plain):
    clips = [Clip(tmp_path / "a.mp4", 0), Clip(plain, 0), Clip(tmp_path / "b.mp4", 0)]
    message = (
        "videos (2 of 3) must be readable, but these are not. Repair or remove them, or leave them out with "
        f"on_error='skip'.\n{unreadable_lines(tmp_path)}"
    )
    with raises_exactly(DataError, message):
        keep_readable(clips)
    kept, errors = keep_readable(clips, on_error="skip")
    assert kept == [clips[1]]
    assert [error.name for error in errors] == [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]


def test_nothing_readable(tmp_path):
    clips = [Clip(tmp_path / "a.mp4", 0), Clip(tmp_path / "b.mp4", 0)]
    message = f"videos (2 of 2) must be readable, but these are not. Repair them.\n{unreadable_lines(tmp_path)}"
    with raises_exactly(DataError, message):
        keep_readable(clips, on_error="skip")


def test_all_readable(plain):
    steps = []
    clips = [Clip(plain, 0)] * 3
    assert keep_readable(clips, progress=steps.append, workers=2) == (clips, [])
    assert steps == [1, 1, 1]
    assert keep_readable([]) == ([], [])


def test_unknown_on_error():
    with raises_exactly(ConfigError, "on_error ('warn') must be one of 'raise', 'skip'."):
        keep_readable([], on_error="warn")
