"""Who decodes: PyAV, or torchcodec where it is installed and wanted; the frames are the same."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

from ..errors import ConfigError, MissingExtraError, require

DECODERS = ("auto", "pyav", "torchcodec")
# Frames in full size that are in memory at once.
AT_ONCE = 16
_NOT_LOADED = "Could not load libtorchcodec"


def choose_decoder(name: str) -> str:
    """See that a decoder can be used.

    Args:
        name: of `DECODERS`.

    Returns:
        `"pyav"` or `"torchcodec"`; of `"auto"` the former, which needs nothing else and was never slower in what was measured.

    Raises:
        ConfigError: there is no such decoder, or torchcodec cannot load its libraries.
        MissingExtraError: torchcodec is not installed.
    """
    if name not in DECODERS:
        raise ConfigError(f"decoder ({name!r}) must be one of {', '.join(map(repr, DECODERS))}.")
    if name != "torchcodec":
        return "pyav"
    _torchcodec()
    return name


class TorchcodecVideo:
    """A video opened with torchcodec, whose frames' times are known.

    Args:
        source: path or content.
        stream: number of the video's stream in the file.
        times: of all frames, rising, in units of the time base.
        time_base: in seconds.
        num_threads: of the decoder; 0 is FFmpeg's choice.
    """

    def __init__(
        self, source: str | bytes, *, stream: int, times: Sequence[int], time_base: float, num_threads: int = 1
    ) -> None:
        self._times, self._time_base = times, time_base
        try:
            self._video = _torchcodec().VideoDecoder(
                source, stream_index=stream, dimension_order="NHWC", num_ffmpeg_threads=num_threads, device="cpu"
            )
        except (RuntimeError, ValueError):  # what torchcodec raises for a file that it cannot read
            self._video = None

    def visit(self, indices: Sequence[int], take: Callable[[int, torch.Tensor], object]) -> bool:
        """Decode some frames and hand each over once.

        Args:
            indices: frame numbers, rising.
            take: called with the number and the frame of each, uint8 (height, width, C), RGB, upright.

        Returns:
            False where torchcodec counts other frames, fails, or gives one of another time; others may have been handed over
            by then.
        """
        if self._video is None or len(self._video) != len(self._times):
            return False
        for start in range(0, len(indices), AT_ONCE):
            chunk = list(indices[start : start + AT_ONCE])
            try:
                found = self._video.get_frames_at(chunk)
            except (RuntimeError, ValueError, IndexError):
                return False
            if [round(seconds / self._time_base) for seconds in found.pts_seconds.tolist()] != [
                self._times[index] for index in chunk
            ]:
                return False
            for index, frame in zip(chunk, found.data, strict=True):
                take(index, frame)
        return True


@cache
def _torchcodec() -> ModuleType:
    try:
        require("torchcodec", "torchcodec")
        decoders = import_module("torchcodec.decoders")
        try:
            decoders.VideoDecoder(b"")  # newer ones load their libraries when they are first used
        except (RuntimeError, ValueError) as error:
            if _NOT_LOADED in str(error):
                raise
    except MissingExtraError:
        raise
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        raise ConfigError(
            f"decoder ('torchcodec') must be able to load its libraries, but {_what_failed(str(error))}. Install FFmpeg with "
            "shared libraries and the torchcodec made for this torch, or take decoder pyav."
        ) from None
    return decoders


def _what_failed(report: str) -> str:
    """The cause in torchcodec's report, which tells of each version of FFmpeg that it tried."""
    causes = re.findall(r"^(?:\w*Error): (?!Could not load)(.+)$", report, re.MULTILINE)
    absent = [found[1] for cause in causes if (found := re.match(r"(libavutil\S*): cannot open", cause))]
    others = [cause for cause in causes if not cause.startswith("libavutil")]
    if others:
        return "; ".join(dict.fromkeys(others))
    if absent:
        return f"there is no FFmpeg that it knows: none of {', '.join(absent)} is found"
    return report.strip().split("\n")[0] or "it does not say why"
