"""The times of a file's packets looked at: what makes players and decoders disagree about which frame is where."""

import statistics
from collections.abc import Sequence
from itertools import pairwise

# Frames per second outside of which a rate is no camera's.
_RATES = (1.0, 480.0)


def timestamp_findings(
    shown: Sequence[int | None],
    decoded: Sequence[int | None],
    *,
    time_base: float,
    header_fps: float | None = None,
    header_seconds: float | None = None,
) -> list[str]:
    """What is wrong with the times of a video's packets.

    Args:
        shown: when each packet's frame is shown (pts), in ticks, in the file's order; None where the file does not tell.
        decoded: when each packet is decoded (dts), likewise.
        time_base: seconds of a tick.
        header_fps: frames per second that the header promises; None where it does not tell.
        header_seconds: length of the video stream that the header promises; None where it does not tell.

    Returns:
        Findings, each as the end of a sentence.
    """
    times = sorted(time for time in shown if time is not None)
    findings = []
    if times and len(times) < len(shown):
        findings.append(f"{len(shown) - len(times)} of its {len(shown)} frames have no time")
    if doubled := len(times) - len(set(times)):
        findings.append(f"{doubled} of its frames have the time of another")
    known = [time for time in decoded if time is not None]
    if backwards := sum(after < before for before, after in pairwise(known)):
        findings.append(f"its times go backwards {backwards} times")
    times = sorted(set(times))
    if len(times) < 2 or not time_base:
        return findings
    steps = [(after - before) * time_base for before, after in pairwise(times)]
    usual, longest = statistics.median(steps), max(steps)
    span = (times[-1] - times[0]) * time_base
    fps = (len(times) - 1) / span
    if longest > max(2.0, 10 * usual):
        at = (times[steps.index(longest)] - times[0]) * time_base
        findings.append(f"its picture stands for {longest:.1f} s at {at:.1f} s, since no frame has a time in between")
    elif not _RATES[0] <= fps <= _RATES[1]:
        findings.append(f"its times make {fps:.4g} frames a second")
    elif header_fps and longest < 2 * usual and not 1 / 3 <= header_fps * usual <= 3:
        findings.append(f"its header says {header_fps:.4g} frames a second, its times {1 / usual:.4g}")
    # How long the last frame stays, only the header says.
    seconds, leeway = span + usual, max(1.0, 0.1 * span, longest)
    if header_seconds and abs(header_seconds - seconds) > leeway:
        findings.append(f"its header promises {header_seconds:.1f} s of video, its frames last {seconds:.1f} s")
    return findings
