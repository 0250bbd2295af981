"""Adapters from the Hub: by each road, at a revision, offline, and every way in which one cannot be had."""

import json
import os
import subprocess
import sys

import pytest
import torch
from clips import write_clip
from helpers import raises_exactly
from huggingface_hub import constants
from loading import ADAPTER, CONFIG, OURS, ROADS, WEIGHTS, by_auto, by_command, refused, scores
from models import tiny_videomae
from safetensors.torch import save

from apt_peft import CheckpointError
from apt_peft.checkpoints.source import find_adapter


@pytest.mark.parametrize("road", ROADS)
def test_by_each_road_and_at_a_revision(published, logits, road):
    model = road()
    assert torch.equal(scores(model), logits["second"])
    assert model.config.id2label == {index: f"second {index}" for index in range(3)}
    for revision in ("v1", published.repositories[ADAPTER].refs["v1"]):
        assert torch.equal(scores(road(revision=revision)), logits["first"])


@pytest.mark.parametrize("road", ROADS)
def test_once_online_then_offline(published, logits, road, offline):
    road()
    road(revision="v1")
    offline()
    before = len(published.log)
    assert torch.equal(scores(road()), logits["second"])
    assert torch.equal(scores(road(revision="v1")), logits["first"])
    assert len(published.log) == before


def test_the_same_by_environment_variables_in_processes_of_their_own(published, tmp_path):
    """As a user sets them, with nothing patched."""
    clip = write_clip(tmp_path / "clip.mp4", num_frames=6, width=32, height=24)
    command = [
        sys.executable,
        "-m",
        "apt_peft",
        "predict",
        "--adapter",
        ADAPTER,
        "--revision",
        "v1",
        "--json",
        str(clip),
    ]
    online = {"HF_ENDPOINT": published.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    said = []
    for variables in (online, {"HF_HUB_OFFLINE": "1"}):
        environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_me"} | variables
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said.append(json.loads(done.stdout))
        published.close()
    assert said[0] == said[1]
    assert {score["label"] for score in said[0][0]["scores"]} == {"first 0", "first 1", "first 2"}


def test_config_and_weights_are_of_one_commit(published, logits, monkeypatch, made):
    """A repository that changes between two files gives neither half."""
    repository = published.repositories[ADAPTER]
    repository.refs["main"] = repository.refs["v1"]
    answer = published.fault

    def move(method, path):
        if path.endswith(f"/{WEIGHTS}") and len(repository.commits) == 2:
            repository.commit(made["second"])
            repository.commit({"more": b""})
        return answer(method, path)

    monkeypatch.setattr(published, "fault", move)
    assert torch.equal(scores(by_auto()), logits["first"])
    assert len(repository.commits) == 4
    assert torch.equal(scores(by_auto()), logits["second"])


def test_a_subfolder(published, made, logits):
    published.add("me/many", {f"inner/{name}": content for name, content in made["first"].items()})
    assert torch.equal(scores(by_auto("me/many", subfolder="inner")), logits["first"])
    assert find_adapter("me/many", subfolder="inner").folder.name == "inner"


def test_the_token_stays_at_the_hub(published):
    published.repositories[ADAPTER].private = True
    by_auto()
    downloads = published.requests("GET", "/objects/")
    assert len(downloads) == 2
    assert not any("authorization" in headers for _, _, headers in downloads)
    asked = published.requests("HEAD", "/me/adapter/")
    assert all(headers["authorization"] == "Bearer hf_me" for _, _, headers in asked)


def test_run_json_comes_along_and_is_missed_offline(published, made, offline, tmp_path):
    """Without it clips would be made in another way than the adapter was trained on."""
    assert find_adapter(ADAPTER, companions=["run.json"]).folder.joinpath("run.json").exists() is False
    published.repositories[ADAPTER].commit({"run.json": b"{}"})
    find_adapter(ADAPTER)
    offline()
    with raises_exactly(CheckpointError, f"run.json of {ADAPTER} must be on the Hub, but {not_cached()}"):
        find_adapter(ADAPTER, companions=["run.json"])


# ------------------------------------------------------------------------------------------------ what cannot be had

NO_REPOSITORY = (
    "there is no repository {0}, or it is private and you are not logged in as somebody who may read it. Check the name, or "
    "run: hf auth login"
)


def not_cached() -> str:
    return (
        f"it is not in the cache ({constants.HF_HUB_CACHE}), and the Hub must not be asked (HF_HUB_OFFLINE is set). Load it "
        "once online."
    )


@pytest.mark.parametrize("road", OURS)
def test_no_such_repository(published, road):
    with refused(NO_REPOSITORY.format("me/typo"), name="me/typo"):
        road("me/typo")


@pytest.mark.parametrize("token", ["hf_guest", ""])
def test_a_private_repository_of_somebody_else(published, monkeypatch, token):
    published.repositories[ADAPTER].private = True
    monkeypatch.setenv("HF_TOKEN", token)
    for road in OURS:
        with refused(NO_REPOSITORY.format(ADAPTER)):
            road()
    by_auto(token="hf_me")
    by_auto()  # what is in the cache was read by somebody who may


@pytest.mark.parametrize("token", ["hf_guest", ""])
def test_a_gated_repository(published, monkeypatch, token):
    published.repositories[ADAPTER].members = {"me"}
    monkeypatch.setenv("HF_TOKEN", token)
    for road in OURS:
        with refused(
            f"it is gated: its owner lets people in. Ask for access at {published.address}/me/adapter, then run: hf auth login"
        ):
            road()
    published.repositories[ADAPTER].members.add("guest")
    if token:
        by_auto()


def test_a_token_that_is_none(published, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with refused(f"the Hub ({published.address}) does not take your token. Run: hf auth login"):
        by_auto()


@pytest.mark.parametrize("road", OURS)
def test_no_such_revision(published, road):
    with refused("it has no revision v9. Give a branch, a tag or a commit that it has."):
        road(revision="v9")


def test_a_repository_of_something_else(published):
    with refused("it has no adapter_config.json.", name="me/base"):
        by_auto("me/base")


def test_no_network(published, monkeypatch, waits):
    published.close()
    with pytest.raises(CheckpointError) as told:
        by_auto()
    start = f"{CONFIG} of {ADAPTER} must be on the Hub, but the Hub ({published.address}) cannot be reached: "
    assert str(told.value).startswith(start)
    assert str(told.value).endswith(". Check the network.")
    assert "\n" not in str(told.value)
    assert len(waits) < 10


@pytest.mark.parametrize("road", OURS)
def test_offline_and_never_loaded(published, road, offline):
    offline()
    with refused(not_cached()):
        road()


def test_names_that_can_be_neither(published, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("../elsewhere", "/no/such/place", "a/b/c", "file:///etc", "~/adapter", "user/../.."):
        with raises_exactly(
            CheckpointError,
            f"adapter ({name}) must be a folder or a name on the Hub, but there is no such folder, and no repository can have "
            "that name. Check the path.",
        ):
            by_auto(name)
    assert published.log == []


def test_a_backbone_that_cannot_be_had(published):
    published.repositories["me/base"].members = {"somebody"}
    rule = "model (me/base) must be a folder or a name on the Hub with a transformers config.json, but there is no such"
    remedy = "The adapter names this backbone; give another place of it by --model."
    gated = (
        f"it is gated: its owner lets people in. Ask for access at {published.address}/me/base, then run: hf auth login"
    )
    with raises_exactly(CheckpointError, f"{rule} folder, and of the Hub: {gated} {remedy}"):
        by_command()
    del published.repositories["me/base"]
    gone = NO_REPOSITORY.format("me/base")
    with raises_exactly(CheckpointError, f"{rule} folder, and of the Hub: {gone} {remedy}"):
        by_command()


def test_the_backbone_s_own_revision(published, made, logits):
    """PEFT's config may name one."""
    first = published.repositories["me/base"].refs["main"]
    other = tiny_videomae(num_labels=2, seed=5)
    published.add("me/base", {"model.safetensors": save({k: v.contiguous() for k, v in other.state_dict().items()})})
    changed = json.loads(made["first"][CONFIG]) | {"revision": first}
    published.add("me/pinned", made["first"] | {CONFIG: json.dumps(changed).encode()})
    for road in OURS:
        assert torch.equal(scores(road("me/pinned")), logits["first"])
        assert not torch.equal(scores(road()), logits["second"])


def test_an_adapter_that_names_a_place_on_another_machine(published, made):
    first = json.loads(made["first"][CONFIG])
    for place in ("/srv/models/base", "../../etc", "file:///etc/passwd", "me/../../etc", "C:\\base"):
        published.add(
            "me/local", made["first"] | {CONFIG: json.dumps(first | {"base_model_name_or_path": place}).encode()}
        )
        with raises_exactly(
            CheckpointError,
            f"adapter (me/local) must name its backbone as it is found on the Hub, but it names {place!r}, a place on the "
            "machine that it was trained on. Add --model.",
        ):
            by_command("me/local")
        with raises_exactly(
            CheckpointError,
            f"adapter (me/local) must name its backbone as it is found on the Hub, but it names {place!r}, a place on the "
            "machine that it was trained on. Load the base yourself, and then PeftModel.from_pretrained(base, adapter).",
        ):
            by_auto("me/local")
    by_command("me/local", model="me/base")
