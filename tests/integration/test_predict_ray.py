"""examples/predict_ray.py on a real Ray: two runs on a cluster, the first of them killed, and one with processes of its own.

Files that crash or block a decoder are named pipes here: opening one waits for a writer, as a decoder that hangs does, and the
process that waits can be sent what a crash would send.
"""

import errno
import json
import os
import runpy
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch
from clips import write_clip
from helpers import raises_exactly
from models import prompted

from apt_peft.scoring import PredictSettings, ScoringSettings, open_adapters, predict
from apt_peft.training.base import open_base, weights_fingerprint

SCRIPT = Path(__file__).parents[2] / "examples" / "predict_ray.py"
PATIENCE = 180  # seconds for anything; what is waited for takes a few, more where the machine is busy
ADAPTERS = {"yoga": (["down", "left", "up"], "crop"), "ball": (list("abcde"), "squash")}
CLIPS = [f"clip{number}.mp4" for number in range(8)]
HEAD = """
import sys, ray
there = ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=10**8, _temp_dir=sys.argv[1])
print("address", there.address_info["address"], flush=True)
sys.stdin.read()
"""


TOKEN = secrets.token_hex(32)


def environment(home: str) -> dict[str, str]:
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_TMPDIR": home}
    return os.environ | own


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def belongs(pid: int, text: str) -> bool:
    """Whether a process that has not ended has this text in its command line or environment."""
    place = Path("/proc", str(pid))
    try:
        said = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
        return text.encode() in said and (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # it ended meanwhile
        return False


def until(condition, what: str, run: subprocess.Popen | None = None):
    """The first true value of a condition, which has time as long as a process runs."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and (run is None or run.poll() is None):
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail(
        f"{what}: not within {PATIENCE} s" if run is None or run.poll() is None else f"{what}: the run has ended"
    )


@pytest.fixture(scope="module")
def home() -> Iterator[str]:
    """A short place for Ray's sockets, whose paths may not be long; afterwards no process of it may be left."""
    with tempfile.TemporaryDirectory(prefix="ray-test-") as place:
        yield place
        until(lambda: not any(belongs(pid, place) for pid in processes()), "all processes of Ray end")


@pytest.fixture(scope="module")
def address(home) -> Iterator[str]:
    """One Ray instance of two CPUs, for the whole file."""
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD, home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(home)
    )  # fmt: skip
    try:
        line = next(line for line in head.stdout if line.startswith("address "))
        yield line.split()[1]
    finally:
        head.stdin.close()
        try:
            head.wait(PATIENCE)
        finally:
            head.kill()
            head.stdout.close()


@pytest.fixture(scope="module")
def adapters(backbone, tmp_path_factory) -> dict[str, Path]:
    """Two adapters of one backbone: other labels, prompts, heads and ways to make clips."""
    root, found = tmp_path_factory.mktemp("adapters"), {}
    for seed, (name, (labels, resize)) in enumerate(ADAPTERS.items()):
        base = open_base(str(backbone), labels=labels)
        fingerprint = weights_fingerprint(base)
        torch.manual_seed(seed)
        torch.nn.init.normal_(base.classifier.weight)
        prompted(model=base, num_prompt_tokens=3 + seed).save_pretrained(root / name)
        clip = {"num_frames": 4, "sampling": "even", "frame_stride": 4, "size": 16, "resize": resize, "segments": 2}
        clip |= {"crops": 1, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.3, 0.4]}
        run = {"clips": clip, "precision": "float32", "settings": {"batch_size": 4}}
        (root / name / "run.json").write_text(json.dumps(run | {"backbone": {"fingerprint": fingerprint}}))
        found[name] = root / name
    return found


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("library")
    for seed, name in enumerate(CLIPS):
        write_clip(root / name, num_frames=5 + seed, width=40, height=24, seed=seed)
    (root / "broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def expected(library, adapters) -> dict[tuple[str, str], dict[str, float]]:
    """What `apt-peft predict` says of each clip."""
    scores = {}
    for name, adapter in adapters.items():
        given = PredictSettings(adapter=str(adapter), clips=str(library), top_k=9, on_error="skip", progress=False)
        for row in predict(given):
            if "error" in row:
                continue
            scores[Path(row["clip"]).name, name] = {best["label"]: best["score"] for best in row["scores"]}
    assert len(scores) == len(CLIPS) * len(adapters)
    return scores


def command(library: Path | str, out: Path, adapters: dict[str, Path], *more: str) -> list[str]:
    given = [word for name, place in adapters.items() for word in ("--adapter", f"{name}={place}")]
    return [sys.executable, str(SCRIPT), str(library), *given, "--out", str(out), *more]


def rows_of(out: Path) -> dict[tuple[str, str], dict]:
    """All rows; a clip and an adapter have one each."""
    rows = pyarrow.dataset.dataset(out).to_table().to_pylist()
    found = {(Path(row["path"].partition("::")[0]).name, row["adapter"]): row for row in rows}
    assert len(found) == len(rows), Counter((row["path"], row["adapter"]) for row in rows).most_common(3)
    return found


def check_scores(row: dict, expected: dict[str, float], top_k: int) -> None:
    assert row["error"] is None
    best = sorted(expected.values(), reverse=True)[:top_k]
    assert [expected[label] for label in row["labels"]] == pytest.approx(best, abs=2e-6)
    assert row["probabilities"] == pytest.approx(best, abs=2e-6)
    assert (row["label"], row["probability"]) == (row["labels"][0], row["probabilities"][0])


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@contextmanager
def reader_of(pipe: Path, run: subprocess.Popen) -> Iterator[int]:
    """The process that opened a named pipe; in here it is blocked in reading, since the other end is open and silent."""

    def other_end():
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody reads yet
                raise
            return None

    end = until(other_end, f"somebody reads {pipe.name}", run)
    try:
        # It was waiting to open the pipe, and has it open a moment later.
        yield until(
            lambda: next((pid for pid in processes() if has_open(pid, pipe)), None), f"{pipe.name} is open", run
        )
    finally:
        os.close(end)


def has_open(pid: int, file: Path) -> bool:
    try:
        return any(link.readlink() == file for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it ended, or closed a file, meanwhile
        return False


def test_a_run_that_is_killed_goes_on(address, home, adapters, library, expected, tmp_path):
    """Crash, kill in the middle, restart: each clip once, what was finished is not read again.

    The first run is one of a cluster, the second has processes of its own.
    """
    library = Path(shutil.copytree(library, tmp_path / "library"))
    for name in ("crashes.mp4", "stops.mp4"):
        os.mkfifo(library / name)
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.write(library / CLIPS[7], CLIPS[7])
    elsewhere = f"zip://{CLIPS[7]}::{tmp_path}/clips.zip"
    order = [*CLIPS[:3], "broken.mp4", "crashes.mp4", *CLIPS[3:6], "stops.mp4", CLIPS[6], elsewhere, "gone.mp4"]
    pq.write_table(pa.table({"video": order}), library / "list.parquet")
    out = tmp_path / "out"
    words = command(
        library / "list.parquet", out, adapters, "--column", "video", "--rows-per-file", "2", "--top-k", "4"
    )
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(
            [*words, "--address", address], stdout=log, stderr=subprocess.STDOUT, env=environment(home)
        )
        try:
            for _ in range(2):  # it is tried twice
                with reader_of(library / "crashes.mp4", first) as reader:
                    os.kill(reader, signal.SIGSEGV)
                    until(lambda: is_gone(reader), "the crashed process ends", first)
            with reader_of(library / "stops.mp4", first) as reader:
                until(lambda: len(list(out.glob("part-*"))) >= 2, "files of what came before", first)
                first.kill()
                until(lambda: is_gone(reader), "the processes of the killed run end")
        finally:
            first.kill()
            first.wait(PATIENCE)
    finished = rows_of(out)
    assert finished["crashes.mp4", "yoga"]["error"] == (
        f"video ({library}/crashes.mp4) must be a readable video file, but decoding it ended the process, twice."
    )
    assert {path for path, _ in finished} == set(order[:6])
    for path in order[:6]:  # read again, they would be other errors
        (library / path).unlink()

    done = subprocess.run(
        [*words, "--timeout", "6"], env=environment(home), timeout=PATIENCE, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "12 videos, 6 of them to score" in done.stdout
    rows = rows_of(out)
    assert {key: rows[key] for key in finished} == finished
    assert set(rows) == {(Path(path.partition("::")[0]).name, name) for path in order for name in adapters}
    assert rows[CLIPS[7], "ball"]["path"] == elsewhere
    reasons = {path: row["error"] for (path, _), row in rows.items() if path not in CLIPS}
    says = "video ({}) must be a readable video file, but {}."
    assert reasons == {
        "broken.mp4": says.format(
            library / "broken.mp4", "opening it failed: invalid data found when processing input"
        ),
        "crashes.mp4": says.format(library / "crashes.mp4", "decoding it ended the process, twice"),
        "stops.mp4": f"video ({library}/stops.mp4) must be decoded in 6 seconds, but was not. Raise --timeout.",
        "gone.mp4": says.format(library / "gone.mp4", "opening it failed: no such file or directory"),
    }
    for key, scores in expected.items():
        check_scores(rows[key], scores, 4)
    assert all(file.name.startswith(("part-", "_adapters")) for file in out.iterdir())


@pytest.mark.parametrize("given", [["runs/first"], ["a="], ["=b"], ["a=b", "a=c"]], ids=str)
def test_adapters_need_names_of_their_own(given, tmp_path, monkeypatch):
    script = runpy.run_path(str(SCRIPT))
    words = [word for each in given for word in ("--adapter", each)]
    monkeypatch.setattr(sys, "argv", ["predict_ray.py", "clips", *words, "--out", str(tmp_path / "out")])
    message = f"--adapter ({', '.join(given)}) must be NAME=DIR_OR_HUB, each with a name of its own."
    with raises_exactly(SystemExit, f"error: {message}"):
        script["main"]()
    assert not (tmp_path / "out").exists()


def test_several_kinds_of_clips_and_all_labels(adapters, library, expected):
    """What a decoder hands over and a scorer makes of it, without Ray between them; a reader is a plain object here."""
    script = runpy.run_path(str(SCRIPT))
    flags = {name: ScoringSettings(adapter=str(place)) for name, place in adapters.items()}
    kinds = [kind.as_dict() for kind in script["kinds_of"](open_adapters(flags))]
    assert [kind["resize"] for kind in kinds] == ["crop", "squash"]
    reader, decode, score = script["Reader"](kinds), script["Decode"](kinds, 60), script["Score"](flags, 0)
    decode.read = reader.read
    paths = [str(library / CLIPS[0]), str(library / "nothing.mp4"), str(library / CLIPS[1])]
    rows = list(decode({"path": np.array(paths)}))
    batch = {
        name: np.concatenate([np.asarray(row[name], object if name in ("path", "error") else None) for row in rows])
        for name in rows[0]
    }
    found = score(batch).to_pylist()
    assert [(row["path"], row["adapter"]) for row in found] == [(path, name) for path in paths for name in adapters]
    for row in found:
        if row["path"].endswith("nothing.mp4"):
            assert row["error"] == f"video ({row['path']}) must be a readable video file, but opening it failed: " + (
                "no such file or directory."
            )
        else:
            check_scores(row, expected[Path(row["path"]).name, row["adapter"]], 9)
    only_errors = {name: values[1:2] for name, values in batch.items()}
    assert [row["label"] for row in score(only_errors).to_pylist()] == [None, None]
