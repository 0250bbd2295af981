"""What is written is read again, by us and by others; files that cannot be counted on are refused, each with its message."""

import json
import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from helpers import raises_exactly
from safetensors.torch import load_file, save_file

from apt_peft import ConfigError, DataError
from apt_peft.scores import whole
from apt_peft.scores.files import problems, read_scores, save_scores
from apt_peft.scores.result import EvaluationResult

KINDS = ["safetensors", "parquet"]
ORIGIN = {"adapter": "runs/é", "views": {"segments": 5}}


def result(clips: int = 7, views: int = 0, seed: int = 0) -> EvaluationResult:
    logits = torch.randn(clips, max(views, 1), 3, generator=torch.Generator().manual_seed(seed))
    return EvaluationResult(
        ("wave", "jump, high", "ärger"),
        tuple(f'wave/{number} "x".mp4' for number in range(clips)),
        torch.arange(clips) % 3,
        logits.softmax(-1).mean(1),
        ("lost.mp4",),
        logits if views else None,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("views", [0, 1, 4])
def test_there_and_back(tmp_path, kind, views):
    wanted = result(views=views)
    path = tmp_path / "new" / f"scores.{kind}"
    save_scores(path, wanted, ORIGIN)
    found = read_scores(path)
    assert (found.path, found.provenance) == (str(path), ORIGIN)
    got = found.result
    assert (got.labels, got.names, got.skipped) == (wanted.labels, wanted.names, wanted.skipped)
    assert torch.equal(got.scores, wanted.scores)
    assert torch.equal(got.targets, wanted.targets)
    assert got.logits is None if not views else torch.equal(got.logits, wanted.logits)
    assert got.values == wanted.values
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    save_scores(path, result(clips=3))  # another takes its place
    assert len(read_scores(path).result.names) == 3


def test_others_can_read_them(tmp_path):
    wanted = result(views=2)
    save_scores(tmp_path / "a.parquet", wanted)
    rows = pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert rows[4]["name"] == wanted.names[4]
    assert (rows[4]["label"], rows[4]["target"]) == ("jump, high", 1)
    assert rows[4]["scores"] == wanted.scores[4].tolist()
    assert rows[4]["logits"] == wanted.logits[4].tolist()
    save_scores(tmp_path / "a.safetensors", wanted)
    assert load_file(tmp_path / "a.safetensors").keys() == {"scores", "targets", "logits"}


def test_results_can_be_pickled_once_their_numbers_were_asked_for():
    wanted = result(views=2)
    assert wanted.top1 == pickle.loads(pickle.dumps(wanted)).top1


def test_a_kill_while_a_file_is_written_leaves_the_old_one(tmp_path):
    """Ends itself by SIGKILL when half of the new file is written."""
    path = tmp_path / "scores.safetensors"
    save_scores(path, result())
    before = path.read_bytes()
    code = f"""
import os, runpy, signal
with runpy.run_path({whole.__file__!r})["whole_file"]({str(path)!r}) as begun:
    begun.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
    save_scores(path, result(clips=4))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_error_while_writing_leaves_nothing(tmp_path):
    bad = replace(result(), skipped=(object(),))
    with pytest.raises(TypeError):
        save_scores(tmp_path / "a.safetensors", bad)
    assert list(tmp_path.iterdir()) == []


def changed(**values) -> EvaluationResult:
    return replace(result(), **values)


def with_row(row: list[float]) -> torch.Tensor:
    scores = result().scores.clone()
    scores[2] = torch.tensor(row)
    return scores


NAME = 'wave/2 "x".mp4'
WRONG = {
    "NaN": (changed(scores=with_row([torch.nan, 0.5, 0.5])), f"1 clips have scores that are NaN or infinite: {NAME}"),
    "below 0": (changed(scores=with_row([-0.5, 0.5, 1.0])), f"1 clips have probabilities below 0: {NAME}"),
    "sum": (changed(scores=with_row([0.5, 0.5, 0.5])), f"1 clips have probabilities that do not sum to 1: {NAME}"),
    "target": (
        changed(targets=torch.tensor([0, 1, 3, 0, 1, -1, 0])),
        f'2 clips have a true label that is none of 0 to 2: {NAME}, wave/5 "x".mp4',
    ),
    "twice": (changed(names=("a", "b", "a", "c", "d", "b", "a")), "clips stand there more than once: a, b"),
    "classes": (changed(labels=("a", "b", "a")), "classes stand there more than once: a"),
    "missing": (
        changed(names=("a", "b", "c", "d", "e", "f")),
        "scores have the shape [7, 3], and 6 clips of 3 classes want [6, 3]; "
        "targets have the shape [7], and 6 clips of 3 classes want [6]",
    ),
    "logits": (
        changed(logits=torch.zeros(7, 2, 4)),
        "logits have the shape [7, 2, 4], and 7 clips of 3 classes want [7, 2, 3]",
    ),
    "nothing": (
        EvaluationResult((), (), torch.zeros(0, dtype=torch.long), torch.zeros(0, 0)),
        "there are no clips; there are 0 classes",
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_cannot_be_are_neither_written_nor_read(tmp_path, monkeypatch, name, kind):
    bad, reason = WRONG[name]
    path = tmp_path / f"bad.{kind}"
    message = f"scores ({path}) must be ones that can be counted on, but {reason}. Save them again."
    with raises_exactly(DataError, message):
        save_scores(path, bad)
    assert not path.exists()
    if kind == "parquet" and name in ("missing", "logits", "nothing", "target"):
        return  # tables have as many of everything, and the true label's name is written
    with monkeypatch.context() as patch:
        patch.setattr("apt_peft.scores.files.problems", lambda _: [])
        save_scores(path, bad)
    with raises_exactly(DataError, message):
        read_scores(path)


def test_several_things_are_named_at_once_and_long_lists_are_cut():
    many = EvaluationResult(("a", "b"), ("x",) * 2 + tuple("cdefghi"), torch.full((9,), 7), torch.full((9, 2), 0.5))
    assert problems(many) == [
        "clips stand there more than once: x",
        "9 clips have a true label that is none of 0 to 1: x, x, c, d, e and 4 more",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_file_is_refused(tmp_path, kind):
    path = tmp_path / f"scores.{kind}"
    save_scores(path, result(views=2), ORIGIN)
    content = path.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        with pytest.raises(
            DataError, match=r"^scores \(.*\) must be a file that apt-peft evaluate --save-scores wrote, but: "
        ):
            read_scores(path)


META = {
    "format": "apt_peft.scores",
    "version": "1",
    "labels": '["a", "b"]',
    "skipped": "[]",
    "provenance": "{}",
    "names": '["x"]',
}


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "it is no file of scores"),
        (META | {"version": "2"}, "its version is '2', and this program reads 1"),
        ({key: value for key, value in META.items() if key != "skipped"}, "it lacks 'skipped'"),
        (META | {"labels": '[1, "b"]'}, "labels are no texts"),
        (META | {"names": '{"a": "b"}'}, "names are no texts"),
        (META | {"provenance": "3"}, "provenance is no table"),
        (META | {"labels": "["}, "Expecting value: line 1 column 2 (char 1)"),
    ],
)
def test_files_of_others(tmp_path, metadata, reason):
    path = tmp_path / "other.safetensors"
    tensors = {"scores": torch.tensor([[0.5, 0.5]]), "targets": torch.tensor([0])}
    save_file(tensors, path, metadata)
    message = (
        f"scores ({path}) must be a file that apt-peft evaluate --save-scores wrote, but: {reason}. Save them again."
    )
    with raises_exactly(DataError, message):
        read_scores(path)
    save_file({"targets": tensors["targets"]}, path, META)
    with raises_exactly(DataError, message.replace(reason, "it lacks 'scores'")):
        read_scores(path)


def test_parquet_of_others(tmp_path):
    path = tmp_path / "other.parquet"
    message = f"scores ({path}) must be a file that apt-peft evaluate --save-scores wrote, but: {{}}. Save them again."
    columns = {"name": ["x", "y"], "target": [0, 1], "scores": [[0.5, 0.5], [1.0, None]]}
    pyarrow.parquet.write_table(pa.table(columns), path)
    with raises_exactly(DataError, message.format("it is no file of scores")):
        read_scores(path)
    pyarrow.parquet.write_table(pa.table(columns).replace_schema_metadata(META), path)
    with raises_exactly(DataError, message.format("scores have empty places")):
        read_scores(path)
    fine = pa.table(columns | {"scores": [[0.5, 0.5], [1.0, 0.0]]}).replace_schema_metadata(META)
    pyarrow.parquet.write_table(fine, path)
    assert read_scores(path).result.top1 == 50.0


def test_names_of_files(tmp_path):
    with raises_exactly(
        ConfigError, "scores file (a.npz) must end in .safetensors or .parquet, which says how it is written."
    ):
        save_scores("a.npz", result())
    with raises_exactly(
        ConfigError, f"scores ({tmp_path}/no.parquet) must be a file, but there is none of that name. Check the path."
    ):
        read_scores(f"{tmp_path}/no.parquet")


def test_a_header_of_something_else(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_text(json.dumps(ORIGIN))
    with pytest.raises(DataError, match="must be a file that apt-peft evaluate --save-scores wrote"):
        read_scores(path)
