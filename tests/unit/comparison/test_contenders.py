"""Names of contenders to settings of their runs, sizes that match, and what is refused before anything is trained."""

import json
from dataclasses import replace

import pytest
from helpers import raises_exactly
from models import tiny_videomae

from apt_peft.baselines.methods import trained_parameters
from apt_peft.comparison import CompareSettings, compare
from apt_peft.comparison.contenders import parameters, read_contenders
from apt_peft.comparison.cost import counted, multiply_adds
from apt_peft.comparison.ledger import locked
from apt_peft.comparison.plan import make_plan
from apt_peft.comparison.settings import from_arguments
from apt_peft.comparison.tuning import Choice, edge_warnings
from apt_peft.cost import Shapes
from apt_peft.errors import ConfigError, DataError
from apt_peft.training.settings import TrainSettings


@pytest.fixture(scope="module")
def config():
    return tiny_videomae(num_labels=3).config


@pytest.fixture
def shared():
    return TrainSettings(model="m", data="d", out="o", num_prompt_tokens=5)


def read(names, shared, config, **options):
    return {contender.name: contender for contender in read_contenders(names, shared, config, **options)}


def test_names_sizes_and_options(shared, config):
    found = read("linear,lora:4,apt,apt:3+data+gate2,apt+from1+plain,vpt-deep", shared, config)
    assert [contender.changes for contender in found.values()] == [
        {"method": "linear"},
        {"method": "lora", "method_size": 4},
        {"method": "apt"},
        {"method": "apt", "num_prompt_tokens": 3, "init_weights": "data", "key_gate": 2},
        {"method": "apt", "layers_to_transform": (1, 2), "reparameterization": "none"},
        {"method": "vpt-deep"},
    ]
    assert found["apt"].described(shared) == "attention prompts, as published, num prompt tokens 5"
    assert found["vpt-deep"].described(shared) == "visual prompts of every block, method size 100"
    shown = "attention prompts, init weights data, key gate 2, num prompt tokens 3"
    assert found["apt:3+data+gate2"].described(shared) == shown
    run = found["apt:3+data+gate2"].settings(shared, seed=7)
    assert (run.num_prompt_tokens, run.key_gate, run.seed, run.epochs) == (3, 2, 7, shared.epochs)
    best = read("apt+best,apt:9+best+gate4", shared, config)
    run = best["apt+best"].settings(shared)
    assert (run.num_prompt_tokens, run.key_gate, run.train_norms, run.init_weights) == (4, 15, True, "data")
    run = best["apt:9+best+gate4"].settings(shared)
    assert (run.num_prompt_tokens, run.key_gate, run.train_norms) == (9, 4, True)
    assert read("apt+norms", shared, config)["apt+norms"].changes == {"method": "apt", "train_norms": True}
    for name in ("linear", "lora:4", "vpt-deep"):
        size = found[name].changes.get("method_size")
        assert parameters(found[name], shared, config) == trained_parameters(found[name].method, config, size)


def test_variants_of_ones_own(shared, config, tmp_path):
    file = tmp_path / "variants.toml"
    file.write_text(
        '[late-few]\nnum-prompt-tokens = 2\nlayers_to_transform = [2]\n[big]\nmethod = "lora"\nmethod_size = 16\n'
    )
    found = read("big,late-few", shared, config, variants=str(file))
    assert found["late-few"].changes == {"method": "apt", "num_prompt_tokens": 2, "layers_to_transform": (2,)}
    assert found["big"].changes == {"method": "lora", "method_size": 16}
    file.write_text('x = 1\n[apt]\n[bad]\nlr = 0.1\nval_fraction = 0.5\n[odd]\nmethod = "lra"\n')
    message = (
        f"variants ({file}) must be tables of settings, but:\n"
        "  x must be a table, [x].\n"
        "  'apt' must be a name of letters, digits, dots, dashes and no method's.\n"
        "  bad must have settings of train in which contenders may differ, and not lr, val_fraction.\n"
        "  odd must have a method of train, and not 'lra'."
    )
    with raises_exactly(ConfigError, message):
        read("x", shared, config, variants=str(file))
    lost = tmp_path / "lost.toml"
    with raises_exactly(
        ConfigError,
        f"variants ({lost}) must be a file that can be read, but: No such file or directory. Check the path.",
    ):
        read("x", shared, config, variants=str(lost))


@pytest.mark.parametrize("wanted", ["2000", "lora:3"])
def test_sizes_that_match(shared, config, wanted):
    number = 2000 if wanted == "2000" else trained_parameters("lora", config, 3)
    found = read("linear,bitfit,lora,vpt-deep,adaptformer,apt,apt+gate4,lora:1", shared, config, match=wanted)
    assert found["lora:1"].changes["method_size"] == 1
    assert set(found["bitfit"].changes) == set(found["linear"].changes) == {"method"}
    for name in ("lora", "vpt-deep", "adaptformer", "apt", "apt+gate4"):
        key = "num_prompt_tokens" if found[name].method == "apt" else "method_size"
        size = found[name].changes[key]
        count = parameters(found[name], shared, config)
        for other in (size - 1, size + 1):
            if other:
                beside = type(found[name])(name, {**found[name].changes, key: other})
                assert abs(count - number) <= abs(parameters(beside, shared, config) - number), (
                    "no other size is nearer"
                )


def test_sizes_that_match_of_blocks(shared, config):
    found = read("oft,partial", shared, config, match="700")
    counts = {size: trained_parameters("oft", config, size) for size in (2, 4, 8, 16, 32)}
    size = found["oft"].changes["method_size"]
    assert abs(counts[size] - 700) == min(abs(count - 700) for count in counts.values())
    assert read("partial", shared, config, match="100000000")["partial"].changes["method_size"] == 3, "all blocks"


@pytest.mark.parametrize("wanted", ["0", "linear"])
def test_nothing_to_match(shared, config, wanted):
    message = (
        f"match_parameters ({wanted}) must train numbers beside the head, but it trains none. Give a number above 0, or a method "
        "such as lora:8."
    )
    with raises_exactly(ConfigError, message):
        read("apt,lora", shared, config, match=wanted)


@pytest.mark.parametrize("name", ["apt:5", "lora:2", "vpt-deep:3", "adaptformer:4", "linear", "full", "oft:4"])
def test_multiply_adds_of_both_counters(shared, config, name):
    settings = read(name, shared, config)[name].settings(shared)
    assert multiply_adds(settings, config) == counted(settings, config)


def test_multiply_adds_of_a_gate(shared, config):
    count = {
        name: multiply_adds(read(name, shared, config)[name].settings(shared), config)
        for name in ("apt:5", "apt:5+gate4")
    }
    shapes = Shapes.of_config(config)
    # Each token's key of each head with each direction, and one head dimension more in both products of the attention.
    gate = shapes.layers * shapes.tokens * (shapes.hidden * 4 + 2 * shapes.heads * (shapes.tokens + 5))
    assert count["apt:5+gate4"] - count["apt:5"] == gate


WRONG = {
    "lra": "method (lra) must be one of apt, linear, vpt-shallow, vpt-deep, adaptformer, bitfit, lora, ia3, oft, ln, partial, "
    "full, or a table of --variants. Did you mean lora?",
    "lora:x": "method (lora:x) must have a whole number from 1 on as its size, such as lora:8.",
    "lora:0": "method (lora:0) must have a whole number from 1 on as its size, such as lora:8.",
    "bitfit:3": "method (bitfit:3) must be written without a size, for bitfit has none.",
    "linear:3": "method (linear:3) must be written without a size, for linear has none.",
    "lora+data": "method (lora+data) must have no options, for those are of apt. Make a table of --variants.",
    "apt+dat": "method (apt+dat) must have options such as best, data, gate8, norms, softplus, plain, heads, from6, but "
    "'dat' is none.",
    "apt+from3": "method (apt+from3) must begin at a layer of the backbone's 0 to 2.",
    "apt,apt": "methods (apt,apt) must name each contender once, but apt stand there again.",
    " , ": "methods (' , ') must name a contender. For example: linear,lora:8,apt.",
}


@pytest.mark.parametrize("names", WRONG)
def test_wrong_names(names, shared, config):
    with raises_exactly(ConfigError, WRONG[names]):
        read(names, shared, config)


def test_settings_that_the_comparison_decides(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("lr = 0.1\nseed = 3\nepochs = 2\n")
    given = {"model": "m", "data": "d", "out": "o", "config": str(file)}
    message = f"config ({file}) must leave lr, seed to compare, which decides them for each run. Take them out."
    with raises_exactly(ConfigError, message):
        from_arguments(given)
    file.write_text("epochs = 2\n")
    own, shared = from_arguments(given | {"batch_size": "4", "methods": "apt"})
    assert (own.methods, shared.epochs, shared.batch_size) == ("apt", 2, 4)


def settings_of(backbone, data, out, **changes):
    own = {"model": str(backbone), "data": str(data), "out": str(out)}
    return CompareSettings(**own, methods="linear,apt:2", **changes), TrainSettings(**own)


def test_what_is_refused_before_anything_is_written(backbone, data, tmp_path):
    out = tmp_path / "out"
    message = (
        f"data ({data / 'train'}) must have a test split, on which contenders are compared in the end, but it has none. Divide "
        "the clips by apt-peft lists, or add --test-list."
    )
    with raises_exactly(DataError, message):
        compare(*settings_of(backbone, data / "train", out))
    with raises_exactly(ConfigError, "reference (lora) must be one of the methods, linear, apt:2."):
        compare(*settings_of(backbone, data, out, reference="lora"))
    with raises_exactly(
        ConfigError, "reference (linear,apt:2) must be one of the methods, linear, apt:2. Did you mean linear?"
    ):
        compare(*settings_of(backbone, data, out, reference="linear,apt:2"))
    own, shared = settings_of(backbone, data, out, dry_run=True)
    message = (
        f"size (20) must be what the backbone was made for, but {backbone} takes 16. Leave --size out, or convert the "
        "backbone."
    )
    with raises_exactly(ConfigError, message):
        compare(own, replace(shared, size=20))
    with raises_exactly(ConfigError, "forget (apt) must be one of the methods, linear, apt:2. Did you mean apt:2?"):
        compare(*settings_of(backbone, data, out, forget="apt"))
    assert not out.exists()
    out.mkdir()
    (out / "thesis.txt").write_text("")
    message = (
        f"out ({out}) must be new, empty or a folder of such runs, but it is none: it holds thesis.txt. "
        "Choose another --out."
    )
    with raises_exactly(ConfigError, message):
        compare(*settings_of(backbone, data, out))


def test_launchers_are_refused(backbone, data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = "processes (2) must be one for compare, which starts its own. Leave the launcher out, and take --jobs."
    with raises_exactly(ConfigError, message):
        compare(*settings_of(backbone, data, tmp_path / "out"))


def test_one_comparison_at_a_time_in_a_folder(backbone, data, tmp_path):
    message = f"out ({tmp_path}) must be free, but something is running in it. Wait for it, or choose another --out."
    with locked(tmp_path / "runs.lock"), raises_exactly(ConfigError, message):
        compare(*settings_of(backbone, data, tmp_path))


def test_lists_of_folds_keep_the_test_apart_and_other_clips_are_refused(backbone, data, tmp_path):
    own, shared = settings_of(backbone, data, tmp_path / "out", folds=2)
    plan = make_plan(own, shared)
    plan.out.mkdir()
    plan.begin()
    plan.begin()
    lists = {name: set((plan.out / "lists" / name).read_text().splitlines()) for name in ("whole.csv", "test.csv")}
    assert (len(lists["whole.csv"]), len(lists["test.csv"])) == (12, 6)
    for fold in ("fold-1", "fold-2"):
        train, val = (set((plan.out / "lists" / fold / f"{x}.csv").read_text().splitlines()) for x in ("train", "val"))
        assert (len(train), len(val), train | val) == (6, 6, lists["whole.csv"])
    job = plan.trial(plan.contenders[1], (0.1, 0.01), 2)
    assert (job.settings["lr"], job.settings["head_lr"], job.settings["test"]) == (0.1, 0.01, False)
    assert job.settings["val_list"].endswith("fold-2/val.csv")
    assert job.settings["cache"] == str(plan.out / "frames")
    assert job.settings["test_list"] is None
    json.dumps(job.settings)
    manifest = json.loads((plan.out / "lists" / "manifest.json").read_text())
    manifest["files"]["test.csv"] = "of other clips"
    (plan.out / "lists" / "manifest.json").write_text(json.dumps(manifest))
    message = (
        f"data ({data}) must have the clips that the runs in {plan.out} began with, but its lists come out otherwise now. "
        "Restore the clips, or choose another --out."
    )
    with raises_exactly(DataError, message):
        plan.begin()


def test_a_folder_begun_before_a_setting_had_a_name_is_gone_on_with_at_its_default(backbone, data, tmp_path):
    own, shared = settings_of(backbone, data, tmp_path / "out")
    plan = make_plan(own, shared)
    plan.out.mkdir()
    plan.begin()
    path = plan.out / "plan.json"
    whole = json.loads(path.read_text())
    later = ("tune_head", "mixup", "rand_augment", "loss", "on_error")  # the last one has no say in what comes out
    settings = {name: value for name, value in whole["settings"].items() if name not in later}
    assert len(settings) == len(whole["settings"]) - 4
    path.write_text(json.dumps(whole | {"settings": settings}))
    changed = make_plan(CompareSettings(**own.as_dict() | {"tune_head": False}), replace(shared, mixup=0.8))
    message = (
        f"out ({plan.out}) must be gone on with by the same settings, but tune_head was True and is False; mixup was 0.0 and "
        "is 0.8. Repeat them, or choose another --out."
    )
    with raises_exactly(ConfigError, message):
        changed.begin()
    plan.begin()
    assert json.loads(path.read_text()) == whole


def test_a_best_rate_at_the_end_is_told_loudly():
    outcome = {"diverged": None, "loss": 1.0}
    tried = {(rate, 0.01): [{**outcome, "top1": top1}] for rate, top1 in ((0.1, 50.0), (1.0, 60.0), (10.0, 70.0))}
    choice = Choice(("lr", "head_lr"), tried, (10.0, 0.01))
    assert choice.edges == {"lr": "high"}
    assert edge_warnings("lora", choice) == [
        "WARNING: lora is NOT TUNED to its best: its best lr (10) is the highest of the 3 points tried, and the budget is spent. "
        "A better one may lie beyond: take more --budget-trials in another --out."
    ]
    assert Choice.from_dict(json.loads(json.dumps(choice.as_dict()))) == choice
