"""`apt-peft evaluate`: files of scores, a restart after a kill, clips that are lost on the way, several processes."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from clips import write_clip
from helpers import flags_of, killed_when, raises_exactly
from launching import LAUNCHED, finish, start

from apt_peft import ConfigError, DataError
from apt_peft.cli import main
from apt_peft.scores.files import read_scores
from apt_peft.scores.journal import journals
from apt_peft.scoring import EvaluateSettings, evaluate_adapter, evaluating
from apt_peft.training.settings import TrainSettings
from apt_peft.training.train import train

CLASSES = ("down", "left", "up")


@pytest.fixture(scope="module")
def adapter(backbone, data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "apt"
    return train(
        TrainSettings(
            model=str(backbone), data=str(data), out=str(out), epochs=1, batch_size=4, num_prompt_tokens=3, threads=1,
            progress=False,
        )
    ).out  # fmt: skip


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """24 test clips and a list of them."""
    root = tmp_path_factory.mktemp("many")
    lines = []
    for number in range(24):
        label = CLASSES[number % 3]
        write_clip(root / label / f"{number}.mp4", seed=number, num_frames=6, width=32, height=24)
        lines.append(f"{label}/{number}.mp4 {label}\n")
    (root / "test.csv").write_text("".join(lines))
    return root


def settings(adapter: Path, data: Path, **given) -> EvaluateSettings:
    return EvaluateSettings(adapter=str(adapter), data=str(data), progress=False, **given)


def listed(root: Path, count: int, place: Path) -> str:
    """A list of the first clips."""
    lines = (root / "test.csv").read_text().splitlines(keepends=True)[:count]
    place.write_text("".join(f"{root}/{line}" for line in lines))
    return str(place)


@pytest.mark.parametrize("kind", ["safetensors", "parquet"])
def test_scores_are_saved_with_their_origin(adapter, many, tmp_path, kind, capsys):
    path = tmp_path / f"scores.{kind}"
    views = ["--segments", "2", "--crops", "3", "--per-view", "--save-scores", str(path), "--no-progress"]
    words = ["evaluate", "--adapter", str(adapter), "--data", str(many), "--test-list", str(many / "test.csv"), *views]
    assert main([*words, "--out", str(tmp_path / "out"), "--batch-size", "7"]) == 0
    printed = capsys.readouterr().out
    stored = read_scores(path)
    result = stored.result
    assert f"top-1 {result.top1:.1f} % of 24 test clips\nmean class accuracy" in printed
    assert f"scores: {path} (" in printed
    assert json.loads((tmp_path / "out" / "result.json").read_text())["top1"] == round(result.top1, 4)
    assert result.names == tuple(line.split()[0] for line in (many / "test.csv").read_text().splitlines())
    assert [CLASSES[target] for target in result.targets] == [name.split("/")[0] for name in result.names]
    assert result.logits.shape == (24, 6, 3)
    torch.testing.assert_close(result.logits.softmax(-1).mean(1), result.scores)
    origin = stored.provenance
    assert (origin["adapter"], origin["data"], origin["split"]) == (str(adapter), str(many), "test")
    assert (origin["views"]["segments"], origin["views"]["crops"], origin["precision"]) == (2, 3, "float32")
    assert origin["versions"].keys() >= {"apt-peft", "torch"}
    assert not journals(path)


def test_train_saves_the_scores_of_its_test_clips(adapter, data, tmp_path):
    stored = read_scores(adapter / "evaluation" / "scores.safetensors")
    run = json.loads((adapter / "run.json").read_text())
    assert stored.result.summary() == run["result"]["test"]
    evaluate_adapter(settings(adapter, data, out=str(tmp_path / "x"), save_scores=str(tmp_path / "a.parquet")))
    again = read_scores(tmp_path / "a.parquet")
    assert again.result.names == stored.result.names
    torch.testing.assert_close(again.result.scores, stored.result.scores)
    same = (
        "adapter",
        "adapter_fingerprint",
        "backbone",
        "backbone_fingerprint",
        "data_fingerprint",
        "views",
        "versions",
    )
    assert {name: again.provenance[name] for name in same} == {name: stored.provenance[name] for name in same}


def test_scores_beside_the_tables_are_of_the_same_evaluation(adapter, data, tmp_path):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    *_, out = evaluate_adapter(settings(copy, data, crops=3))
    assert Path(out) == copy / "evaluation"
    stored = read_scores(copy / "evaluation" / "scores.safetensors")
    assert stored.provenance["views"]["crops"] == 3
    told = json.loads((copy / "evaluation" / "result.json").read_text())
    assert {name: told[name] for name in stored.result.summary()} == stored.result.summary()
    clips = sorted((data / "test").rglob("*.mp4"))
    (tmp_path / "twice.csv").write_text("".join(f"{clip} {clip.parent.name}\n" for clip in clips + clips[:1]))
    evaluate_adapter(settings(copy, data, test_list=str(tmp_path / "twice.csv")))
    assert not (copy / "evaluation" / "scores.safetensors").exists()


def evaluated(caplog, given: EvaluateSettings) -> tuple[torch.Tensor, list[str]]:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="apt_peft"):
        evaluate_adapter(given)
    return read_scores(given.save_scores).result.scores, [m for m in caplog.messages if "scored" in m or "anew" in m]


def test_a_killed_evaluation_goes_on(adapter, many, tmp_path, caplog):
    """Killed by SIGKILL as soon as some clips are written down; then gone on with, changed, and begun anew."""
    path = tmp_path / "scores.safetensors"
    views = {"segments": 5, "crops": 2, "batch_size": 1}
    given = {
        "data": many,
        "test_list": str(many / "test.csv"),
        "out": str(tmp_path / "out"),
        "save_scores": str(path),
        **views,
    }
    words = flags_of({"adapter": adapter, "progress": False} | given)
    killed_when(lambda: sum(p.stat().st_size for p in journals(path)) >= 200, "-m", "apt_peft", "evaluate", *words)
    files = [file.name for file in tmp_path.rglob("*") if file.is_file()]
    assert files == ["scores.safetensors.journal-0"], "no half file, no tables"
    left = journals(path)[0].read_bytes()

    def again(**changes) -> tuple[torch.Tensor, list[str]]:
        return evaluated(caplog, settings(adapter, **(given | changes)))

    whole, _ = again(save_scores=str(tmp_path / "whole.safetensors"))
    scores, told = again()
    (line,) = told
    done = int(line.split(": ")[1].split(" of 24 ")[0])
    assert line == f"Going on with an evaluation that was cut short: {done} of 24 clips are scored."
    assert 0 < done < 24
    assert torch.equal(scores, whole), "each view was a batch of its own"
    assert not journals(path)
    for changes in ({"resume": False}, {"crops": 1}, {"per_view": True}):
        (tmp_path / "scores.safetensors.journal-3").write_bytes(left)
        _, told = again(**changes)
        assert told == [
            "Scoring all clips anew: what an earlier evaluation left is of other settings, or is not wanted."
        ]
        assert not journals(path)
    clip = many / "down" / "0.mp4"
    content = clip.read_bytes()
    clip.write_bytes(content)  # the same again, but who knows
    (tmp_path / "scores.safetensors.journal-3").write_bytes(left)
    assert again()[1][0].startswith("Scoring all clips anew")


def test_scores_of_one_view_are_not_taken_for_its_logits(adapter, many, tmp_path, monkeypatch, caplog):
    """Both are one row a clip, so that shapes don't tell a journal of the one from that of the other."""
    given = {"test_list": listed(many, 4, tmp_path / "list.csv"), "out": str(tmp_path / "out")}
    path = str(tmp_path / "scores.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "forget", lambda place: None)  # as if it had been killed at the end
        scores, _ = evaluated(caplog, settings(adapter, many, save_scores=path, **given))
    assert journals(Path(path))
    again, told = evaluated(caplog, settings(adapter, many, save_scores=path, per_view=True, **given))
    assert told == ["Scoring all clips anew: what an earlier evaluation left is of other settings, or is not wanted."]
    assert torch.allclose(again, scores, atol=1e-6)


def test_clips_that_cannot_be_read_are_kept_in_mind(adapter, many, tmp_path, monkeypatch, caplog):
    """One is no video; one goes away after all were looked at."""
    (tmp_path / "data" / "up").mkdir(parents=True)
    bad, gone = (tmp_path / "data" / "up" / name for name in ("bad.mp4", "gone.mp4"))
    bad.write_bytes(b"no video")
    gone.write_bytes((many / "up" / "2.mp4").read_bytes())
    good = listed(many, 4, tmp_path / "list.csv")
    lines = Path(good).read_text().splitlines()
    Path(good).write_text("\n".join([lines[0], f"{gone} up", *lines[1:], f"{bad} up"]))
    look = evaluating.look_over

    def look_and_lose(*given):
        found = look(*given)
        gone.unlink()
        return found

    monkeypatch.setattr(evaluating, "look_over", look_and_lose)
    path = tmp_path / "s.parquet"
    given = {"test_list": good, "out": str(tmp_path / "o"), "save_scores": str(path)}
    evaluate_adapter(settings(adapter, tmp_path, on_error="skip", **given))
    stored = read_scores(path).result
    assert len(stored.names) == 4
    assert stored.skipped == (str(gone), str(bad))
    assert [line.split(":")[0] for line in caplog.messages] == [f"Skipped {bad}", f"Skipped {gone}"]
    result = json.loads((tmp_path / "o" / "result.json").read_text())
    assert (result["clips"], result["skipped"]) == (4, 2)
    gone.write_bytes((many / "up" / "2.mp4").read_bytes())
    Path(good).write_text("\n".join([lines[0], f"{gone} up"]))
    with raises_exactly(
        DataError, f"video ({gone}) must be a readable video file, but opening it failed: no such file or directory."
    ):
        evaluate_adapter(settings(adapter, tmp_path, **given))
    gone.write_bytes((many / "up" / "2.mp4").read_bytes())
    Path(good).write_text(f"{gone} up")
    with raises_exactly(
        DataError,
        "videos (1 of 1) must be readable, but these are not. Repair them.\n"
        f"  {gone}: opening it failed: no such file or directory",
    ):
        evaluate_adapter(settings(adapter, tmp_path, on_error="skip", **given))


def test_what_would_fail_at_the_end_is_refused_at_the_start(adapter, many, tmp_path):
    with raises_exactly(
        ConfigError,
        "per_view (True) must go with save_scores, for the logits are written there. Add --save-scores FILE.",
    ):
        settings(adapter, many, per_view=True)
    with raises_exactly(
        ConfigError, "save_scores (s.npy) must end in .safetensors or .parquet, which says how it is written."
    ):
        evaluate_adapter(settings(adapter, many, save_scores="s.npy"))
    twice = tmp_path / "twice.csv"
    twice.write_text(f"{many}/down/0.mp4 down\n{many}/left/1.mp4 left\n{many}/down/0.mp4 down\n")
    path = tmp_path / "s.parquet"
    with raises_exactly(
        DataError,
        f"save_scores ({path}) must tell clips by their names, but 1 stand in the data more than once: down/0.mp4. "
        "Take them out of the list.",
    ):
        evaluate_adapter(settings(adapter, many, test_list=str(twice), save_scores=str(path)))
    path.mkdir()
    for place, reason in ((path, "it is a folder"), (twice / "s.parquet", "file exists")):
        with raises_exactly(
            ConfigError,
            f"save_scores ({place}) must be a file that can be written, but: {reason}. Choose another place.",
        ):
            evaluate_adapter(settings(adapter, many, test_list=listed(many, 2, tmp_path / "l"), save_scores=str(place)))
    assert not journals(path)


# ------------------------------------------------------------------------------------------------- several processes


def steps(adapter: Path, many: Path, place: Path, tmp_path: Path) -> dict[str, dict]:
    """Settings by name: 1 to 7 clips, each view a batch of its own or not; and clips that cannot be read."""
    damaged = tmp_path / "damaged"
    damaged.mkdir(exist_ok=True)
    for number in (0, 1, 3):
        (damaged / f"{number}.mp4").write_bytes(b"no video")
    found = {}
    for count in range(1, 8):
        found[f"{count}"] = {"test_list": listed(many, count, tmp_path / f"{count}.csv"), "batch_size": 1}
    found["full batches"] = {"test_list": listed(many, 7, tmp_path / "7.csv"), "batch_size": 4, "per_view": True}
    lines = [f"{damaged}/{number}.mp4 up\n" for number in (0, 1)] + [f"{many}/up/2.mp4 up\n", f"{damaged}/3.mp4 up\n"]
    (tmp_path / "damaged.csv").write_text("".join(lines))
    found["skip"] = {"test_list": str(tmp_path / "damaged.csv"), "on_error": "skip"}
    found["stop"] = {"test_list": str(tmp_path / "damaged.csv")}
    base = {"adapter": str(adapter), "data": str(many), "progress": False, "segments": 2, "device": "cpu"}
    return {
        name: base | {"save_scores": str(place / f"{name}.safetensors"), "out": str(place / name), **values}
        for name, values in found.items()
    }


@pytest.mark.parametrize("processes", [2, 3])
def test_each_clip_is_scored_once_whatever_the_number_of_processes(adapter, many, tmp_path, processes):
    one, several = tmp_path / "one", tmp_path / "several"
    report = tmp_path / "report.jsonl"
    jobs = steps(adapter, many, several, tmp_path)
    lines = [json.dumps({"do": "evaluate", "changes": values}) for values in jobs.values()]
    process = start(LAUNCHED, report, *lines, processes=processes)
    alone = {}
    for name, values in steps(adapter, many, one, tmp_path).items():
        try:
            evaluate_adapter(EvaluateSettings(**values))
            alone[name] = read_scores(one / f"{name}.safetensors")
        except DataError as error:
            alone[name] = str(error)
    printed = finish(process)
    assert process.returncode == 0, printed
    found = dict(zip(jobs, map(json.loads, report.read_text().splitlines()), strict=True))
    assert [part["error"] for part in found.pop("stop")] == [f"DataError: {alone.pop('stop')}"] * processes
    for name, parts in found.items():
        wanted, stored = alone[name].result, read_scores(several / f"{name}.safetensors").result
        assert (stored.names, stored.skipped) == (wanted.names, wanted.skipped)
        assert torch.equal(stored.targets, wanted.targets)
        if name == "full batches":
            torch.testing.assert_close(stored.scores, wanted.scores, rtol=0, atol=1e-6)
            torch.testing.assert_close(stored.logits, wanted.logits, rtol=0, atol=1e-5)
        else:
            assert torch.equal(stored.scores, wanted.scores), "the same views, each in a batch of its own"
        for part in parts:
            assert tuple(part["names"]) == wanted.names
            assert part["scores"] == stored.scores.tolist()
            assert part["top1"] == wanted.top1
        assert [part["files"] > 0 for part in parts] == [True] + [False] * (processes - 1), "one process writes"
        tables = [sorted(file.name for file in (place / name).iterdir()) for place in (one, several)]
        assert tables[0] == tables[1]
        if name != "full batches":
            assert (one / name / "result.json").read_text() == (several / name / "result.json").read_text()
    assert len(alone["skip"].result.names) == 1
    assert not list(several.glob("*.journal-*"))


def test_the_command_prints_once(adapter, many, tmp_path):
    words = [
        "--adapter",
        adapter,
        "--data",
        many,
        "--test-list",
        listed(many, 3, tmp_path / "l.csv"),
        "--device",
        "cpu",
    ]
    process = start("-m", "apt_peft", "evaluate", *words, "--out", tmp_path / "out", "--no-progress")
    printed = finish(process)
    assert process.returncode == 0, printed
    assert printed.count("top-1 ") == printed.count("tables and confusion.png") == 1
