"""Several adapters on one backbone: each scores as it does alone, and what cannot share a backbone is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import raises_exactly
from models import clips, prompted, tiny_videomae
from safetensors.torch import load_file, save_file

from apt_peft import CheckpointError, ConfigError
from apt_peft.scoring import PredictSettings, open_adapter, open_adapters
from apt_peft.training.base import open_base, weights_fingerprint

MADE = {
    "three": ({0: "down", 1: "left", 2: "up"}, {}),
    "five": (dict(enumerate("abcde")), {"num_prompt_tokens": 7, "reparameterization": "softplus"}),
    "linear": ({0: "no", 1: "yes"}, {"target_modules": []}),
}
VIEWS = clips(3)[:, None]  # (clips, views, T, C, height, width)


@pytest.fixture(scope="module")
def adapters(backbone, tmp_path_factory) -> Path:
    """Three adapters of different labels, prompts and heads."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, (name, (labels, settings)) in enumerate(MADE.items()):
        base = open_base(str(backbone), labels=list(labels.values()))
        torch.manual_seed(seed)
        torch.nn.init.normal_(base.classifier.weight)
        torch.nn.init.normal_(base.fc_norm.weight)
        prompted(seed, base, **settings).save_pretrained(root / name)
    return root


def flags(adapter: Path, **given) -> PredictSettings:
    return PredictSettings(adapter=str(adapter), clips="none", **given)


def copied(adapter: Path, place: Path, **changes) -> Path:
    """A copy of an adapter, with some settings of its config changed."""
    shutil.copytree(adapter, place)
    file = place / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return place


def with_run(adapter: Path, backbone: dict) -> Path:
    """Give an adapter a run.json that tells of its backbone."""
    clip = {"num_frames": 4, "sampling": "even", "frame_stride": 4, "size": 16, "resize": "squash", "segments": 1}
    clip |= {"crops": 1, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    run = {"clips": clip, "precision": "float32", "settings": {"batch_size": 2}, "backbone": backbone}
    (adapter / "run.json").write_text(json.dumps(run))
    return adapter


@pytest.mark.parametrize("order", [list(MADE), list(MADE)[::-1]], ids=["in order", "reversed"])
def test_each_scores_as_it_does_alone(adapters, order):
    opened = open_adapters({name: flags(adapters / name) for name in order})
    assert list(opened) == order
    assert len({id(adapter.model) for adapter in opened.values()}) == 1
    alone = {}
    for name in [*order, *order[::-1]]:
        single = open_adapter(flags(adapters / name))
        alone[name] = single.score(VIEWS)
        scores = opened[name].score(VIEWS)
        assert opened[name].labels == single.labels == tuple(MADE[name][0].values())
        assert opened[name].clips == single.clips
        torch.testing.assert_close(scores, alone[name], rtol=0, atol=1e-6)
        torch.testing.assert_close(scores.sum(dim=1), torch.ones(3))
    assert {scores.shape[1] for scores in alone.values()} == {3, 5, 2}
    assert not opened[order[0]].model.training


@pytest.mark.parametrize("names", [("key", "classifier"), ("base_model", "weight"), ("yoga-6", "ball 5")], ids=str)
def test_names_that_are_words_of_the_weights(adapters, names):
    opened = open_adapters({names[0]: flags(adapters / "three"), names[1]: flags(adapters / "five")})
    for name, made in zip(names, ("three", "five"), strict=True):
        expected = open_adapter(flags(adapters / made)).score(VIEWS)
        torch.testing.assert_close(opened[name].score(VIEWS), expected, rtol=0, atol=1e-6)


def test_names_that_peft_cannot_use(adapters):
    with raises_exactly(
        ConfigError,
        "adapter names (['yoga.v2', '']) must have no dots and not be empty: they become names of modules.",
    ):
        open_adapters({name: flags(adapters / "three") for name in ("yoga.v2", "yoga", "")})


def test_another_backbone_by_name(adapters, backbone, tmp_path):
    tiny_videomae(seed=5, num_labels=2).save_pretrained(tmp_path / "other")
    other = copied(adapters / "five", tmp_path / "five", base_model_name_or_path=str(tmp_path / "other"))
    given = {"a": flags(adapters / "three"), "b": flags(other)}
    with raises_exactly(
        ConfigError,
        f"adapters ({adapters / 'three'}, {other}) must share one backbone, but the first names {backbone} and the second "
        f"{tmp_path / 'other'}. Score them apart, or name one backbone for both by --model.",
    ):
        open_adapters(given)
    named = {name: flags(Path(each.adapter), model=str(backbone)) for name, each in given.items()}
    assert list(open_adapters(named)) == ["a", "b"]


def test_the_same_backbone_in_two_places(adapters, backbone, tmp_path):
    shutil.copytree(backbone, tmp_path / "copy")
    fingerprint = weights_fingerprint(open_base(str(backbone), labels=None))
    moved = copied(adapters / "five", tmp_path / "five", base_model_name_or_path=str(tmp_path / "copy"))
    with_run(moved, {"fingerprint": fingerprint})
    opened = open_adapters({"a": flags(adapters / "three"), "b": flags(moved)})
    assert opened["b"].clips.resize == "squash"
    assert opened["a"].clips.resize == "crop"
    assert (opened["a"].batch_size, opened["b"].batch_size) == (8, 2)


def test_other_weights_under_the_same_name(adapters, backbone, tmp_path):
    found = weights_fingerprint(open_base(str(backbone), labels=None))
    other = with_run(copied(adapters / "five", tmp_path / "five"), {"fingerprint": "0" * 16})
    with raises_exactly(
        CheckpointError,
        f"backbone ({backbone}) must be the one that adapter ({other}) was trained on, but its weights have the fingerprint "
        f"{found}, those of training had {'0' * 16}. Give the place of the right one by --model.",
    ):
        open_adapters({"a": flags(adapters / "three"), "b": flags(other)})


def test_another_pooling(adapters, tmp_path):
    tiny_videomae(num_labels=2, use_mean_pooling=False).save_pretrained(tmp_path / "first-token")
    one = copied(adapters / "three", tmp_path / "one", base_model_name_or_path=str(tmp_path / "first-token"))
    base = open_base(str(tmp_path / "first-token"), labels=["x", "y"])
    with pytest.warns(UserWarning, match="use_mean_pooling"):
        prompted(0, base).save_pretrained(tmp_path / "two")
    with raises_exactly(
        ConfigError,
        f"adapters ({one}, {tmp_path / 'two'}) must pool alike, but one classifies from the mean of the tokens and one from "
        "the first token. Score them apart.",
    ):
        open_adapters({"a": flags(one), "b": flags(tmp_path / "two")})


@pytest.mark.parametrize("part", ["attention_prompt_value", "classifier"])
def test_a_further_adapter_that_is_not_whole(adapters, backbone, tmp_path, part):
    torn = copied(adapters / "five", tmp_path / "five")
    weights = load_file(torn / "adapter_model.safetensors")
    lost = sorted(key for key in weights if part in key)
    save_file({k: v for k, v in weights.items() if k not in lost}, torn / "adapter_model.safetensors")
    with pytest.raises(CheckpointError) as alone:
        open_adapter(flags(torn))
    assert f"adapter ({torn}) must be whole and fit its backbone ({backbone}), but it lacks " in str(alone.value)
    with raises_exactly(CheckpointError, str(alone.value)):
        open_adapters({"a": flags(adapters / "three"), "b": flags(torn)})


def test_only_the_damaged_adapter_is_refused(adapters, tmp_path):
    torn = copied(adapters / "five", tmp_path / "five")
    weights = load_file(torn / "adapter_model.safetensors")
    key = next(key for key in weights if "attention_prompt_value" in key)
    weights[key][0] = torch.nan
    save_file(weights, torn / "adapter_model.safetensors")
    with raises_exactly(
        CheckpointError,
        f"adapter ({torn}) must hold finite weights, but {key} has NaN or infinite values: its training diverged, or it is "
        "damaged. Copy it again, or take an earlier one.",
    ):
        open_adapters({"a": flags(adapters / "three"), "b": flags(torn)})
    opened = open_adapters({"a": flags(adapters / "three"), "b": flags(adapters / "five")})
    with torch.no_grad():  # what cannot come from a file any more
        for name, parameter in opened["b"].model.named_parameters():
            if name.endswith("attention_prompt_value.b"):
                parameter.fill_(torch.nan)
    with raises_exactly(
        CheckpointError,
        "scores (3 of 3 clips) must be finite, but the model's are NaN: its weights are damaged, or its training has "
        "diverged. Train again with a lower --lr, or copy the weights again.",
    ):
        opened["b"].score(VIEWS)
    assert opened["a"].score(VIEWS).isfinite().all()


def test_no_adapter_at_all():
    assert open_adapters({}) == {}
