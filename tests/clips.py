"""Tiny video files for tests, written with PyAV: plain ones and every kind of odd one."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TICKS = 1000  # per second, fine enough for any frame rate
SOUND = {".webm": ("libopus", 48000), ".mpg": ("mp2", 44100)}  # codec and rate where AAC has no place


def picture(index: int, width: int = 64, height: int = 48, seed: int = 0) -> np.ndarray:
    """Frame `index` of a made-up clip: its grey level tells the index, a red corner tells what is up and left.

    Args:
        index: of the frame.
        width: in pixels.
        height: in pixels.
        seed: other clips have other colours on the right.

    Returns:
        uint8 (height, width, 3).
    """
    frame = np.full((height, width, 3), 20 + 7 * index % 210, dtype=np.uint8)
    frame[:, width // 2 :, 2] = 37 * seed % 256
    frame[: height // 3, : width // 3] = (230, 20, 20)
    left = (3 * index) % max(width - 8, 1)
    frame[-10:-2, left : left + 8] = (250, 250, 250)
    return frame


def write_clip(
    path: str | Path,
    *,
    num_frames: int = 12,
    width: int = 64,
    height: int = 48,
    fps: int = 10,
    codec: str = "libx264",
    gop: int = 6,
    b_frames: int = 2,
    open_gop: bool = False,
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    rotation: int = 0,
    hflip: bool = False,
    audio: bool = False,
    seed: int = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a small video; the suffix decides on the container.

    Args:
        path: of the new file; its folder is made.
        num_frames: how many.
        width: of stored frames, in pixels.
        height: of stored frames, in pixels.
        fps: frames per second.
        codec: FFmpeg's name of the encoder.
        gop: frames from one keyframe to the next.
        b_frames: in a row at most, where the codec has them.
        open_gop: B-frames may refer across a keyframe.
        pix_fmt: of stored frames.
        times: when each frame is shown, in ms (a variable frame rate).
        rotation: display rotation, in degrees counter-clockwise.
        hflip: mirror when displayed.
        audio: add a silent sound track.
        seed: of the picture.
        options: of the encoder.
        container_options: of the file format.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder: dict[str, str] = {}
    if codec == "libx264":
        encoder = {"bf": str(b_frames), "keyint_min": str(gop), "sc_threshold": "0", "b_strategy": "0"}
        encoder["x264-params"] = f"open-gop={int(open_gop)}:log-level=none:threads=1"
    elif codec == "libx265":
        encoder = {
            "x265-params": f"bframes={b_frames}:keyint={gop}:min-keyint={gop}:open-gop={int(open_gop)}:scenecut=0:"
            "b-adapt=0:log-level=none:pools=none:frame-threads=1"
        }
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=encoder | (options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, TICKS)
        if rotation or hflip:
            stream.set_display_rotation(rotation, hflip=hflip)
        sound = container.add_stream(*SOUND.get(path.suffix, ("aac", 8000))) if audio else None
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(index, width, height, seed), format="rgb24")
            # One thread here and in the encoder: left-over threads would hang a test that forks workers.
            frame = frame.reformat(format=pix_fmt, threads=1)
            frame.pts = index if times is None else times[index]
            frame.time_base = Fraction(1, fps) if times is None else Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            _write_silence(container, sound)
    return path


def write_film(
    path: str | Path,
    seed: int,
    *,
    num_frames: int = 24,
    skip: int = 0,
    width: int = 96,
    height: int = 72,
    gain: float = 1.0,
    lift: float = 0.0,
    codec: str = "libx264",
    turned: bool = False,
) -> Path:
    """Write blobs that drift, which show the same for a seed in any size, and something else for another.

    Args:
        path: of the new file; its folder is made.
        seed: of the blobs.
        num_frames: up to which are written.
        skip: frames at the start that are not.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        gain: contrast.
        lift: brightness, in levels.
        codec: FFmpeg's name of the encoder.
        turned: stored on its side, with a display rotation.

    Returns:
        The path.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    colours, places, steps = (
        draw.uniform(40, 200, (6, 3)),
        draw.uniform(0, 1, (6, 2)),
        draw.uniform(-0.02, 0.02, (6, 2)),
    )
    rows, columns = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width)[None] + 0.5) / width
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = (height, width) if turned else (width, height)
        stream.bit_rate = 2_000_000
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        if turned:
            stream.set_display_rotation(90)
        for index in range(skip, num_frames):
            picture = np.full((height, width, 3), 90.0)
            for colour, place, step in zip(colours, places, steps, strict=True):
                y, x = place + index * step
                picture += np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 0.02)[..., None] * (colour - 90)
            picture = np.clip(picture * gain + lift, 0, 255).astype("uint8")
            if turned:
                picture = np.ascontiguousarray(np.rot90(picture, -1))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p", threads=1)
            frame.pts = index - skip
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return Path(path)


def write_audio(path: str | Path) -> Path:
    """Write a file with a sound track and no video.

    Args:
        path: of the new file; its folder is made.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        _write_silence(container, container.add_stream("aac", rate=8000))
    return path


def write_part(path: str | Path, whole: str | Path, part: float) -> Path:
    """Write the first part of a file's bytes, as an interrupted copy leaves it.

    Args:
        path: of the new file.
        whole: the file to take from.
        part: of the bytes, from 0 to 1.

    Returns:
        The path.
    """
    content = Path(whole).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * part)])
    return Path(path)


def write_damaged(path: str | Path, whole: str | Path, part: float = 0.5, length: int = 64) -> Path:
    """Write a file with some bytes of another one overwritten.

    Args:
        path: of the new file.
        whole: the file to take from.
        part: where the damage begins, from 0 to 1.
        length: damaged bytes.

    Returns:
        The path.
    """
    content = bytearray(Path(whole).read_bytes())
    start = int(len(content) * part)
    content[start : start + length] = b"\xff" * min(length, len(content) - start)
    Path(path).write_bytes(content)
    return Path(path)


def write_cut(path: str | Path, whole: str | Path, keyframe: int) -> Path:
    """Write a video from one of its keyframes on without encoding it anew, as cutting tools do.

    Args:
        path: of the new file.
        whole: the file to take from.
        keyframe: counted from 0.

    Returns:
        The path.
    """
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        seen = -1
        for packet in source.demux(video=0):
            seen += packet.is_keyframe and packet.size > 0
            if packet.size and seen >= keyframe:
                packet.stream = stream
                target.mux(packet)
    return Path(path)


def write_trimmed(path: str | Path, whole: str | Path, frames: int) -> Path:
    """Write an mp4 whose first frames are there and not shown (an edit list), as phones trim.

    Args:
        path: of the new file.
        whole: the file to take from, at a steady frame rate.
        frames: that are not shown.

    Returns:
        The path.
    """
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(str(whole)) as source, av.open(str(path), "w", options=options) as target:
        template = source.streams.video[0]
        stream = target.add_stream_from_template(template)
        shift = round(frames / (template.average_rate * template.time_base))
        for packet in source.demux(template):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    return Path(path)


def decode_all(path: str | Path) -> list[np.ndarray]:
    """Decode every frame of a video as it is stored, by the plainest road: the reference for reading a few.

    Args:
        path: of the video.

    Returns:
        uint8 (height, width, 3) each.
    """
    with av.open(str(path)) as container:
        # Threads left over in frames and decoders would hang a worker that a test forks.
        container.streams.video[0].codec_context.thread_count = 1
        return [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]


def write_classes(root: str | Path, classes: Sequence[str], clips: int = 2, **settings) -> Path:
    """Write a folder of small clips for each class.

    Args:
        root: the data folder.
        classes: their names.
        clips: in each class.
        **settings: of `write_clip`.

    Returns:
        The data folder.
    """
    for label, name in enumerate(classes):
        for number in range(clips):
            write_clip(Path(root) / name / f"{name}_{number}.mp4", seed=10 * label + number, **settings)
    return Path(root)


def _write_silence(container, stream) -> None:
    rate = stream.codec_context.sample_rate
    for index in range(4):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 1024 * index, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
