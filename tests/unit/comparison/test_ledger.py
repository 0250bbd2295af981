"""The ledger: what it lets happen, what it refuses, and that neither kills nor changes get past it."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import raises_exactly

from apt_peft.comparison import Ledger
from apt_peft.comparison.ledger import digest, locked
from apt_peft.errors import ConfigError, DataError

ADAPTER, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.jsonl")


@pytest.fixture
def scores(tmp_path):
    return tmp_path / "seed-0.safetensors"


def touched(ledger, scores):
    assert ledger.touch("apt", 0, adapter=ADAPTER, scores=scores)
    scores.write_text("scores")
    ledger.scored("apt", 0, adapter=ADAPTER, scores=scores)


REMEDY = "Put it back, or open the split again by --forget apt, which is recorded."


def test_a_second_touch_takes_what_is_stored(ledger, scores):
    touched(ledger, scores)
    before = ledger.path.read_bytes()
    assert not ledger.touch("apt", 0, adapter=ADAPTER, scores=scores)
    assert ledger.path.read_bytes() == before
    assert ledger.state("apt", 0)["scores"] == digest(scores)
    assert ledger.state("apt", 1) is None
    assert ledger.state("lora", 0) is None


def test_a_touch_that_was_cut_short_is_ended_by_the_same_weights_alone(ledger, scores):
    ledger.touch("apt", 0, adapter=ADAPTER, scores=scores)
    assert ledger.touch("apt", 0, adapter=ADAPTER, scores=scores)
    assert [record["event"] for record in ledger.records()] == ["touch", "resume"]
    message = (
        "test split (of apt, seed 0) must be touched once, but it was with other weights (aaaaaaaaaaaa, now bbbbbbbbbbbb): the "
        f"run was trained again. {REMEDY}"
    )
    with raises_exactly(ConfigError, message):
        ledger.touch("apt", 0, adapter=OTHER, scores=scores)


def test_scores_that_are_gone_or_changed_do_not_open_it_again(ledger, scores):
    touched(ledger, scores)
    scores.write_text("better scores")
    what = f"test split (of apt, seed 0) must be touched once, but its scores ({scores})"
    with raises_exactly(ConfigError, f"{what} were changed. {REMEDY}"):
        ledger.touch("apt", 0, adapter=ADAPTER, scores=scores)
    scores.unlink()
    with raises_exactly(ConfigError, f"{what} are gone. {REMEDY}"):
        ledger.touch("apt", 0, adapter=ADAPTER, scores=scores)


def test_a_ledger_that_was_taken_away(ledger, scores):
    touched(ledger, scores)
    ledger.path.unlink()
    message = (
        f"test split (of apt, seed 0) must be touched with a record in {ledger.path}, but {scores} is there without one: the "
        f"ledger was taken away. {REMEDY}"
    )
    with raises_exactly(ConfigError, message):
        ledger.touch("apt", 0, adapter=ADAPTER, scores=scores)


def test_forgetting_is_recorded_and_the_scores_go_aside(ledger, scores):
    touched(ledger, scores)
    ledger.forget("apt", 0, scores)
    assert ledger.touch("apt", 0, adapter=OTHER, scores=scores)
    assert [record["event"] for record in ledger.records()] == ["touch", "scored", "forget", "touch"]
    assert (scores.parent / "seed-0.forgotten-3.safetensors").read_text() == "scores"


@pytest.mark.parametrize("length", [1, 20, 60])
def test_a_last_line_that_a_kill_cut_short_is_dropped(ledger, scores, length):
    touched(ledger, scores)
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + whole.splitlines(keepends=True)[0][:length])
    assert len(ledger.records()) == 2
    ledger.touch("apt", 1, adapter=ADAPTER, scores=scores.with_name("seed-1.safetensors"))
    assert [record["line"] for record in ledger.records()] == [1, 2, 3]
    assert ledger.path.read_bytes().startswith(whole)


def without(lines, place):
    return lines[:place] + lines[place + 1 :]


CHANGES = {
    "another seed": lambda lines: [lines[0].replace(b'"seed": 0', b'"seed": 7'), *lines[1:]],
    "the first line gone": lambda lines: without(lines, 0),
    "no JSON": lambda lines: [b"{\n", *lines[1:]],
    "no object": lambda lines: [b"[1]\n", *lines[1:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_line_that_was_changed_is_named(ledger, scores, change):
    touched(ledger, scores)
    ledger.path.write_bytes(b"".join(CHANGES[change](ledger.path.read_bytes().splitlines(keepends=True))))
    message = (
        f"ledger ({ledger.path}) must have all its lines as they were written, but line 1 is not, or one before it is gone. "
        "Restore the file, or begin anew in another folder."
    )
    with raises_exactly(DataError, message):
        ledger.touch("apt", 0, adapter=ADAPTER, scores=scores)


def test_writers_wait_for_each_other(ledger, tmp_path):
    def work(number):
        return ledger.touch(f"method-{number}", 0, adapter=ADAPTER, scores=tmp_path / f"{number}")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))
    assert sorted(record["method"] for record in ledger.records()) == sorted(f"method-{n}" for n in range(16))
    assert [json.loads(line)["line"] for line in ledger.path.read_text().splitlines()] == list(range(1, 17))


def test_a_lock_is_held_once(tmp_path):
    with locked(tmp_path / "lock") as first, locked(tmp_path / "lock", wait=False) as second:
        assert first
        assert not second
    with locked(tmp_path / "lock", wait=False) as again:
        assert again
