"""Real grids of tiny models: from flags to words and pictures, after a kill, and with the test split left alone."""

import json
import pathlib

import numpy as np
import pytest
from helpers import flags_of, killed_when, raises_exactly
from safetensors import safe_open

from apt_peft.cli import main
from apt_peft.comparison.table import read_results
from apt_peft.errors import ConfigError
from apt_peft.scores import read_scores
from apt_peft.sweeps import PromptSweepSettings, RobustnessSettings, robustness, sweep_prompts
from apt_peft.sweeps.grids import make_plan
from apt_peft.training.settings import TrainSettings

RATES, SEEDS = (0.01, 0.1, 1.0), 2
GRID = {"lrs": RATES, "weight_decays": (1e-5, 0.1), "dropouts": (0.1,), "seeds": SEEDS, "samples": 200}
RUN = {"epochs": 1, "batch_size": 4, "threads": 1, "val_fraction": 0.25, "num_prompt_tokens": 2}


def settings_of(backbone, data, out, **changes):
    own = {"model": str(backbone), "data": str(data), "out": str(out)}
    return RobustnessSettings(**own, **(GRID | changes)), TrainSettings(**own, **RUN, progress=False)


@pytest.fixture(scope="module")
def done(backbone, data, tmp_path_factory):
    """Grids that nothing disturbed, and their settings."""
    settings = settings_of(backbone, data, tmp_path_factory.mktemp("robustness") / "out")
    return robustness(*settings), settings


def folder(out, name, rate, seed):
    """Of a cell: the head's rate is a tenth of the prompts', as are the defaults of train."""
    return out / "trials" / name / f"lr={rate:g},head_lr={rate / 10:g}" / f"seed-{seed}" / "part-1"


def right(out, name, rate, seed):
    """Which clips a cell has right, read without this package."""
    with safe_open(folder(out, name, rate, seed) / "evaluation" / "scores.safetensors", "np") as file:
        return np.argmax(file.get_tensor("scores"), axis=1) == file.get_tensor("targets")


def test_curves_and_widths_against_numbers_written_out(done):
    result, _ = done
    assert [curve.name for curve in result.curves] == ["max", "none"]
    for curve in result.curves:
        means = [
            np.mean([100 * right(result.out, curve.name, rate, seed).mean() for seed in range(SEEDS)]) for rate in RATES
        ]
        assert curve.top1 == pytest.approx(means)
        assert (curve.best, curve.best_rate) == (pytest.approx(max(means)), RATES[int(np.argmax(np.round(means, 6)))])
        x = np.linspace(-2, 0, 100_001)
        near = np.interp(x, np.log10(RATES), means) >= max(means) - 2 - 1e-9
        assert curve.width == pytest.approx(2 * near.mean(), abs=1e-3)
        assert (curve.low_open, curve.high_open) == (near[0], near[-1])
    one, two = result.curves
    assert result.differences["max"].value == pytest.approx(one.width - two.width)
    assert result.claims["max"].verdict in ("confirmed", "refuted", "undecided")
    assert result.claims["max"].text in result.text


def test_runs_are_what_they_say_and_never_see_the_test_split(done):
    result, _ = done
    cells = [line for line in read_results(result.out) if line["kind"] == "cell"]
    assert len(cells) == 2 * SEEDS * len(RATES) + 2 * SEEDS
    for line in cells:
        place = folder(result.out, line["contender"], line["lr"], line["seed"])
        run = json.loads((place / "run.json").read_text())
        kind, *rest = line["contender"].split(",")
        wanted = {"lr": line["lr"], "head_lr": line["head_lr"], "seed": line["seed"], "reparameterization": kind}
        wanted |= {"weight_decay": 0.1 if rest else 1e-5, "prompt_dropout": 0.1, "method": "apt"}
        assert {name: run["settings"][name] for name in wanted} == wanted
        assert rest in ([], ["decay=0.1", "dropout=0.1"])
        # The clips that are scored at the end are the validation part.
        assert run["data"]["clips"] == {"training": 9, "validation": 0, "test": 3}
        assert line["top1"] == pytest.approx(run["result"]["test"]["top1"], abs=1e-3)
        names = read_scores(str(place / "evaluation" / "scores.safetensors")).result.names
        assert len(names) == line["clips"] == 3
        assert all(name.startswith("train/") for name in names)
    assert not list(result.out.glob("trials/**/adapter_model.safetensors")), "weights of cells are of no use"


def test_the_second_grid_is_at_the_best_rate_and_takes_what_is_there(done):
    result, _ = done
    for curve, plane in zip(result.curves, result.planes, strict=True):
        assert (plane.name, plane.rate) == (curve.name, curve.best_rate)
        (usual,), (decayed,) = plane.top1
        assert usual == pytest.approx(curve.best)
        name = f"{plane.name},decay=0.1,dropout=0.1"
        hits = [100 * right(result.out, name, plane.rate, seed).mean() for seed in range(SEEDS)]
        assert decayed == pytest.approx(np.mean(hits))
        assert plane.near == (1 if abs(usual - decayed) <= 2 else 0.5)


def test_files(done):
    result, _ = done
    names = {"results.jsonl", "table.md", "rates.png", "rates.svg", "decay-dropout.png", "decay-dropout.svg"}
    assert {path.name for path in result.files} == names
    assert all(path.stat().st_size > 0 for path in result.files)
    kinds = [line["kind"] for line in read_results(result.out)]
    assert kinds == ["setup", *["cell"] * 16, *["curve"] * 2, *["plane"] * 2, "claim"]


def test_killed_and_gone_on_with_it_is_what_it_is_undisturbed(done, backbone, data, tmp_path):
    undisturbed, (own, _) = done
    out = tmp_path / "out"
    given = {"jobs": 2, "model": own.model, "data": own.data, "out": out} | GRID | RUN
    killed_when(lambda: any(out.glob("trials/*/*/*/part-1/run.json")), "-m", "apt_peft", "robustness", *flags_of(given))
    assert not (out / "results.jsonl").exists()
    result = robustness(*settings_of(backbone, data, out))
    assert (result.curves, result.planes, result.claims) == (undisturbed.curves, undisturbed.planes, undisturbed.claims)
    wanted, found = ([line for line in read_results(x.out) if line["kind"] != "setup"] for x in (undisturbed, result))
    assert found == wanted


def test_again_changes_nothing_and_rates_and_seeds_can_be_added(done):
    result, (own, shared) = done
    before = {name: (result.out / name).read_bytes() for name in ("results.jsonl", "table.md", "rates.svg")}
    runs = {path: path.stat().st_mtime_ns for path in result.out.glob("trials/*/*/*/part-1/run.json")}
    assert robustness(own, shared).curves == result.curves
    assert {name: (result.out / name).read_bytes() for name in before} == before
    more = RobustnessSettings(**own.as_dict() | {"lrs": (0.01, 0.1, 1.0, 3.0), "seeds": 1, "weight_decays": (1e-5,)})
    curves = robustness(more, shared).curves
    assert [curve.rates for curve in curves] == [(0.01, 0.1, 1.0, 3.0)] * 2
    assert {path: path.stat().st_mtime_ns for path in runs} == runs


def test_other_settings_in_the_same_folder_are_refused(done):
    result, (own, shared) = done
    message = (
        f"out ({result.out}) must be gone on with by the same settings, but tie_head was True and is False; epochs was 1 and is "
        "2. Repeat them, or choose another --out."
    )
    changed = TrainSettings(**shared.as_dict() | {"epochs": 2})
    with raises_exactly(ConfigError, message):
        robustness(RobustnessSettings(**own.as_dict() | {"tie_head": False}), changed)


def test_runs_that_diverge_have_no_clip_right(backbone, data, tmp_path):
    out = tmp_path / "out"
    plan = make_plan(*settings_of(backbone, data, out, weight_decays=(1e-5,), seeds=1))
    for name in ("max", "none"):
        for rate in RATES[1 if name == "max" else 0 :]:
            place = folder(out, name, rate, 0)
            place.parent.mkdir(parents=True)
            (place.parent / "part-1.diverged.json").write_text('{"error": "training had diverged"}')
    plan.begin()
    result = robustness(plan.settings, plan.shared)
    curves = {curve.name: curve.top1 for curve in result.curves}
    assert curves["max"][1:] == (0.0, 0.0)
    assert curves["none"] == (0.0, 0.0, 0.0)
    assert "Diverged: 5 of 6 cells." in result.text
    assert "One seed: the intervals tell of the clips, and nothing of what another seed would do." in result.text
    assert result.claims["max"].verdict == "undecided"
    (folder(out, "max", RATES[0], 0).parent / "part-1.diverged.json").write_text('{"error": "training had diverged"}')
    with raises_exactly(
        ConfigError, "rates (6 runs) must have one that trains without diverging, but all diverged. Take lower ones."
    ):
        robustness(plan.settings, plan.shared)


def test_a_dry_run_tells_the_plan_and_writes_nothing(backbone, data, tmp_path, capsys):
    words = [
        "--model",
        str(backbone),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "out"),
        "--dry-run",
        "--threads",
        "1",
    ]
    words += ["--epochs", "1", "--batch-size", "4", "--val-fraction", "0.25"]
    assert main(["robustness", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "9 training clips in 3 classes, 3 of validation for each of 1 part; the test split has no part in it",
        "9 learning rates and 8 more places of weight decay and dropout, 3 seeds: 102 runs of 1 epochs",
    ]
    assert [line.split(":")[0] for line in lines[2:4]] == ["  max", "  none"]
    assert main(["sweep-prompts", *words, "--prompts", "1", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "8 trials and 3 seeds of each number of prompts: 40 runs of 1 epochs"
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def swept(backbone, data, tmp_path_factory):
    """A sweep over prompts, of clips that have no test split at all."""
    own = {"model": str(backbone), "data": str(data / "train"), "out": str(tmp_path_factory.mktemp("sweep") / "out")}
    given = {"prompts": (3, 1), "budget_trials": 4, "tune_head": False, "seeds": SEEDS, "samples": 200}
    shared = {name: value for name, value in RUN.items() if name != "num_prompt_tokens"}
    settings = PromptSweepSettings(**own, **given), TrainSettings(**own, **shared, progress=False)
    return sweep_prompts(*settings), settings


def test_each_number_of_prompts_is_tuned_and_counted(swept):
    result, (own, _) = swept
    assert [(point.method, point.prompts) for point in result.points] == [
        ("apt", 1), ("apt", 3), ("vpt-deep", 1), ("vpt-deep", 3),
    ]  # fmt: skip
    lines = read_results(result.out)
    config = json.loads((pathlib.Path(own.model) / "config.json").read_text())
    layers, width, mlp = config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]
    tokens = config["num_frames"] // config["tubelet_size"] * (config["image_size"] // config["patch_size"]) ** 2
    for point in result.points:
        name = f"{point.method}={point.prompts}"
        means = []
        for seed in range(SEEDS):
            place = result.out / "trials" / name / f"lr={point.rates['lr']:g}" / f"seed-{seed}" / "part-1"
            run = json.loads((place / "run.json").read_text())
            size = run["settings"]["num_prompt_tokens" if point.method == "apt" else "method_size"]
            assert (run["settings"]["method"], size) == (point.method, point.prompts)
            means.append(run["result"]["test"]["top1"])
        assert point.seeds == pytest.approx(means, abs=1e-3)
        assert point.top1 == pytest.approx(np.mean(means), abs=1e-3)
        (search,) = [x for x in lines if x["kind"] == "search" and x["contender"] == name.replace("=", ":")]
        assert len(search["tried"]) == 4
        best = max(search["tried"], key=lambda trial: (trial["parts"][0]["top1"], -trial["parts"][0]["loss"]))
        assert best["rates"] == list(point.rates.values())
        p, bare = point.prompts, round(point.multiply_adds / point.ratio)
        # Scores and weighted sum over more keys; or everything over more tokens.
        more = {
            "apt": 2 * tokens * p * width,
            "vpt-deep": p * (4 * width**2 + 2 * width * mlp) + 2 * width * ((tokens + p) ** 2 - tokens**2),
        }[point.method]
        assert point.multiply_adds - bare == layers * more
    apt, vpt = ([p for p in result.points if p.method == method] for method in ("apt", "vpt-deep"))
    assert apt[0].difference is None
    assert vpt[0].difference == pytest.approx(vpt[0].top1 - apt[0].top1)
    assert (vpt[0].verdict == "no significant difference") == vpt[0].between.holds(0.0)
    assert {path.name for path in result.files} == {"results.jsonl", "table.md", "prompts.png", "prompts.svg"}
    assert result.claims["apt"].verdict == "undecided"
    assert "--prompts must have numbers below and from 100 on" in result.text


def test_a_sweep_again_changes_nothing(swept):
    result, settings = swept
    before = {path: path.read_bytes() for path in result.files if path.suffix != ".png"}
    assert sweep_prompts(*settings).points == result.points
    assert {path: path.read_bytes() for path in before} == before


def test_shorter_trials_choose_the_rates_of_whole_runs(backbone, data, tmp_path, capsys):
    """What trains is one method with two numbers of prompts, on a few frames: eight trials of an epoch, two runs of two."""
    own = {"model": str(backbone), "data": str(data / "train"), "out": str(tmp_path / "out")}
    given = {"methods": "apt", "prompts": (1, 2), "budget_trials": 4, "tune_head": False, "trial_epochs": 1, "seeds": 1}
    run = {"epochs": 2, "batch_size": 4, "threads": 1, "val_fraction": 0.25, "warmup_epochs": 1}
    assert main(["sweep-prompts", *flags_of(own | given | run), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == (
        "4 trials and 1 seeds of each number of prompts: 8 runs of 1 epochs and 2 runs of 2 epochs"
    )
    result = sweep_prompts(
        PromptSweepSettings(**own, **given, samples=200), TrainSettings(**own, **run, progress=False)
    )
    for point in result.points:
        place = result.out / "trials" / f"apt={point.prompts}"
        runs = [json.loads(path.read_text()) for path in place.glob("*/seed-0/part-1/run.json")]
        trials, (whole,) = ([r for r in runs if r["settings"]["epochs"] == epochs] for epochs in (1, 2))
        # The rate rises over the same part of all steps.
        assert [r["settings"]["warmup_epochs"] for r in (*trials, whole)] == [0.5] * 4 + [1.0]
        best = max(trials, key=lambda r: (r["result"]["test"]["top1"], -r["result"]["test"]["loss"]))
        assert point.rates == {"lr": best["settings"]["lr"]} == {"lr": whole["settings"]["lr"]}
        assert point.seeds == pytest.approx([whole["result"]["test"]["top1"]], abs=1e-3)


@pytest.mark.parametrize(
    ("methods", "shown"),
    [("lora,apt", "'lora' is"), ("apt:8", "'apt:8' is"), ("bitfit,full", "'bitfit', 'full' are"), ("apt,", "'' is")],
)
def test_methods_without_prompts_are_refused(backbone, data, tmp_path, methods, shown):
    own = {"model": str(backbone), "data": str(data), "out": str(tmp_path / "out")}
    what = "must be of apt, vpt-deep, vpt-shallow, without numbers"
    message = f"methods ({methods}) {what}, but {shown} not. Numbers go to --prompts."
    with raises_exactly(ConfigError, message):
        sweep_prompts(PromptSweepSettings(**own, methods=methods), TrainSettings(**own))
