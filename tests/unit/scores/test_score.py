"""`apt-peft score`: numbers against plain computations, differences, ensembles, and files that do not go together."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import raises_exactly
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from apt_peft import ConfigError, DataError
from apt_peft.cli import main
from apt_peft.commands.score import ScoreSettings
from apt_peft.scores.compare import ensemble, groups_of, read_together
from apt_peft.scores.files import read_scores, save_scores
from apt_peft.scores.intervals import bootstrap
from apt_peft.scores.metric import difference
from apt_peft.scores.result import EvaluationResult
from apt_peft.video import Clip
from apt_peft.video.groups import group_clips

LABELS = tuple("lmnopqr")


def result(seed: int, gain: float = 1.0, clips: int = 60) -> EvaluationResult:
    """Scores of the same clips, of models that agree in part."""
    targets = torch.arange(clips) % len(LABELS)
    logits = torch.randn(clips, len(LABELS), generator=torch.Generator().manual_seed(0))
    logits += 0.5 * torch.randn(clips, len(LABELS), generator=torch.Generator().manual_seed(seed))
    logits[range(clips), targets] += gain
    names = tuple(f"v_g{number // 3:02}_c{number % 3}.mp4" for number in range(clips))
    return EvaluationResult(LABELS, names, targets, logits.softmax(1), ("gone.mp4",), logits[:, None])


@pytest.fixture
def files(tmp_path) -> list[str]:
    """Three files; the clips and the classes of the second stand in another order."""
    paths = [str(tmp_path / name) for name in ("a.safetensors", "b.parquet", "c.safetensors")]
    first, second, third = (result(seed, gain) for seed, gain in ((1, 0.6), (2, 1.4), (3, 0.8)))
    rows, columns = (torch.randperm(count, generator=torch.Generator().manual_seed(0)) for count in (60, 7))
    place = columns.argsort()
    save_scores(paths[0], first, {"adapter": "first"})
    moved = EvaluationResult(
        tuple(LABELS[column] for column in columns),
        tuple(second.names[row] for row in rows),
        place[second.targets[rows]],
        second.scores[rows][:, columns],
        (),
        second.logits[rows][:, :, columns],
    )
    save_scores(paths[1], moved, {"adapter": "second"})
    save_scores(paths[2], third, {"adapter": "third"})
    return paths


def told(capsys, *words: str) -> dict:
    assert main(["score", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_numbers_intervals_and_confusions_come_from_the_files_alone(files, capsys):
    found = told(capsys, *files)
    for path, item in zip(files, found["files"], strict=True):
        alone = read_scores(path).result
        predicted = alone.scores.argmax(1)
        values = {name: numbers["value"] for name, numbers in item["metrics"].items()}
        assert values["top1"] == pytest.approx(100 * accuracy_score(alone.targets, predicted))
        assert values["mean_class_accuracy"] == pytest.approx(100 * balanced_accuracy_score(alone.targets, predicted))
        rows = alone.scores.double().numpy()
        assert values["loss"] == pytest.approx(log_loss(alone.targets, rows / rows.sum(1, keepdims=True)))
        assert (item["clips"], item["classes"], item["file"]) == (60, 7, path)
        assert np.trace(item["confusion"]) == (predicted == alone.targets).sum()
    first = read_scores(files[0]).result
    for name, numbers in found["files"][0]["metrics"].items():
        interval = bootstrap(first.metrics[name])
        assert (numbers["low"], numbers["high"], numbers["method"]) == (interval.low, interval.high, interval.method)
    assert found["files"][0]["provenance"] == {"adapter": "first"}
    assert found["files"][0]["skipped"] == ["gone.mp4"]
    assert found["drawing"] == {"level": 0.95, "samples": 2000, "seed": 0, "method": None, "groups": None}


def test_reordered_files_are_matched_by_name_and_compared_in_pairs(files, capsys):
    found = told(
        capsys, files[0], files[1], "--samples", "500", "--seed", "3", "--level", "0.9", "--method", "percentile"
    )
    (apart,) = found["differences"]
    assert (apart["file"], apart["minus"]) == (files[1], files[0])
    assert set(apart["metrics"]) == {"top1", "top5", "mean_class_accuracy", "loss"}
    first, second = result(1, 0.6), result(2, 1.4)
    for name, numbers in apart["metrics"].items():
        metric = difference(second.metrics[name], first.metrics[name])
        interval = bootstrap(metric, samples=500, seed=3, level=0.9, method="percentile")
        assert numbers["value"] == pytest.approx(metric.value, abs=1e-4)
        assert (numbers["low"], numbers["high"]) == pytest.approx((interval.low, interval.high), abs=1e-4)
        assert numbers["significant"] == (not interval.low <= 0 <= interval.high)
    assert apart["metrics"]["loss"]["significant"]
    together = read_together(files[:2])
    torch.testing.assert_close(together[1].result.scores, second.scores)
    torch.testing.assert_close(together[1].result.logits, second.logits)


def test_a_file_is_not_better_than_itself(files, capsys):
    assert main(["score", files[0], files[0]]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": no significant difference") == 4
    assert "  top-1               +0.0 % (+0.0 to +0.0): no significant difference\n" in printed


@pytest.mark.parametrize("mean", ["probabilities", "logits"])
def test_ensembles(files, tmp_path, capsys, mean):
    out = tmp_path / "together.parquet"
    found = told(capsys, *files, "--ensemble", mean, "--weights", "1", "2", "0.5", "--out", str(out))
    stored = read_scores(out)
    logits = np.stack([result(seed, gain).logits[:, 0].double() for seed, gain in ((1, 0.6), (2, 1.4), (3, 0.8))])
    weights = np.array([1, 2, 0.5])[:, None, None] / 3.5
    wanted = (
        (weights * softmax(logits, -1)).sum(0) if mean == "probabilities" else softmax((weights * logits).sum(0), -1)
    )
    np.testing.assert_allclose(stored.result.scores, wanted, atol=1e-6)
    assert stored.result.names == result(1).names
    assert stored.result.skipped == ("gone.mp4",)
    assert found["ensemble"]["file"] == str(out)
    assert found["ensemble"]["metrics"]["top1"]["value"] == stored.result.top1
    assert [item["file"] for item in found["differences"]] == [*files[1:], str(out)]
    assert (stored.provenance["ensemble"], stored.provenance["weights"]) == (mean, [1, 2, 0.5])
    assert [member["provenance"]["adapter"] for member in stored.provenance["members"]] == ["first", "second", "third"]
    again = told(capsys, str(out))
    assert again["files"][0]["metrics"] == found["ensemble"]["metrics"]


def test_an_ensemble_of_one_model_is_that_model(files):
    one = read_scores(files[0]).result
    for mean in ("probabilities", "logits"):
        torch.testing.assert_close(ensemble([one, one], mean=mean).scores, one.scores, rtol=0, atol=1e-6)
        other = result(9)
        torch.testing.assert_close(
            ensemble([one, other], mean=mean, weights=[2, 0]).scores, one.scores, rtol=0, atol=1e-6
        )
    sure = replace(one, scores=torch.eye(7)[torch.zeros(60, dtype=torch.long)])
    other = replace(one, scores=torch.eye(7)[torch.ones(60, dtype=torch.long)])
    mixed = ensemble([sure, other], mean="logits").scores
    assert (
        mixed[0, 0] == mixed[0, 1] == pytest.approx(np.exp(log_softmax(np.log([1, 1] + [1e-12] * 5) / 2))[0], abs=1e-6)
    )


def test_groups(files, tmp_path, capsys):
    """By the same flag, in the same way, as `apt-peft lists` divides clips."""
    names = result(1).names
    wanted = [f"g{number // 3:02}" for number in range(60)]
    found = told(capsys, files[0], "--group-by", "_(g[0-9]+)_")
    interval = bootstrap(read_scores(files[0]).result.metrics["top1"], groups=wanted)
    numbers = found["files"][0]["metrics"]["top1"]
    assert (numbers["low"], numbers["high"]) == (interval.low, interval.high)
    assert found["drawing"]["groups"] == 20
    listed = tmp_path / "groups.txt"
    listed.write_text("".join(f"{name} {group}\n" for name, group in zip(names, wanted, strict=True)) + "\nother x\n")
    assert told(capsys, files[0], "--group-by", str(listed))["files"] == found["files"]
    assert main(["score", files[0], "--group-by", str(listed)]) == 0
    assert capsys.readouterr().out.endswith("95 % intervals, bootstrap over 20 groups of clips (2000 draws, seed 0).\n")
    clips = [Clip(Path("/data") / name, 0) for name in names]
    for group_by in ("_(g[0-9]+)_", "g[0-9](.)_(c.)", str(listed)):
        assert groups_of(result(1), group_by) == group_clips(clips, "/data", group_by=group_by)[0]
    with pytest.raises(ConfigError, match=r"^group_by .* but it finds nothing in 60 of 60: v_g00_c0\.mp4, "):
        groups_of(result(1), "_x")


@pytest.mark.parametrize("suffix", ["safetensors", "parquet"])
def test_groups_that_scores_were_saved_with(suffix, files, tmp_path, capsys):
    """As of clips in shards, whose names tell nothing any more; they follow the clips into another order."""
    videos = tuple(f"video {number // 4}" for number in range(60))
    path, other = str(tmp_path / f"with.{suffix}"), files[1]
    save_scores(path, replace(result(1, 0.6), groups=videos))
    assert read_scores(path).result.groups == videos
    found = told(capsys, path, "--group-by", "auto")
    interval = bootstrap(read_scores(path).result.metrics["top1"], groups=videos)
    numbers = found["files"][0]["metrics"]["top1"]
    assert (numbers["low"], numbers["high"]) == (interval.low, interval.high)
    assert found["drawing"]["groups"] == 15
    assert told(capsys, path)["drawing"]["groups"] is None
    assert read_together([other, path])[1].result.groups == tuple(
        videos[int(name[3:5]) * 3 + int(name[7])] for name in read_scores(other).result.names
    )
    assert main(["score", other, "--group-by", "auto"]) == 0
    shown = capsys.readouterr()
    assert "Nothing tells which clips were cut from one video: clips are drawn one by one.\n" in shown.err
    assert "bootstrap over clips" in shown.out
    with raises_exactly(
        DataError,
        f"scores ({path}) must be ones that can be counted on, but there are 59 groups of 60 clips. Save them again.",
    ):
        save_scores(path, replace(result(1), groups=videos[1:]))


def test_the_printed_report(files, capsys):
    assert main(["score", files[0], files[1]]) == 0
    lines = capsys.readouterr().out.splitlines()
    values = read_scores(files[0]).result.values
    assert lines[0] == f"{files[0]}: 60 clips, 7 classes"
    assert lines[1].startswith(f"  top-1               {values['top1']:.1f} % (")
    assert lines[5].startswith(f"  loss                {values['loss']:.3f} (")
    assert lines[6].startswith("  most often wrong: ")
    assert lines[7] == "  1 clips were left out, for they could not be read: gone.mp4"
    assert f"{files[1]} minus {files[0]}" in lines
    assert lines[-1] == "In brackets: 95 % intervals, bootstrap over clips (2000 draws, seed 0)."


def test_one_clip_has_no_interval(tmp_path, capsys):
    path = tmp_path / "one.safetensors"
    save_scores(path, result(1, clips=1))
    assert told(capsys, str(path))["files"][0]["metrics"]["top1"]["low"] is None
    assert main(["score", str(path), str(path)]) == 0
    assert "(" not in capsys.readouterr().out.split("\n")[1]


def saved(path, change) -> str:
    save_scores(path, change)
    return str(path)


def test_files_that_do_not_go_together(files, tmp_path):
    one = read_scores(files[0]).result
    start = f"scores ({files[0]}, {{}}) must be of the same clips, classes and true labels, but:\n"
    fewer = EvaluationResult(
        LABELS, (*one.names[2:], "new.mp4"), one.targets[1:], one.scores[1:], (f"/x/{one.names[0]}",)
    )
    path = saved(tmp_path / "fewer.safetensors", fewer)
    with raises_exactly(
        DataError,
        start.format(path) + f"  {path} lacks 2 clips: v_g00_c0.mp4, v_g00_c1.mp4, of which 1 could not be read there\n"
        f"  {files[0]} lacks 1 clips: new.mp4",
    ):
        read_together([files[0], path])
    path = saved(tmp_path / "classes.safetensors", replace(one, labels=("k", *LABELS[1:])))
    with raises_exactly(
        DataError, start.format(path) + f"  {path} lacks 1 classes: l\n  {files[0]} lacks 1 classes: k"
    ):
        read_together([files[0], path])
    targets = one.targets.clone()
    targets[3] = 5
    path = saved(tmp_path / "targets.safetensors", replace(one, targets=targets))
    with raises_exactly(
        DataError,
        start.format(path) + f"  {files[0]} and {path} have other true labels for 1 clips: v_g01_c0.mp4 (o and q)",
    ):
        read_together([files[0], path])


def test_all_files_that_cannot_be_counted_on_are_named(files, tmp_path):
    broken = [tmp_path / "x.safetensors", tmp_path / "y.parquet"]
    told = []
    for path in broken:
        path.write_bytes(b"half")
        with pytest.raises(DataError) as raised:
            read_together([str(path)])
        told.append(str(raised.value))
    with raises_exactly(DataError, "\n".join(told)):
        read_together([str(broken[0]), files[0], str(broken[1])])


def test_settings_that_do_not_go_together():
    two = ("a.parquet", "b.parquet")
    alone = "must go with ensemble, for it is about several files together. Add --ensemble."
    for values, message in (
        (
            {"weights": (1, 2)},
            f"weights ((1.0, 2.0)) {alone}",
        ),
        (
            {"out": "x.parquet"},
            f"out (x.parquet) {alone}",
        ),
        ({"level": 95}, "level (95) must be above 0 and below 1."),
        ({"samples": 10}, "samples (10) must be at least 100."),
        ({"files": ()}, "files (()) must be one text or more."),
    ):
        with raises_exactly(ConfigError, message):
            ScoreSettings(**{"files": two} | values)
    with raises_exactly(ConfigError, "ensemble (logits) must be of two files or more, but there is one."):
        ScoreSettings(files=two[:1], ensemble="logits")
    with raises_exactly(
        ConfigError, "weights (1, 2, 3) must be one for each of the 2 files, none below 0 and one above it."
    ):
        ensemble([result(1), result(2)], weights=[1, 2, 3])
    with raises_exactly(
        ConfigError, "weights (1, -1) must be one for each of the 2 files, none below 0 and one above it."
    ):
        ensemble([result(1), result(2)], weights=[1, -1])


def test_no_files_at_all(capsys):
    assert main(["score"]) == 2
    assert capsys.readouterr().err == "error: files must be given. Add FILE.\n"
