"""The doctor on the Hub: a backbone, an adapter with the base that it names, in parts, and offline from the cache."""

import json

import pytest
from helpers import raises_exactly
from safetensors.torch import load, save

from apt_peft import CheckpointError
from apt_peft.demo.settings import BACKBONE
from apt_peft.doctor import DoctorSettings, diagnose

FILES = {path.name: path.read_bytes() for path in BACKBONE.iterdir()}


def codes(name: str, **settings) -> list[str]:
    return diagnose(DoctorSettings(model=name, **settings)).codes


def test_a_backbone_from_the_hub_and_then_from_the_cache(server, offline):
    server.add("me/good", FILES)
    assert codes("me/good") == []
    before = len(server.log)
    offline()
    assert codes("me/good") == []
    assert len(server.log) == before


def test_a_revision(server):
    repository = server.add("me/good", FILES)
    repository.refs["v1"] = repository.refs["main"]
    settings = json.loads(FILES["config.json"]) | {"use_mean_pooling": False}
    repository.commit({"config.json": json.dumps(settings).encode()})
    assert codes("me/good") == ["first-token-pooling"]
    assert codes("me/good", revision="v1") == []


@pytest.mark.parametrize("lost", [False, True])
def test_weights_in_parts(server, lost):
    state = load(FILES["model.safetensors"])
    names = sorted(state)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    index = {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    files = {file: save({name: state[name] for name in own}, {"format": "pt"}) for file, own in parts.items()}
    if lost:
        del files["model-00002-of-00002.safetensors"]
    others = {name: content for name, content in FILES.items() if name != "model.safetensors"}
    server.add("me/parts", others | files | {"model.safetensors.index.json": json.dumps(index).encode()})
    if not lost:
        assert codes("me/parts") == []
        return
    with raises_exactly(
        CheckpointError,
        "model-00002-of-00002.safetensors of me/parts must be on the Hub, but it has no model-00002-of-00002.safetensors.",
    ):
        codes("me/parts")


def test_an_adapter_brings_the_base_that_it_names(published):
    """The tests' base is drawn at random."""
    report = diagnose(DoctorSettings(model="me/adapter"))
    assert report.facts["backbone"] == "me/base"
    assert {"norm-eps", "licence-unknown", "no-preprocessor"} <= set(report.codes)
    assert not {"adapter-unfit", "adapter-other-base"} & set(report.codes)


def test_a_repository_that_is_not_there(server):
    with pytest.raises(CheckpointError, match="there is no repository me/no"):
        codes("me/no")
