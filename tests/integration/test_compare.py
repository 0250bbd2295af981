"""Real comparisons of tiny models: from flags to the table, after a kill, and against those who would look at the test twice."""

import csv
import json
import math
import shutil
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from helpers import flags_of, killed_when, raises_exactly
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from apt_peft.cli import main
from apt_peft.comparison import CompareSettings, Ledger, compare, notes
from apt_peft.comparison.notes import _far_from_matched, _few_to_choose_on
from apt_peft.comparison.plan import make_plan
from apt_peft.comparison.ratios import measure
from apt_peft.comparison.run import _score, _Trained
from apt_peft.comparison.search import Score, first_points
from apt_peft.comparison.table import as_text, read_results, rows_of
from apt_peft.comparison.trials import TRIAL, Job, Runner, do
from apt_peft.comparison.tuning import CHOICE, Choice, score_of, tune
from apt_peft.errors import CheckpointError, ConfigError, DataError
from apt_peft.training.settings import TrainSettings

SEEDS, BUDGET = 2, 4


def settings_of(backbone, data, out, **changes):
    own = {"model": str(backbone), "data": str(data), "out": str(out)}
    given = {"methods": "linear,apt:2", "seeds": SEEDS, "budget_trials": BUDGET, "samples": 200, "ratio_rounds": 0}
    shared = TrainSettings(**own, epochs=1, batch_size=4, threads=1, val_fraction=0.25, progress=False)
    return CompareSettings(**own, **(given | changes)), shared


@pytest.fixture(scope="module")
def done(backbone, data, tmp_path_factory):
    """A comparison that nothing disturbed, and its settings."""
    settings = settings_of(backbone, data, tmp_path_factory.mktemp("compare") / "out")
    return compare(*settings), settings


def stored(out, method, seed):
    """Scores and labels of a run, read without this package."""
    with safe_open(out / "test" / method.replace(":", "=") / f"seed-{seed}.safetensors", "np") as file:
        return file.get_tensor("scores"), file.get_tensor("targets")


def events(out):
    return [(record["event"], record["method"], record["seed"]) for record in Ledger(out / "ledger.jsonl").records()]


def test_the_table_against_numbers_written_out(done):
    result, _ = done
    means = {}
    for row in result.rows:
        of_seeds = []
        for seed in range(SEEDS):
            scores, targets = stored(result.out, row.name, seed)
            of_seeds.append(100 * float(np.mean(np.argmax(scores, axis=1) == targets)))
        assert row.seeds == pytest.approx(of_seeds)
        means[row.name] = sum(of_seeds) / SEEDS
        assert row.top1 == pytest.approx(means[row.name])
        assert row.low <= row.top1 <= row.high
    linear, apt = result.rows
    assert linear.difference == pytest.approx(means["linear"] - means["apt:2"])
    assert (apt.difference, apt.verdict) == (None, "the reference")
    holds = linear.difference_low <= 0 <= linear.difference_high
    assert (linear.verdict == "no significant difference") == holds
    run = json.loads((result.out / "runs" / "apt=2" / "seed-0" / "run.json").read_text())
    assert apt.trained_parameters == run["trained_parameters"]
    assert apt.trained_parameters - apt.beside_head == linear.trained_parameters
    assert linear.beside_head == 0
    weights = result.out / "runs" / "apt=2" / "seed-0" / "adapter_model.safetensors"
    assert apt.stored_bytes == weights.stat().st_size


def test_the_best_of_equally_many_trials_was_chosen(done):
    result, _ = done
    lines = read_results(result.out)
    for row in result.rows:
        trials = [line for line in lines if line["kind"] == "trial" and line["method"] == row.name]
        assert len(trials) == BUDGET
        rates = [next(iter(line["rates"].values())) for line in trials]
        assert math.log10(max(rates) / min(rates)) == pytest.approx(3)
        losses = {tuple(line["rates"].items()): (line["top1"], -line["parts"][0]["loss"]) for line in trials}
        best = max(losses, key=lambda key: losses[key])
        assert dict(best) == row.rates
        for line in trials:
            name = ",".join(f"{axis}={rate:g}" for axis, rate in line["rates"].items())
            folder = result.out / "trials" / row.name.replace(":", "=") / name / "part-1"
            run = json.loads((folder / "run.json").read_text())
            assert line["top1"] == [entry["eval_top1"] for entry in run["history"] if "eval_top1" in entry][-1]
            assert run["result"]["test"] is None
            assert run["data"]["clips"] == {"training": 9, "validation": 3, "test": 0}
            assert len([entry for entry in run["history"] if "eval_top1" in entry]) == 1, (
                "what counts is the last epoch"
            )
        edge = row.rates[next(iter(row.rates))] in (min(rates), max(rates))
        assert bool(row.edges) == edge
        assert any(f"WARNING: {row.name} is NOT TUNED" in note for note in result.notes) == edge
    for seed in range(SEEDS):
        run = json.loads((result.out / "runs" / "linear" / f"seed-{seed}" / "run.json").read_text())
        assert run["data"]["clips"] == {"training": 12, "validation": 0, "test": 0}
        assert (run["settings"]["seed"], run["settings"]["head_lr"]) == (seed, result.rows[0].rates["head_lr"])


def test_a_head_whose_rate_was_not_reached_is_told(done):
    result, _ = done
    assert len({line["rates"]["head_lr"] for line in read_results(result.out) if line.get("method") == "apt:2"}) == 1
    assert (
        "WARNING: the head's rate of apt:2 is NOT TUNED: the budget was spent on their own rate. Take more --budget-trials in "
        "another --out."
    ) in result.notes
    assert {row.clips for row in result.rows} == {6}


def test_contenders_far_from_what_they_were_matched_to_are_named(done):
    result, (own, shared) = done
    plan = make_plan(replace(own, match_parameters="204"), shared)
    assert _far_from_matched(plan, result.rows) == []
    (note,) = _far_from_matched(make_plan(replace(own, match_parameters="300"), shared), result.rows)
    assert note == "Matched to 300 parameters beside the head; more than 10% away: apt:2 (204)."


def test_few_clips_to_choose_rates_on_are_told(done, monkeypatch):
    result, (own, shared) = done
    (note,) = _few_to_choose_on(make_plan(own, shared))
    listed = len((result.out / "lists" / "val.csv").read_text().splitlines())
    assert note.startswith(f"Rates were chosen on {listed} clips, where one clip is {100 / listed:.1f} points:")
    assert note.endswith("Take --folds, which validates on every training clip.")
    assert note in result.notes
    trained = len((result.out / "lists" / "train.csv").read_text().splitlines())
    (note,) = _few_to_choose_on(make_plan(replace(own, folds=2), shared))
    assert note.startswith(f"Rates were chosen on {trained + listed} clips")
    assert note.endswith("Gather more clips.")
    monkeypatch.setattr(notes, "FEW", trained + listed)
    assert _few_to_choose_on(make_plan(replace(own, folds=2), shared)) == []


def test_every_touch_stands_in_the_ledger_after_all_training(done):
    result, _ = done
    expected = [
        (event, name, seed) for name in ("linear", "apt:2") for seed in range(SEEDS) for event in ("touch", "scored")
    ]
    assert events(result.out) == expected
    first = (result.out / "ledger.jsonl").read_text().splitlines()[0]
    trained = [json.loads(path.read_text())["finished"] for path in result.out.glob("runs/*/*/run.json")]
    assert len(trained) == 2 * SEEDS
    assert max(trained) <= json.loads(first)["time"]


def test_files(done):
    result, _ = done
    assert {path.name for path in result.files} == {
        *("results.jsonl", "table.md", "accuracy-parameters.png", "accuracy-parameters.svg"),
        *(path.name for path in result.files if path.name.startswith("accuracy-cost.")),
    }
    assert all(path.stat().st_size > 0 for path in result.files)
    table = (result.out / "table.md").read_text().splitlines()
    rows = list(csv.reader([line.strip("| ") for line in table[:4]], delimiter="|"))
    assert [row[0].strip() for row in rows] == ["method", "---", "linear", "apt:2"]
    assert not list(result.out.glob("trials/**/*.safetensors")), "weights of trials are of no use"
    assert not list(result.out.glob("**/checkpoints")), "nor checkpoints of finished runs"
    assert "no significant difference" in result.text or "worse" in result.text or "better" in result.text


def test_features_of_the_head_alone_are_those_of_each_epochs_draw(done, quick):
    """A trial from stored features against a run of `train` that reads the clips in each epoch."""
    _, (own, shared) = done
    plan = make_plan(own, replace(shared, epochs=3))
    job = plan.trial(plan.contenders[0], (0.32,), 1)
    assert job.settings["feature_views"] == 3
    plain = {"feature_cache": None, "feature_views": None, "cache": "none", "cache_limit": None}
    losses = []
    for number, changes in enumerate(({}, plain)):
        settings = job.settings | {"out": f"{quick().out}-{number}"} | changes
        losses.append(do(Job(TRIAL, "linear", settings)))
    assert losses[0]["top1"] == losses[1]["top1"]
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], abs=1e-5)


def test_short_trials_have_a_whole_schedule(done):
    _, (own, shared) = done
    plan = make_plan(replace(own, trial_epochs=2), replace(shared, epochs=8, warmup_epochs=2.0, warmup_fraction=None))
    job = plan.trial(plan.contenders[1], (0.1, 0.01), 1)
    assert {name: job.settings[name] for name in ("epochs", "warmup_epochs", "validate_every")} == {
        "epochs": 2, "warmup_epochs": 0.5, "validate_every": 2,
    }  # fmt: skip
    run = plan.run(plan.contenders[1], (0.1, 0.01), 0)
    assert {name: run.settings[name] for name in ("epochs", "warmup_epochs", "validate_every")} == {
        "epochs": 8, "warmup_epochs": 2.0, "validate_every": 1,
    }  # fmt: skip


def test_again_changes_nothing(done):
    result, settings = done
    before = {name: (result.out / name).read_bytes() for name in ("ledger.jsonl", "results.jsonl", "table.md")}
    again = compare(*settings)
    assert again.rows == result.rows
    assert {name: (result.out / name).read_bytes() for name in before} == before


@contextmanager
def as_before(*paths):
    """Put files back as they were."""
    held = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, content in held.items():
            path.write_bytes(content)


def test_deleted_scores_do_not_open_the_test_split(done):
    result, settings = done
    scores = result.out / "test" / "apt=2" / "seed-1.safetensors"
    message = (
        f"test split (of apt:2, seed 1) must be touched once, but its scores ({scores}) are gone. Put it back, or open the split "
        "again by --forget apt:2, which is recorded."
    )
    with as_before(scores):
        scores.unlink()
        with raises_exactly(ConfigError, message):
            compare(*settings)
    assert len(events(result.out)) == 4 * SEEDS


def test_a_touch_that_was_killed_is_ended_once(done):
    result, settings = done
    ledger, scores = result.out / "ledger.jsonl", result.out / "test" / "apt=2" / "seed-1.safetensors"
    plan = result.out / "plan.json"
    with as_before(ledger, scores, plan):
        before = stored(result.out, "apt:2", 1)[0]
        # The seal comes after the last touch.
        plan.write_text(json.dumps({name: v for name, v in json.loads(plan.read_text()).items() if name != "sealed"}))
        ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-1]))
        scores.unlink()
        assert compare(*settings).rows == result.rows
        assert events(result.out)[-3:] == [(event, "apt:2", 1) for event in ("touch", "resume", "scored")]
        assert np.array_equal(stored(result.out, "apt:2", 1)[0], before)


def test_forgetting_is_said_in_the_table(done):
    result, (own, shared) = done
    kept = [result.out / name for name in ("ledger.jsonl", "results.jsonl", "table.md", "plan.json")]
    kept += [result.out / "test" / "linear" / f"seed-{seed}.safetensors" for seed in range(SEEDS)]
    with as_before(*kept):
        again = compare(CompareSettings(**own.as_dict() | {"forget": "linear"}), shared)
        assert [event for event, name, _ in events(result.out) if name == "linear"][4:] == [
            *["forget"] * SEEDS, *["touch", "scored"] * SEEDS,
        ]  # fmt: skip
        assert again.notes[-1] == (
            "WARNING: the test split was touched MORE THAN ONCE, by --forget: linear (2 runs). These numbers flatter."
        )


def test_what_is_added_after_the_test_is_told(done):
    result, (own, shared) = done
    kept = [result.out / name for name in ("ledger.jsonl", "results.jsonl", "table.md", "plan.json")]
    with as_before(*kept):
        again = compare(replace(own, methods="linear", reference="linear", seeds=SEEDS + 1), shared)
        assert (
            "WARNING: added AFTER THE TEST SPLIT WAS TOUCHED, so that its scores may have led to it: linear seed 2."
            in again.notes
        )
        assert again.notes[-1] == "WARNING: LEFT OUT of this table, though their test scores have been seen: apt:2."
    with as_before(*kept):
        fewer = compare(replace(own, seeds=1), shared)
        assert fewer.notes[-1] == (
            "WARNING: LEFT OUT of this table, though their test scores have been seen: linear seed 1; apt:2 seed 1."
        )
        assert "One seed: the intervals tell of the clips, and nothing of what another seed would do." in fewer.notes
    assert not any("LEFT OUT" in note for note in result.notes)
    assert not any("AFTER" in note for note in result.notes)


@pytest.mark.parametrize("cheat", ["deleted", "cut", "written anew"])
def test_a_ledger_that_lost_lines_with_their_scores(done, cheat, tmp_path):
    result, settings = done
    ledger, scores = result.out / "ledger.jsonl", list(result.out.glob("test/*/*.safetensors"))
    lines = ledger.read_bytes().splitlines(keepends=True)
    with as_before(ledger, *scores):
        for file in scores:
            file.unlink()
        ledger.unlink()
        if cheat == "cut":
            ledger.write_bytes(b"".join(lines[:2]))
        elif cheat == "written anew":
            for _ in range(2):
                for seed in range(2 * SEEDS):
                    Ledger(ledger).touch("linear", seed, adapter="0", scores=tmp_path / "none")
        count = {"deleted": 0, "cut": 2, "written anew": 4 * SEEDS}[cheat]
        message = (
            f"ledger ({ledger}) must have the {4 * SEEDS} lines that the comparison ended with, but it has {count}, or others: "
            "it was taken away or written anew. Restore the file, or begin anew in another folder."
        )
        with raises_exactly(DataError, message):
            compare(*settings)


def test_measured_ratios(done, backbone, data, tmp_path):
    _, (own, shared) = done
    plan = make_plan(replace(own, methods="linear,lora:2,apt:2+gate2", out=str(tmp_path)), shared)
    found = measure(plan, 2)
    assert {name: (item.rounds, item.batch, item.device) for name, item in found.items()} == dict.fromkeys(
        ("linear", "lora:2", "apt:2+gate2"), (2, 1, "cpu")
    )
    # What is kept is counted and not timed: the head alone keeps next to nothing, and full tuning the most.
    assert found["linear"].memory < 0.1 < found["lora:2"].memory < 1
    assert all(item.forward > 0 and item.step > 0 for item in found.values())
    assert measure(plan, 2) == found, "what was measured is read"
    assert measure(replace(plan, contenders=[]), 0) == {}
    rows = [replace(row, ratios=asdict(found["linear"])) for row in done[0].rows]
    head, _, first, *_ = as_text(rows, markdown=True)
    place = head.split(" | ").index("memory")
    assert first.split(" | ")[place] == f"{found['linear'].memory:.2f}x"


def test_another_comparison_in_the_same_folder_is_refused(done):
    result, (own, shared) = done
    message = (
        f"out ({result.out}) must be gone on with by the same settings, but budget_trials was 4 and is 5; epochs was 1 and is "
        "2. Repeat them, or choose another --out."
    )
    changed = TrainSettings(**shared.as_dict() | {"epochs": 2})
    with raises_exactly(ConfigError, message):
        compare(CompareSettings(**own.as_dict() | {"budget_trials": 5}), changed)


def test_killed_and_gone_on_with_it_is_what_it_is_undisturbed(done, backbone, data, tmp_path):
    undisturbed, (own, _) = done
    out = tmp_path / "out"
    given = {
        "jobs": 2,
        "out": out,
        **{name: getattr(own, name) for name in ("model", "data", "methods", "seeds", "budget_trials")},
        "samples": own.samples,
        "ratio_rounds": 0,
        "epochs": 1,
        "batch_size": 4,
        "threads": 1,
        "val_fraction": 0.25,
    }
    killed_when(lambda: any(out.glob("trials/*/*/part-1/run.json")), "-m", "apt_peft", "compare", *flags_of(given))
    assert not (out / "ledger.jsonl").exists()
    assert not list(out.glob("runs/*/*/run.json"))
    result = compare(*settings_of(backbone, data, out))
    assert result.rows == undisturbed.rows
    wanted, found = ([line for line in read_results(x.out) if line["kind"] != "setup"] for x in (undisturbed, result))
    assert found == wanted
    assert sorted(events(out)) == sorted(events(undisturbed.out))


def test_few_shots(backbone, data, tmp_path):
    settings = settings_of(backbone, data, tmp_path / "out", shots=(1, 2), shot_steps=2, seeds=1)
    result = compare(*settings)
    lines = read_results(result.out)
    assert [(line["shots"], line["name"]) for line in lines if line["kind"] == "contender"] == [
        (shots, name) for shots in (1, 2) for name in ("linear", "apt:2")
    ]
    first, last, means = [], [], {}
    for shots in (1, 2):
        out = result.out / f"shots-{shots}"
        for name in ("linear", "apt:2"):
            right = []
            for seed in range(1):
                run = json.loads((out / "runs" / name.replace(":", "=") / f"seed-{seed}" / "run.json").read_text())
                assert run["data"]["clips"] == {"training": 3 * shots, "validation": 0, "test": 0}
                assert run["steps"] == 2
                last.append(run["finished"])
                scores, targets = stored(out, name, seed)
                right.append(100 * float(np.mean(np.argmax(scores, axis=1) == targets)))
            means[shots, name] = sum(right)
        first.append(Ledger(out / "ledger.jsonl").records()[0]["time"])
        assert len(events(out)) == 2 * 2
    assert max(last) <= min(first), "all is trained before the test split is touched"
    rows = {(line["shots"], line["name"]): line for line in lines if line["kind"] == "contender"}
    assert {key: row["top1"] for key, row in rows.items()} == pytest.approx(means)
    table = (result.out / "table.md").read_text().splitlines()
    assert table[0] == "| method |  | 1 of each class | 2 of each class |"
    row = rows[2, "linear"]
    assert (
        f"{row['difference']:+.1f} [{row['difference_low']:+.1f}, {row['difference_high']:+.1f}] {row['verdict']}"
        in table[3]
    )
    assert {path.name for path in result.files} == {
        *("results.jsonl", "table.md", "accuracy-shots.png", "accuracy-shots.svg"),
    }
    before = (result.out / "results.jsonl").read_bytes()
    assert compare(*settings).rows == result.rows
    assert (result.out / "results.jsonl").read_bytes() == before


def test_shots_that_cannot_be_drawn_are_told_before_anything_is_trained(backbone, data, tmp_path):
    settings = settings_of(backbone, data, tmp_path / "out", shots=(1, 4))
    pool = tmp_path / "out" / "shots-4" / "lists" / "train.csv"
    message = (
        f"shots (4) must be there in each class of the clips that a run is trained on, but of {pool} down has 3, left has 3, up "
        "has 3. Take fewer shots, or hold fewer clips out."
    )
    with raises_exactly(DataError, message):
        compare(replace(settings[0], dry_run=True), settings[1])
    assert list(tmp_path.iterdir()) == []
    with raises_exactly(DataError, message):
        compare(*settings)
    assert not list(tmp_path.glob("**/trials"))


def test_a_dry_run_tells_the_plan_and_writes_nothing(backbone, data, tmp_path, capsys):
    words = [
        "compare",
        "--model",
        str(backbone),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "out"),
        "--methods",
        "apt:2",
    ]
    words += ["--epochs", "1", "--batch-size", "4", "--threads", "1", "--val-fraction", "0.25", "--dry-run"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "12 training clips in 3 classes, 3 of validation for each of 1 part, 6 test clips"
    assert lines[2].startswith(
        "  apt:2: attention prompts, as published, num prompt tokens 2; 204 parameters beside the head; "
        "lr first 0.0032, 0.032, 0.32, 3.2; a step "
    )
    assert not (tmp_path / "out").exists()
    assert main([*words, "--folds", "13"]) == 2
    message = "clips (12) must be of 13 groups or more to be divided, but they are of 12."
    assert f"error: {message} Group them in another way by --group-by." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_diverges_is_the_worst_and_is_not_run_again(quick, tmp_path):
    settings = quick(
        method="apt", lr=1e30, epochs=1, cache="none", val_fraction=0.25, test=False, out=str(tmp_path / "part-1")
    )
    job = Job(TRIAL, "apt", {name: value for name, value in settings.as_dict().items() if name != "resume"})
    outcome = do(job)
    assert "training had diverged" in outcome["diverged"]
    assert not (tmp_path / "part-1").exists()
    assert do(job) == outcome
    assert score_of([outcome, {"diverged": None, "top1": 90.0, "loss": 0.1}]) < Score(0.0, -9.0)


def test_test_scores_that_are_not_finite_are_told_and_not_asked_for_again(done, tmp_path):
    result, settings = done
    plan = make_plan(*settings)
    apt = plan.contenders[1]
    job = plan.test(apt, 0)
    shutil.copytree(job.settings["adapter"], tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(
        {name: torch.full_like(tensor, 3e38) for name, tensor in load_file(weights).items()}, weights, {"format": "pt"}
    )
    ledger = Ledger(tmp_path / "ledger.jsonl")
    own = {"adapter": str(tmp_path / "adapter"), "save_scores": str(tmp_path / "scores.safetensors")}
    job = replace(job, settings=job.settings | own, ledger=(str(ledger.path), apt.name, 0))
    trained = _Trained({}, {apt.name: [1]})
    for _ in range(2):
        assert do(job)["diverged"] == "its scores of the test clips are not finite: training has diverged"
        assert [record["event"] for record in ledger.records()] == ["touch", "diverged"]
    assert not (tmp_path / "scores.safetensors").exists()

    class Jobs:
        def do_all(self, jobs):
            return [(one, do(job if one.name == job.name else one)) for one in jobs]

    _score(plan, Jobs(), trained)
    assert trained.diverged == {apt.name: [0, 1]}
    choices = {
        one.name: Choice.from_dict(json.loads((plan.trials(one) / CHOICE).read_text())) for one in plan.contenders
    }
    rows = rows_of(plan, choices, trained.diverged)
    assert rows[1].verdict == "diverged (seed 0, 1)"
    assert rows[0].top1 == result.rows[0].top1


def test_a_trial_without_validation_clips_is_told(quick, tmp_path):
    settings = quick(method="linear", epochs=1, cache="none", val_fraction=0, test=False, out=str(tmp_path / "part-1"))
    message = (
        f"trial ({tmp_path / 'part-1'}) must have validation scores in its run.json, but it has none. Delete the folder, and "
        "compare again."
    )
    with raises_exactly(ConfigError, message):
        do(Job(TRIAL, "linear", {name: value for name, value in settings.as_dict().items() if name != "resume"}))


def test_a_method_that_diverges_at_every_rate_is_told(backbone, data, tmp_path):
    plan = make_plan(*settings_of(backbone, data, tmp_path / "out"))
    linear = plan.contenders[0]
    for point in first_points(plan.start(linear)):
        folder = plan.trials(linear) / f"head_lr={point[0]:g}"
        folder.mkdir(parents=True)
        (folder / "part-1.diverged.json").write_text('{"error": "training had diverged"}')
    message = (
        "method (linear) must train without diverging at some rate, but it diverged at all 4 that were tried. Raise "
        "--budget-trials in another --out, or leave it out."
    )
    with Runner(1) as runner, raises_exactly(ConfigError, message):
        tune(replace(plan, contenders=[linear]), runner)


def test_errors_of_another_process_are_its_own(quick, tmp_path):
    settings = quick(model=str(tmp_path / "none"), test=False).as_dict()
    job = Job(TRIAL, "apt", {name: value for name, value in settings.items() if name != "resume"})
    message = f"model ({tmp_path / 'none'}) must be a folder or a name on the Hub, but there is no such folder. Check the path."
    with Runner(2) as runner:
        with raises_exactly(CheckpointError, message):
            list(runner.do_all([job]))
        runner._all[0].kill()
        runner._all[0].wait()
        message = (
            "run (apt) must end by itself, but its process ended with code -9. Give the command again to go on, with fewer "
            "--jobs where memory is short."
        )
        with raises_exactly(ConfigError, message):
            list(runner.do_all([job]))
