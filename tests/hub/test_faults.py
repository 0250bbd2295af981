"""A Hub that fails, is busy, silent, cut off or wrong: waited for where it passes, told where it does not, and nothing half."""

import hashlib
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers import raises_exactly
from huggingface_hub import constants, scan_cache_dir
from loading import ADAPTER, CONFIG, OURS, WEIGHTS, by_auto, refused, scores
from server import Fault, git_hash

from apt_peft import CheckpointError
from apt_peft.checkpoints.source import find_adapter
from apt_peft.cli import main


def whole_or_nothing() -> None:
    """No file of the cache is a part of one."""
    if not Path(constants.HF_HUB_CACHE).exists():
        return
    for repository in scan_cache_dir(constants.HF_HUB_CACHE).repos:
        for revision in repository.revisions:
            for file in revision.files:
                assert file.size_on_disk == file.file_path.stat().st_size > 0
    assert list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete")) == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("HEAD", ".*/resolve/.*", times=3, status=500),
        Fault("HEAD", ".*/resolve/.*", times=3, status=503),
        Fault("HEAD", ".*/resolve/.*", times=3, status=429, headers={"Retry-After": "7"}),
        Fault("HEAD", ".*/resolve/.*", times=2, stall=True),
        Fault("GET", "/objects/.*", times=2, status=429, headers={"Retry-After": "7"}),
        Fault("GET", "/objects/.*", times=3, cut=0.5),
        Fault("GET", "/objects/.*", times=1, stall=True),
        Fault("GET", f"/me/adapter/resolve/.*/{CONFIG}", times=2, cut=0.5),
    ],
    ids=lambda fault: f"{fault.method} {fault.status or ('cut' if fault.cut else 'stalled')}",
)
def test_what_passes_is_waited_for(published, logits, waits, impatient, fault):
    published.faults.append(fault)
    with impatient() if fault.stall else nullcontext():
        assert torch.equal(scores(by_auto()), logits["second"])
    assert fault.times == 0
    assert 0 < len(waits) <= 6
    assert max(waits) <= 9
    if fault.headers:
        assert 8.0 in waits  # what it asked for, and a second
    whole_or_nothing()


@pytest.mark.parametrize(
    ("fault", "file", "told"),
    [
        (Fault("HEAD", ".*", status=500), CONFIG, "answers 500. Try again later."),
        (Fault("HEAD", ".*", status=429, headers={"Retry-After": "3"}), CONFIG, "answers 429. Try again later."),
        (
            Fault("HEAD", ".*", status=429, headers={"Retry-After": "86400"}),
            CONFIG,
            "answers 429 and asks to wait 86,400 seconds. Try again then.",
        ),
        (
            Fault("HEAD", ".*", status=429, headers={"ratelimit": '"api";r=0;t=86400'}),
            CONFIG,
            "answers 429 and asks to wait 86,400 seconds. Try again then.",
        ),
        (Fault("HEAD", ".*", stall=True), CONFIG, "cannot be reached: timed out. Check the network."),
        (Fault("GET", "/objects/.*", status=500), WEIGHTS, "answers 500 (Something is wrong). Try again later."),
        (Fault("GET", "/objects/.*", stall=True), WEIGHTS, "cannot be reached: timed out. Check the network."),
        (
            Fault("GET", "/objects/.*", cut=0.5),
            WEIGHTS,
            "cannot be reached: peer closed connection without sending complete message body (received {half} bytes, "
            "expected {whole}). Check the network.",
        ),
    ],
    ids=["500", "429", "429 for a day", "rate limit for a day", "stalled", "file 500", "file stalled", "file cut"],
)
def test_what_does_not_pass_ends_soon_and_leaves_nothing_half(published, waits, logits, impatient, fault, file, told):
    fault.times = 1000
    published.faults[:] = [fault]
    half = len(published.files(ADAPTER)[WEIGHTS]) // 2
    told = told.format(half=half, whole=len(published.files(ADAPTER)[WEIGHTS]))
    limits = impatient() if fault.stall else nullcontext()
    with refused(f"the Hub ({published.address}) {told}", file=file), limits:
        by_auto()
    assert len(waits) <= 12
    assert sum(waits) < 120
    assert 1000 - fault.times <= 12
    whole_or_nothing()
    published.faults.clear()
    assert torch.equal(scores(by_auto()), logits["second"])


def test_the_command_line_says_the_same(published, waits, capsys, tmp_path):
    (tmp_path / "clip.mp4").touch()
    published.faults.append(Fault("HEAD", ".*", status=500, times=100))
    assert main(["predict", "--adapter", ADAPTER, str(tmp_path / "clip.mp4")]) == 2
    told = capsys.readouterr().err
    where = f"{CONFIG} of {ADAPTER} must be on the Hub, but the Hub ({published.address})"
    assert told == f"error: {where} answers 500. Try again later.\n"


def test_a_cut_download_goes_on_where_it_was(published, logits, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 256)
    published.faults.append(Fault("GET", "/objects/.*", cut=0.5))
    find_adapter(ADAPTER)
    ranges = [headers.get("range") for _, _, headers in published.requests("GET", "/objects/")]
    assert ranges[0] is None
    assert re.fullmatch(r"bytes=[1-9]\d+-", ranges[1])
    assert torch.equal(scores(by_auto()), logits["second"])


@pytest.mark.parametrize("road", OURS)
@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kind", ["changed", "wrong etag"])
def test_content_that_is_not_what_the_hub_says(published, logits, road, file, kind):
    method, place = ("GET", "/objects/.*") if file == WEIGHTS else ("GET", f"/me/adapter/resolve/.*/{CONFIG}")
    wrong = "0" * (64 if file == WEIGHTS else 40)
    if kind == "changed":
        flipped = Fault(method, place, change=lambda content: content[:-1] + bytes([content[-1] ^ 1]), times=100)
        published.faults.append(flipped)
        known = find_hash(published, file)
    else:
        published.faults.append(Fault("HEAD", f"/me/adapter/resolve/.*/{file}", etag=wrong, times=100))
        known = wrong[:16]
    for _ in range(2):
        with raises_exactly(
            CheckpointError,
            f"{file} of {ADAPTER} must have the content that the Hub names by {known}, but has another: it was damaged on its "
            "way or in the cache. It was deleted; load it again.",
        ):
            road()
    published.faults.clear()
    assert torch.equal(scores(road()), logits["second"])
    whole_or_nothing()


def find_hash(published, file: str) -> str:
    content = published.files(ADAPTER)[file]
    return (hashlib.sha256(content).hexdigest() if file == WEIGHTS else git_hash(content))[:16]


def test_a_cache_that_was_damaged_later(published, logits, offline):
    files = find_adapter(ADAPTER)
    blob = files.weights.resolve()
    blob.write_bytes(blob.read_bytes()[:-4] + b"\0\0\0\1")
    offline()
    with pytest.raises(CheckpointError, match="It was deleted; load it again"):
        by_auto()


def test_a_file_that_is_too_large_is_not_downloaded(published):
    published.faults.append(Fault("HEAD", f".*/{CONFIG}", times=9))
    published.add(ADAPTER, {CONFIG: b"[" * ((8 << 20) + 1)})
    with raises_exactly(
        CheckpointError,
        "adapter_config.json of me/adapter must have at most 8,388,608 bytes, but has 8,388,609. It was not read.",
    ):
        by_auto()
    assert published.requests("GET", "/me/adapter/") == []


def test_a_cached_copy_serves_where_the_hub_asks_to_wait_for_a_day(published, logits):
    by_auto()
    published.faults.append(Fault("HEAD", ".*", status=429, headers={"Retry-After": "86400"}, times=100))
    assert torch.equal(scores(by_auto()), logits["second"])
