"""Patterns of shards are expanded as bash does, and the split follows from the name."""

import subprocess

import pytest
from helpers import raises_exactly

from apt_peft.errors import DataError
from apt_peft.video.shards.names import common_folder, expand, is_tar, split_of


@pytest.mark.parametrize(
    "pattern",
    [
        "a.tar",
        "s/train-{000..012}.tar",
        "s/{train,val}-{0..2}.tar",
        "s/x{8..11}.tar",
        "{098..101}/{a,b,c}-{1..2}.tar",
        "s/{5..5}.tar",
    ],
)
def test_braces_as_bash_expands_them(pattern):
    expected = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True, check=True)
    assert expand(pattern) == expected.stdout.split()


def test_lists_are_split_at_commas_outside_of_braces():
    assert expand("a.tar, b-{x,y}.tar,c.tar") == ["a.tar", "b-x.tar", "b-y.tar", "c.tar"]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("a-{0..3.tar", "its braces do not pair, or stand within each other"),
        ("a-0..3}.tar", "its braces do not pair, or stand within each other"),
        ("a-{{0..3}}.tar", "its braces do not pair, or stand within each other"),
        ("a-{3}.tar", "{3} is neither a range such as {000..127} nor a choice such as {a,b}"),
        ("a-{3..1}.tar", "{3..1} must rise, by less than 1,000,000"),
        ("a-{0..9999999999}.tar", "{0..9999999999} must rise, by less than 1,000,000"),
        ("{0..9999}/{0..9999}.tar", "it stands for 100,000,000 names, and 1,000,000 are the most"),
        ("a.tar,,b.tar", "a name in it is empty"),
    ],
)
def test_patterns_that_are_none(pattern, why):
    with raises_exactly(
        DataError, f"data ({pattern}) must name shards, for example shards/train-{{000..127}}.tar, but {why}."
    ):
        expand(pattern)


def test_splits_by_name():
    names = [
        "train-000.tar",
        "Val_3.tar",
        "validation.tar",
        "test.tar",
        "training-1.tar",
        "trainer-1.tar",
        "x-train.tar",
    ]
    assert [split_of(name) for name in names] == ["train", "val", "val", "test", "train", None, None]


def test_what_is_a_tar():
    names = ["a.tar", "x-{0..3}.tar", "a.TAR,b.tar", "clips", "a.tar.gz"]
    assert [is_tar(name) for name in names] == [True, True, True, False, False]


def test_the_common_folder():
    assert common_folder(["/a/b/x.tar", "/a/b/y.tar"]) == "/a/b"
    assert common_folder(["/a/b/x.tar", "/a/c/y.tar"]) == "/a"
    assert common_folder(["x.tar"]) == "."
