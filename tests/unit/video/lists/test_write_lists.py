"""Lists that are written read back as they were meant, by this package and as the reference reads them."""

import csv
import hashlib
import json
import random
import shlex
from collections import Counter
from pathlib import Path

import pytest
from helpers import raises_exactly
from layouts import BUILDERS

from apt_peft import ConfigError, DataError, cli
from apt_peft.video import Clip, DataSplits, read_data
from apt_peft.video.lists import _fields, line_of
from apt_peft.video.write_lists import SplitPlan, write_lists

PLAN = SplitPlan(val=0.2, test=0.3)


def touch(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def data(tmp_path) -> Path:
    """Two classes of 20 clips, two of each person."""
    for name in ("jump", "long wave"):
        for n in range(20):
            touch(tmp_path / "data" / name / f"person{n // 2:02}_{n % 2}.mp4")
    return tmp_path / "data"


def read(folder: Path, root: Path, prefix: str = "") -> dict[str, dict[str, str]]:
    """Split -> path -> name of the class, as the package reads the lists of a folder."""
    files = {f"{s}_list": file for s in ("train", "val", "test") if (file := folder / prefix / f"{s}.csv").exists()}
    found = read_data(root, labels=folder / "labels.txt", **files)
    return {
        s: {Path(c.source).relative_to(root).as_posix(): found.labels[c.label] for c in clips}
        for s, clips in found.items()
    }


def as_the_reference_reads(file: Path) -> dict[str, int]:
    """Path -> label, from a file with spaces between and quotes around paths with spaces."""
    with file.open(newline="") as opened:
        return {path: int(label) for path, label in csv.reader(opened, delimiter=" ")}


def test_lists_of_a_folder(data, tmp_path):
    found = read_data(data)
    written = write_lists(found, data, tmp_path / "out", SplitPlan(val=0.2, test=0.3, group_by=r"(.*)_\d"))
    lists = read(tmp_path / "out", data)
    assert {split: Counter(rows.values()) for split, rows in lists.items()} == {
        split: {"jump": count, "long wave": count} for split, count in (("train", 10), ("val", 4), ("test", 6))
    }
    people = [{name[:-6] for name in rows} for rows in lists.values()]
    assert sum(map(len, people)) == len(set.union(*people)) == 20
    for split, rows in lists.items():
        theirs = as_the_reference_reads(tmp_path / "out" / f"{split}.csv")
        assert {name: found.labels[label] for name, label in theirs.items()} == rows
    assert (tmp_path / "out" / "labels.txt").read_text() == "jump\nlong wave\n"
    assert str(written).splitlines() == [
        "train               20 clips in      10 groups",
        "val                  8 clips in       4 groups",
        "test                12 clips in       6 groups",
        "classes: 2; grouped by: expression; seed 0",
        f"lists: {tmp_path}/out",
        f"use: --data {data} --train-list {tmp_path}/out/train.csv --val-list {tmp_path}/out/val.csv "
        f"--test-list {tmp_path}/out/test.csv --labels {tmp_path}/out/labels.txt",
    ]


def test_the_manifest_says_what_is_there(data, tmp_path):
    written = write_lists(read_data(data), data, tmp_path / "out", PLAN)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest == json.loads(json.dumps(written.manifest))
    lists = read(tmp_path / "out", data)
    assert manifest["clips"] == {split: len(rows) for split, rows in lists.items()} == manifest["groups"]
    assert manifest["counts"] == {split: dict(sorted(Counter(rows.values()).items())) for split, rows in lists.items()}
    assert manifest["files"] == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((tmp_path / "out").iterdir())
        if file.name != "manifest.json"
    }
    assert manifest["largest_deviation"] == [0.0, None]
    assert (manifest["seed"], manifest["grouped_by"], manifest["layout"]) == (0, "none", None)
    uneven = write_lists(read_data(data), data, tmp_path / "uneven", SplitPlan(val=0.12)).manifest
    assert uneven["largest_deviation"] == (0.6, "long wave in train (17 of 17.6)")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_bytes_in_whatever_order_and_another_seed_other_ones(data, tmp_path):
    found = read_data(data)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        random.Random(name).shuffle(found.train)
        write_lists(found, data, tmp_path / name, SplitPlan(val=0.2, test=0.3, seed=seed))
    one, two, three = (contents(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one["train.csv"] != three["train.csv"]
    prints = [json.loads(files["manifest.json"])["fingerprint"] for files in (one, three)]
    assert prints[0] == prints[1]
    touch(data / "jump" / "new.mp4")
    new = write_lists(read_data(data), data, tmp_path / "four", PLAN).manifest["fingerprint"]
    assert new != prints[0]


def test_folds(data, tmp_path):
    plan = SplitPlan(folds=5, test=0.2, group_by=r"person\d\d")
    manifest = write_lists(read_data(data), data, tmp_path / "out", plan).manifest
    assert list(manifest["clips"]) == [
        "test",
        *(f"fold-{k}/{split}" for k in range(1, 6) for split in ("train", "val")),
    ]
    test = read(tmp_path / "out", data)["test"]
    held: Counter[str] = Counter()
    for k in range(1, 6):
        lists = read(tmp_path / "out", data, f"fold-{k}")
        assert {split: len(rows) for split, rows in lists.items()} in ({"train": 24, "val": 8}, {"train": 28, "val": 4})
        assert set(Counter(lists["val"].values())) == {"jump", "long wave"}
        people = [{name.split("person")[1][:2] for name in rows} for rows in (*lists.values(), test)]
        assert sum(map(len, people)) == len(set.union(*people)) == 10
        held.update(list(lists["val"]))
    assert set(held.values()) == {1}
    assert len(held) + len(test) == 40


def test_splits_of_the_data_stay_as_they_are(data, tmp_path):
    (data / "jump").rename(tmp_path / "jump")
    for split in ("train", "test"):
        (data / split / "a").mkdir(parents=True)
        touch(data / split / "b" / "1.mp4")
    for n, file in enumerate(sorted((tmp_path / "jump").iterdir())):
        file.rename(data / ("test" if n < 4 else "train") / "a" / file.name)
    (data / "long wave").rename(tmp_path / "other")
    kept = write_lists(read_data(data), data, tmp_path / "kept", SplitPlan()).manifest
    assert kept["clips"] == {"train": 17, "test": 5}
    made = write_lists(read_data(data), data, tmp_path / "made", SplitPlan(val=0.5)).manifest
    assert (made["clips"]["test"], made["clips"]["train"] + made["clips"]["val"]) == (5, 17)
    pooled = write_lists(read_data(data), data, tmp_path / "pool", SplitPlan(val=0.2, test=0.2, pool=True)).manifest
    assert pooled["counts"]["train"] == {"a": 12, "b": 0} or pooled["counts"]["train"]["b"] > 0
    assert sum(pooled["clips"].values()) == 22


def test_what_may_spoil_a_score_is_told(tmp_path):
    root = BUILDERS["hmdb51"](tmp_path / "hmdb51", touch)
    data = read_data(root)
    warnings = write_lists(data, root, tmp_path / "out", SplitPlan(val=0.3)).warnings
    assert warnings == [
        "Groups that stand in the test split of the data and outside it, which flatters the score: 6. Divide all clips anew with "
        "--pool."
    ]
    data = DataSplits(train=[Clip(root / f"{n}.mp4", 0) for n in range(4)], labels=["a", "b"])
    warnings = write_lists(data, root, tmp_path / "two", SplitPlan(val=0.5)).warnings
    assert warnings == ["Classes without a clip in train (1): b.", "Classes without a clip in val (1): b."]


@pytest.mark.parametrize("name", BUILDERS)
def test_public_data_sets_as_lists(name, tmp_path):
    root = BUILDERS[name](tmp_path / name, touch)
    data = read_data(root)
    manifest = write_lists(data, root, tmp_path / "kept", SplitPlan()).manifest
    assert (manifest["layout"], manifest["missing"]) == (name, data.missing)
    again = read(tmp_path / "kept", root)
    assert again == {
        split: {Path(c.source).relative_to(root).as_posix(): data.labels[c.label] for c in clips}
        for split, clips in data.items()
    }
    pooled = write_lists(data, root, tmp_path / "pool", SplitPlan(val=0.2, test=0.2, pool=True)).manifest
    assert pooled["clips"].keys() == {"train", "val", "test"}
    assert sum(pooled["clips"].values()) == sum(manifest["clips"].values())


ODD = [
    "a b.mp4",
    "it's.mp4",
    'say "hi".mp4',
    "'q'.mp4",
    '"q" it\'s.mp4',
    "[x](y){z}.mp4",
    "ü\u00a0ö.mp4",
    " edge .mp4",
    "#1;&.mp4",
]
ODD += ["back\\slash.mp4", "\u3000wide.mp4", "emoji \U0001f600.mp4", '"', "a,b.mp4", "-dash.mp4"]


def test_odd_names_read_back(tmp_path):
    root = tmp_path / "data"
    for name in ODD:
        for n in range(2):
            touch(root / f"class {n}" / name)
    data = DataSplits(
        train=[Clip(root / f"class {n}" / name, n) for name in ODD for n in range(2)], labels=["class 0", "class 1"]
    )
    write_lists(data, root, tmp_path / "out", SplitPlan(val=0.5))
    lists = read(tmp_path / "out", root)
    assert {**lists["train"], **lists["val"]} == {f"class {n}/{name}": f"class {n}" for name in ODD for n in range(2)}


def test_lines_read_back_or_are_refused():
    """Of random names of all kinds of marks; and the quick way to read a line reads as shlex does."""
    marks = "ab \t'\"\\#;\n\r\u00a0\u2028é,{"
    random_ = random.Random(0)
    refused = 0
    for _ in range(5000):
        path, label = ("".join(random_.choices(marks, k=random_.randint(1, 6))) for _ in range(2))
        line = line_of(path, label)
        if line is None:
            refused += 1
            assert set(path + label) & set("\t\n\r\u2028") or path.strip() != path or label.strip() != label
        else:
            assert line.splitlines() == [line]
            assert _fields(line.strip()) == [path, label]
    assert 1000 < refused < 4500
    for _ in range(2000):
        text = "".join(random_.choices("ab ':#\\\u00a0é\r", k=12)).strip()
        if text and not text.startswith("'"):
            lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
            lexer.whitespace_split, lexer.escape, lexer.commenters, lexer.quotes = True, "", "", '"'
            assert _fields(text) == list(lexer)


def test_names_of_classes_that_are_numbers_stand_in_the_lists_themselves(tmp_path):
    root = tmp_path / "data"
    for name in ("10", "9", "two words"):
        for n in range(3):
            touch(root / name / f"{n}.mp4")
    write_lists(read_data(root), root, tmp_path / "out", SplitPlan(val=0.4))
    assert "10/1.mp4 10\n" in (tmp_path / "out" / "train.csv").read_text() + (tmp_path / "out" / "val.csv").read_text()
    lists = read(tmp_path / "out", root)
    assert all(name.startswith(f"{label}/") for rows in lists.values() for name, label in rows.items())
    assert sum(map(len, lists.values())) == 9
    # numbers from lists without names are those of the classes
    (root / "train.csv").write_text("10/1.mp4 0\n10/2.mp4 0\n9/0.mp4 2\n9/1.mp4 2\n")
    write_lists(read_data(root), root, tmp_path / "more", SplitPlan(val=0.5))
    assert "10/" in (tmp_path / "more" / "val.csv").read_text()
    assert set(read(tmp_path / "more", root)["train"].values()) == {"0", "2"}


def test_clips_outside_the_data_folder_have_their_whole_path(data, tmp_path):
    touch(tmp_path / "else where" / "x.mp4")
    files = sorted(data.rglob("*.mp4"))
    found = DataSplits(train=[Clip(f, 0) for f in [*files, tmp_path / "else where" / "x.mp4"]], labels=["a"])
    write_lists(found, data, tmp_path / "out", SplitPlan(val=0.5))
    text = (tmp_path / "out" / "train.csv").read_text() + (tmp_path / "out" / "val.csv").read_text()
    assert f'"{tmp_path}/else where/x.mp4" 0\n' in text


def _fails(kind, message, found, root, out, plan=PLAN, **settings):
    with raises_exactly(kind, message):
        write_lists(found, root, out, plan, **settings)
    assert not Path(out).exists()


def test_names_that_no_list_can_hold(tmp_path):
    bad = ["a\tb.mp4", "a\nb.mp4", "a\u2028b.mp4", "\udce9.mp4"]
    found = DataSplits(train=[Clip(tmp_path / name, 0) for name in [*bad, "fine.mp4", "too.mp4"]], labels=["a"])
    message = (
        "paths (4) must fit into a line of a list, but these have line breaks, tabs or letters that do not. Rename them.\n"
        "  'a\\tb.mp4'\n  'a\\nb.mp4'\n  'a\\u2028b.mp4'\n  '\\udce9.mp4'"
    )
    found.test, found.train = found.train, []
    _fails(DataError, message, found, tmp_path, tmp_path / "out", SplitPlan())
    found = DataSplits(train=[Clip(tmp_path / "a.mp4", 0), Clip(tmp_path / "b.mp4", 1)], labels=["a\nb", " c"])
    message = (
        "classes ('a\\nb', ' c') must fit into a line each, without spaces at the ends, but these do not. Rename them."
    )
    _fails(DataError, message, found, tmp_path, tmp_path / "out", SplitPlan(val=0.5))


def test_clips_that_are_no_files(tmp_path):
    clip = Clip(b"12", 0)
    message = (
        f"clips (2) must be files to stand in lists, but these lie in a data set: {clip.name} and so on. "
        "Write them to files first."
    )
    _fails(DataError, message, DataSplits(train=[clip, clip], labels=["a"]), tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (SplitPlan(val=1.0), "val (1.0) must be above 0 and below 1."),
        (SplitPlan(test=-0.1), "test (-0.1) must be above 0 and below 1."),
        (
            SplitPlan(val=0.5, test=0.5),
            "val (0.5) and test (0.5) must leave clips to train on, but together they are 1 or more.",
        ),
        (SplitPlan(folds=1), "folds (1) must be at least 2."),
        (
            SplitPlan(folds=3, val=0.1),
            "val (0.1) must be left out with folds, each of which is the validation split once.",
        ),
        (
            SplitPlan(),
            "val, test or folds must be given, but none says how to divide the clips. Add --val 0.2, for example.",
        ),
        (
            SplitPlan(val=0.0, folds=0),
            "3 settings are wrong:\n  val (0.0) must be above 0 and below 1.\n  folds (0) must be at least 2.\n"
            "  val (0.0) must be left out with folds, each of which is the validation split once.",
        ),
    ],
)
def test_plans_that_cannot_be(data, tmp_path, plan, message):
    _fails(ConfigError, message, read_data(data), data, tmp_path / "out", plan)


def test_plans_that_do_not_fit_the_data(data, tmp_path):
    found = read_data(data)
    found.val, found.test = found.train[:3], found.train[3:5]
    remedy = "clips of its own. Leave it out to keep these, or divide all clips anew with --pool."
    message = (
        f"2 settings are wrong:\n  val (0.2) must be left out, but the data has 3 val {remedy}\n"
        f"  test (0.3) must be left out, but the data has 2 test {remedy}"
    )
    _fails(ConfigError, message, found, data, tmp_path / "out")
    _fails(
        ConfigError,
        f"folds (4) must be left out, but the data has 3 val {remedy}",
        found,
        data,
        tmp_path / "out",
        SplitPlan(folds=4),
    )
    message = "val, test or folds must be given, but none says how to divide the clips. Add --val 0.2, for example."
    _fails(ConfigError, message, found, data, tmp_path / "out", SplitPlan(pool=True))


def test_too_few_groups(data, tmp_path):
    message = "clips (40) must be of 3 groups or more to be divided, but they are of 2. Group them in another way by --group-by."
    _fails(DataError, message, read_data(data), data, tmp_path / "out", SplitPlan(val=0.1, test=0.1, group_by="folder"))


def test_the_command(data, tmp_path, capsys):
    words = ["lists", str(data), "--val", "0.2", "--test", "0.3", "--group-by", r"person\d\d", "--out"]
    assert cli.main([*words, str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("train               20 clips in       5 groups\n")
    use = next(line for line in shown.out.splitlines() if line.startswith("use: "))
    assert (
        cli.main(["check", str(data), *shlex.split(use)[3:], "--no-decode", "--no-progress"]) == 1
    )  # the files are empty
    assert "\njump          10    4     6" in capsys.readouterr().out
    assert cli.main([*words, str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"error: out ({tmp_path}/out) must be a new or empty folder, but there is something in it. Choose another one, or "
        "replace lists that are there by --overwrite.\n"
    )
    before = contents(tmp_path / "out")
    assert cli.main([*words, str(tmp_path / "out"), "--overwrite", "--seed", "4"]) == 0
    assert contents(tmp_path / "out").keys() == before.keys()
    assert contents(tmp_path / "out") != before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_ten_thousand_clips(tmp_path):
    """Groups of one list are in no other, and lists have all clips."""
    clips = [Clip(tmp_path / f"c{n % 101}" / f"v{n // 7}_{n}.mp4", n % 101) for n in range(10_000)]
    data = DataSplits(train=clips, labels=[f"c{n}" for n in range(101)])
    plan = SplitPlan(val=0.1, test=0.2, group_by=r"v\d+")
    manifest = write_lists(data, tmp_path, tmp_path / "out", plan).manifest
    assert sum(manifest["clips"].values()) == 10_000
    assert sum(manifest["groups"].values()) == len(range(0, 10_000, 7))
    assert all(abs(manifest["clips"][split] - count) <= 10 for split, count in (("train", 7000), ("val", 1000)))
    assert manifest["largest_deviation"][0] < 5
