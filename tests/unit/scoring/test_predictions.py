"""The folder of predictions: what is there, what is missing, and that nothing is there by half."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest
import torch
from helpers import raises_exactly
from models import prompted, tiny_videomae

from apt_peft import ConfigError, DataError
from apt_peft.predictions import SCHEMA, Predictions
from apt_peft.scoring import Adapter
from apt_peft.training.clips import ClipSettings

CLIPS = ClipSettings(4, "even", 4, 16, "crop", (0.5,) * 3, (0.5,) * 3, 1, 1)


def rows(paths: str, adapter: str, error: str | None = None) -> pa.Table:
    """A row for each letter."""
    scores = {"label": "x", "probability": 0.75, "labels": ["x", "y"], "probabilities": [0.75, 0.25]}
    found = [{"path": path, "adapter": adapter} | ({"error": error} if error else scores) for path in paths]
    return pa.Table.from_pylist(found, schema=SCHEMA)


def everything(place: Path) -> list[tuple[str, str, str | None]]:
    """What any reader of Parquet folders finds."""
    table = pyarrow.dataset.dataset(place).to_table()
    assert table.schema.equals(SCHEMA)
    return sorted((row["path"], row["adapter"], row["error"]) for row in table.to_pylist())


def adapter(seed: int = 0, clips: ClipSettings = CLIPS, backbone: str = "f", **settings) -> Adapter:
    base = tiny_videomae(0)
    torch.manual_seed(seed)
    model = prompted(model=base, **settings)
    return Adapter(model, ("x", "y", "z"), clips, "float32", 8, "default", backbone)


def test_what_is_missing(tmp_path):
    out = Predictions(str(tmp_path / "new" / "out"))
    assert out.missing("abcd", ["one", "two"]) == {("one", "two"): ["a", "b", "c", "d"]}
    out.write(rows("ab", "one"))
    out.write(rows("a", "two"))
    out.write(rows("d", "two", "broken"))
    assert out.missing("abcd", ["one", "two"]) == {("two",): ["b"], ("one", "two"): ["c"], ("one",): ["d"]}
    assert Predictions(str(tmp_path / "new" / "out")).missing("dba", ["two"]) == {("two",): ["b"]}
    assert out.missing("ab", ["one"]) == {}


def test_the_same_rows_are_one_file(tmp_path):
    out = Predictions(str(tmp_path))
    out.write(rows("ab", "one"))
    out.write(rows("ab", "one"))
    out.write(rows("ab", "two"))
    assert len(list(tmp_path.iterdir())) == 2
    assert everything(tmp_path) == [(path, name, None) for path in "ab" for name in ("one", "two")]


def test_rows_are_gathered_into_files(tmp_path):
    out = Predictions(str(tmp_path))
    assert list(out.write_all((rows(path, "one") for path in "abcde"), rows_per_file=2)) == [2, 2, 1]
    assert list(out.write_all((rows(path, "two") for path in "ab"), rows_per_file=99, seconds_per_file=0)) == [1, 1]
    assert list(out.write_all([], rows_per_file=2)) == []
    assert len(everything(tmp_path)) == 7


def test_what_came_before_an_error_is_kept(tmp_path):
    def tables():
        yield rows("a", "one")
        yield rows("b", "one")
        yield rows("c", "one")
        raise KeyboardInterrupt

    out = Predictions(str(tmp_path))
    written = out.write_all(tables(), rows_per_file=2)
    assert next(written) == 2
    with pytest.raises(KeyboardInterrupt):
        next(written)
    assert everything(tmp_path) == [(path, "one", None) for path in "abc"]


def test_a_kill_while_a_file_is_written_leaves_whole_files(tmp_path):
    """Ends itself by SIGKILL inside the file system's write, after half of the bytes."""
    out = Predictions(str(tmp_path))
    out.write(rows("a", "one"))
    code = f"""
import os, signal, sys
sys.path[:0] = {[str(Path(__file__).parents[2]), str(Path(__file__).parent)]}
from fsspec.implementations.local import LocalFileSystem
from test_predictions import Predictions, rows
def half(self, path, content, **kwargs):
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
LocalFileSystem.pipe_file = half
Predictions({str(tmp_path)!r}).write(rows("bc", "one"))
"""
    ended = subprocess.run([sys.executable, "-c", code], timeout=120, env=os.environ, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert any(file.name.startswith(".part-") for file in tmp_path.iterdir())
    assert everything(tmp_path) == [("a", "one", None)]
    assert out.missing("abc", ["one"]) == {("one",): ["b", "c"]}
    out.write(rows("bc", "one"))
    assert everything(tmp_path) == [(path, "one", None) for path in "abc"]
    assert not any(file.name.startswith(".part-") for file in tmp_path.iterdir())


def test_errors_can_be_tried_again(tmp_path):
    out = Predictions(str(tmp_path))
    out.write(pa.concat_tables([rows("a", "one"), rows("b", "one", "broken")]))
    out.write(rows("c", "one", "broken"))
    out.write(rows("d", "one"))
    assert out.missing("abcd", ["one"]) == {}
    assert out.drop_errors() == 2
    assert out.missing("abcd", ["one"]) == {("one",): ["b", "c"]}
    assert out.drop_errors() == 0
    out.write(rows("bc", "one"))
    assert everything(tmp_path) == [(path, "one", None) for path in "abcd"]


def test_another_adapter_under_a_known_name(tmp_path):
    first, second = adapter(0), adapter(1)
    Predictions(str(tmp_path)).check({"yoga": first, "ball": second})
    out = Predictions(str(tmp_path))
    out.check({"yoga": adapter(0)})  # the same weights, read again
    out.check({"third": first})
    others = [
        adapter(1),
        adapter(0, backbone="g"),
        adapter(0, ClipSettings(**CLIPS.as_dict() | {"size": 32})),
        adapter(0, num_prompt_tokens=6),
    ]
    for other in others:
        with raises_exactly(
            ConfigError,
            f"adapters (yoga) must be those that {tmp_path} was begun with, but their weights, backbone or clips are others. "
            "Give them other names, or choose another folder.",
        ):
            out.check({"new": first, "yoga": other, "ball": second})
    out.write(rows("a", "yoga"))
    assert everything(tmp_path) == [("a", "yoga", None)]  # the note of the adapters is no obstacle


def test_a_damaged_file_is_named(tmp_path):
    out = Predictions(str(tmp_path))
    out.write(rows("a", "one"))
    damaged = tmp_path / "part-0.parquet"
    damaged.write_bytes(b"half")
    with pytest.raises((OSError, ValueError)) as told:
        pyarrow.dataset.dataset([str(damaged)], schema=SCHEMA).to_table(columns=["path", "adapter"])
    with pytest.raises(DataError) as raised:
        out.missing("a", ["one"])
    assert str(damaged) in str(raised.value)
    assert str(raised.value) == (
        f"predictions ({tmp_path}) must be whole Parquet files, but reading them fails: {told.value}. Delete the file, and its "
        "clips are scored again."
    )


def test_other_file_systems():
    out = Predictions("memory://predictions/out")
    out.write(pa.concat_tables([rows("ab", "one"), rows("c", "one", "broken")]))
    out.check({"one": adapter()})
    assert out.missing("abcd", ["one"]) == {("one",): ["d"]}
    assert out.drop_errors() == 1
    assert out.missing("abcd", ["one"]) == {("one",): ["c", "d"]}


def test_a_table_of_other_columns_is_refused(tmp_path):
    with pytest.raises(ValueError, match="schema"):
        Predictions(str(tmp_path)).write(pa.table({"path": ["a"], "adapter": ["one"]}))
