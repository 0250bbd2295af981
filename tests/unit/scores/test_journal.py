"""What a journal gives back, wherever it was cut and whatever was damaged in it."""

import pytest
import torch

from apt_peft.scores.journal import Journal, journal_of, journals

WHAT = {"scores of": "x", "clips": 5}


def numbers(index: int, shape: tuple[int, int] = (2, 3)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(index))


def written(path, indices) -> bytes:
    with Journal(path, WHAT, (2, 3)) as journal:
        for index in indices:
            journal.write(index, numbers(index))
    return path.read_bytes()


def check(path, indices) -> None:
    found = Journal(path, WHAT, (2, 3)).read()
    assert list(found) == list(indices)
    assert all(torch.equal(found[index], numbers(index)) for index in indices)


def test_it_goes_on_where_it_was(tmp_path):
    path = tmp_path / "a"
    assert Journal(path, WHAT, (2, 3)).read() == {}
    written(path, [3, 0])
    check(path, [3, 0])
    written(path, [4])
    check(path, [3, 0, 4])


def test_cut_anywhere_it_keeps_what_is_whole_and_goes_on(tmp_path):
    path = tmp_path / "a"
    whole = written(path, [3, 0, 2])
    size = 12 + 4 * 6
    start = len(whole) - 3 * size
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        kept = [3, 0, 2][: max(0, length - start) // size]
        check(path, kept)
        written(path, [1])
        check(path, [*kept, 1])


def test_a_flipped_bit_ends_what_is_kept(tmp_path):
    path = tmp_path / "a"
    whole = written(path, [3, 0, 2])
    size = 12 + 4 * 6
    second = len(whole) - 2 * size
    for place in range(second, second + size):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        check(path, [3])


@pytest.mark.parametrize("other", [(WHAT | {"clips": 6}, (2, 3)), (WHAT, (1, 3)), (WHAT, (2, 4))])
def test_other_scores_are_not_taken_for_these(tmp_path, other):
    path = tmp_path / "a"
    written(path, [3])
    assert Journal(path, *other).read() == {}
    with Journal(path, *other) as journal:
        journal.write(1, numbers(1, other[1]))
    assert list(Journal(path, *other).read()) == [1]
    check(path, [])


def test_journals_beside_a_file(tmp_path):
    place = tmp_path / "a[1].safetensors"
    for name in (
        "a[1].safetensors.journal-0",
        "a[1].safetensors.journal-12",
        "b.safetensors.journal-0",
        "a1.safetensors.journal-0",
    ):
        (tmp_path / name).touch()
    assert [path.name for path in journals(place)] == ["a[1].safetensors.journal-0", "a[1].safetensors.journal-12"]
    assert journal_of(place, 12) in journals(place)
