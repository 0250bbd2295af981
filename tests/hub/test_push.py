"""Uploads: whole or not at all, and said only when the commit is made."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers import raises_exactly
from huggingface_hub import ModelCard
from models import clips, prompted
from peft import PeftModel
from server import Fault

from apt_peft import (
    AptError,
    AttentionPromptConfig,
    AutoPeftModelForVideoClassification,
    CheckpointError,
    ConfigError,
    hub,
    push_to_hub,
)
from apt_peft.hub import pushing
from apt_peft.scoring import PredictSettings, open_adapter
from apt_peft.training.train import train

# what huggingface_hub 2 says of its own uploads
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CARD = b"---\nlibrary_name: peft\nbase_model: me/base\n---\n\n# An adapter\n"
NAMES = {"adapter_config.json", "adapter_model.safetensors", "README.md", ".gitattributes"}


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """An adapter, as training leaves it, and what is not for others."""
    place = tmp_path / "adapter"
    (place / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    for name, content in (made["first"] | {"README.md": CARD}).items():
        (place / name).write_bytes(content)
    (place / "checkpoints" / "checkpoint-1" / "optimizer.pt").touch()
    (place / "adapter_model.bin").touch()
    return place


def test_a_run_is_uploaded_with_its_card_and_numbers_and_nothing_else(server, quick, backbone):
    result = train(quick(push_to_hub="me/first", epochs=1))
    files = server.files("me/first")
    assert set(files) == {
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "evaluation/confusion.csv",
        "evaluation/confusion.png",
        "evaluation/mistakes.csv",
        "evaluation/per_class.csv",
        "evaluation/result.json",
        "preprocessor_config.json",
        "run.json",
    }
    for name in set(files) - {".gitattributes", "README.md"}:
        assert files[name] == (result.out / name).read_bytes()
    here, there = (result.out / "README.md").read_text(), files["README.md"].decode()
    assert here.count('adapter = "."') == 2
    assert 'adapter = "."' not in there
    assert there.count('adapter = "me/first"\n') == 2
    assert "`apt-peft predict --adapter me/first CLIP`" in there
    opened = open_adapter(PredictSettings(adapter="me/first", model=str(backbone), clips="c"))
    assert opened.labels == ("down", "left", "up")
    assert opened.clips.num_frames == 4
    commits = len(server.repositories["me/first"].commits)
    train(quick(push_to_hub="me/first", epochs=1, resume=True))
    assert len(server.repositories["me/first"].commits) == commits  # nothing is new


def test_in_one_commit_whose_address_is_returned(server, folder):
    address = hub.push(folder, "me/new")
    repository = server.repositories["me/new"]
    assert address == f"{server.address}/me/new/commit/{repository.refs['main']}"
    assert len(repository.commits) == 2  # the repository's own, and ours
    assert set(server.files("me/new")) == NAMES
    assert len(server.requests("PUT", "/objects/")) == 1


def test_a_private_repository_and_a_branch(server, folder):
    hub.push(folder, "me/new", private=True, revision="trial", message="Try it")
    repository = server.repositories["me/new"]
    assert repository.private
    assert set(server.files("me/new", "trial")) == NAMES
    assert set(server.files("me/new")) == {".gitattributes"}
    hub.push(folder, "me/new", revision="trial")


# ---------------------------------------------------------------------------------------------------- before training


def check_refused(reason: str):
    return raises_exactly(AptError, f"push_to_hub (me/new) must find the Hub and a user who is logged in, but {reason}")


def test_a_wrong_token_stops_before_training(server, quick, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with check_refused(f"the Hub ({server.address}) does not take your token. Run: hf auth login"):
        train(quick(push_to_hub="me/new"))
    assert not (tmp_path / "run").exists()


def test_nobody_is_logged_in(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    with check_refused("nobody is logged in. Run: hf auth login"):
        hub.check("me/new")


def test_offline(server, offline):
    offline()
    with check_refused("the Hub must not be asked (HF_HUB_OFFLINE is set). Unset it."):
        hub.check("me/new")


def test_a_silent_hub(server, impatient):
    server.faults.append(Fault("GET", "/api/whoami-v2", stall=True))
    with check_refused(f"the Hub ({server.address}) cannot be reached: timed out. Check the network."), impatient():
        hub.check("me/new")


def test_a_page_instead_of_an_answer(server):
    server.faults.append(Fault("GET", "/api/whoami-v2", change=lambda content: b"<html>Please log in to the hotel"))
    with check_refused(
        f"what the Hub ({server.address}) answers cannot be understood (JSONDecodeError: Expecting value: line 1 column 1 "
        "(char 0)). Check the network."
    ):
        hub.check("me/new")


# ---------------------------------------------------------------------------------------------------- while uploading


def push_refused(folder: Path, reason: str, name: str = "me/new"):
    return raises_exactly(
        AptError,
        f"push_to_hub ({name}) must be a repository that you may write to; the adapter stays in {folder}, but {reason}",
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_repository_that_is_not_ours(server, folder):
    with push_refused(
        folder,
        'you may not do this (You don\'t have the rights to create a model under the namespace "you"). Log in as somebody '
        "who may: hf auth login",
        "you/new",
    ):
        hub.push(folder, "you/new")


def test_a_name_that_is_none(server, folder):
    with push_refused(folder, "that is no name of a repository. Give user/name.", "a/b/c"):
        hub.push(folder, "a/b/c")
    assert server.log == []


STEPS = {
    "create": ("POST", "/api/repos/create"),
    "list": ("GET", "/api/models/me/new/tree/main"),
    "card": ("POST", "/api/validate-yaml"),
    "preupload": ("POST", "/api/models/me/new/preupload/main"),
    "batch": ("POST", "/me/new.git/info/lfs/objects/batch"),
    "object": ("PUT", "/objects/.*"),
    "commit": ("POST", "/api/models/me/new/commit/main"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ["500", "cut", "stalled", "429 for a day"])
def test_a_step_that_fails_leaves_the_hub_and_the_folder_as_they_were(server, folder, waits, impatient, step, kind):
    method, path = STEPS[step]
    fault = {
        "500": Fault(method, path, status=500),
        "429 for a day": Fault(method, path, status=429, headers={"Retry-After": "86400"}),
        "cut": Fault(method, path, change=lambda content: content or b"{}", cut=0.0),
        "stalled": Fault(method, path, stall=True),
    }[kind]
    fault.times = 1000
    server.faults.append(fault)
    before = contents(folder)
    reasons = {
        "500": f"the Hub ({server.address}) answers 500 (Something is wrong). Try again later.",
        "429 for a day": f"the Hub ({server.address}) answers 429 and asks to wait 86,400 seconds. Try again then.",
        "stalled": f"the Hub ({server.address}) cannot be reached: timed out. Check the network.",
    }
    if kind == "cut":
        with pytest.raises(
            AptError, match=r"cannot be reached: peer closed connection .* Check the network\.$"
        ) as told:
            hub.push(folder, "me/new")
        assert "\n" not in str(told.value)
    else:
        with push_refused(folder, reasons[kind]), impatient() if kind == "stalled" else nullcontext():
            hub.push(folder, "me/new")
    assert len(waits) <= 6
    assert contents(folder) == before
    server.faults.clear()
    if (step, kind) in {("commit", "cut"), ("create", "cut")}:
        # The Hub did it, and its answer was lost.
        commits = len(server.repositories["me/new"].commits)
        hub.push(folder, "me/new")
        assert len(server.repositories["me/new"].commits) == (commits if step == "commit" else commits + 1)
    else:
        assert "me/new" not in server.repositories or set(server.files("me/new")) == {".gitattributes"}
        hub.push(folder, "me/new")
    assert set(server.files("me/new")) == NAMES
    if step == "commit":  # the weights had arrived, and are not sent again
        assert len(server.requests("PUT", "/objects/")) == 1


@pytest.mark.parametrize("step", ["preupload", "batch", "object"])
def test_what_passes_is_waited_for(server, folder, waits, step):
    server.faults.append(Fault(*STEPS[step], times=2, status=503))
    hub.push(folder, "me/new")
    assert set(server.files("me/new")) == NAMES
    assert waits == [1, 2]


def test_a_hub_that_falls_silent_where_huggingface_hub_waits_for_ever(server, folder, impatient):
    """It looks for the repository that it may not make, without a limit of its own."""
    server.add("me/new", {})
    server.faults.append(Fault("POST", "/api/repos/create", status=403, times=9))
    server.faults.append(Fault("GET", "/api/models/me/new", stall=True, times=9))
    with (
        push_refused(folder, f"the Hub ({server.address}) cannot be reached: timed out. Check the network."),
        impatient(),
    ):
        hub.push(folder, "me/new")


def test_a_card_that_the_hub_does_not_take(server, folder):
    (folder / "README.md").write_bytes(b"---\nbase_model: /srv/models/base\n---\n")
    with push_refused(
        folder,
        f'the Hub ({server.address}) answers 400 ("base_model" with value "/srv/models/base" is not valid. Use a model id).',
    ):
        hub.push(folder, "me/new")
    assert set(server.files("me/new")) == {".gitattributes"}


def test_content_that_is_damaged_on_its_way_is_not_committed(server, folder, monkeypatch):
    monkeypatch.setattr(server, "objects", _Losing())
    with push_refused(
        folder,
        f"the Hub ({server.address}) answers 400 (the LFS object of adapter_model.safetensors was not uploaded).",
    ):
        hub.push(folder, "me/new")
    assert set(server.files("me/new")) == {".gitattributes"}


class _Losing(dict):
    """A store that keeps nothing."""

    def __setitem__(self, name, content) -> None:
        pass


def test_a_hub_that_repeats_itself_without_end(server, folder, monkeypatch):
    """create_repo asks again, as long as another creation is said to be going on."""
    monkeypatch.setattr(pushing, "SECONDS", 0.5)
    message = "Cannot create repo: another conflicting operation is in progress"
    server.faults.append(Fault("POST", "/api/repos/create", status=409, message=message, times=10**9))
    with push_refused(folder, f"the Hub ({server.address}) was not done in 0 seconds. Try again later."):
        hub.push(folder, "me/new")


# ------------------------------------------------------------------------------------------------------ from a model


@pytest.fixture
def model():
    model = prompted(num_prompt_tokens=4, id2label={0: "a", 1: "b", 2: "c"})
    model.peft_config["default"].base_model_name_or_path = "me/base"
    return model


def test_a_model_with_its_card_in_one_call(published, model):
    published.add("me/base", {"README.md": b"---\nlicense: cc-by-nc-4.0\n---\n"})
    address = push_to_hub(model, "me/moves-prompts", private=True, dataset="me/moves", scores={"top1": 50.0})
    assert address.startswith(f"{published.address}/me/moves-prompts/commit/")
    assert published.repositories["me/moves-prompts"].private
    card = ModelCard(published.files("me/moves-prompts")["README.md"].decode())
    assert (card.data.base_model, card.data.license, card.data.datasets) == ("me/base", "cc-by-nc-4.0", ["me/moves"])
    assert [(r.metric_value, r.dataset_split) for r in card.data.eval_results] == [(0.5, "test")]
    assert card.data.model_name == "moves-prompts"
    names: dict = {}
    exec(card.text.split("```python\n")[1].split("```")[0], names)
    with torch.no_grad():
        expected = AutoPeftModelForVideoClassification.from_pretrained("me/moves-prompts").eval()(clips()).logits
        assert torch.equal(names["model"](clips()).logits, expected)


def test_one_of_a_model_s_adapters(published, model):
    model.add_adapter("second", AttentionPromptConfig(num_prompt_tokens=7, base_model_name_or_path="me/base"))
    push_to_hub(model, "me/second", adapter_name="second")
    assert set(published.files("me/second")) == NAMES
    loaded = AutoPeftModelForVideoClassification.from_pretrained("me/second")
    assert loaded.peft_config["default"].num_prompt_tokens == 7
    with raises_exactly(
        ConfigError, "adapter_name ('third') must be one of the model's adapters: ['default', 'second']."
    ):
        push_to_hub(model, "me/third", adapter_name="third")
    assert "me/third" not in published.repositories


def test_numbers_of_an_earlier_adapter_go(published, model, folder):
    """A run.json would say how clips are made for the one that it came with."""
    (folder / "run.json").write_text("{}")
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "result.json").write_text("{}")
    hub.push(folder, "me/new")
    published.add("me/new", {"notes.md": b"mine", "evaluation/inner/x": b"mine, too"})
    assert {"run.json", "evaluation/result.json"} < set(published.files("me/new"))
    push_to_hub(model, "me/new")
    assert set(published.files("me/new")) == NAMES | {"notes.md", "evaluation/inner/x"}


def test_a_failed_upload_of_a_model_names_no_folder(published, model):
    with raises_exactly(
        AptError,
        "push_to_hub (you/new) must be a repository that you may write to, but you may not do this (You don't have the rights "
        'to create a model under the namespace "you"). Log in as somebody who may: hf auth login',
    ):
        push_to_hub(model, "you/new")


def test_a_folder_as_it_is(server, folder):
    push_to_hub(folder, "me/new", revision="v1")
    assert server.files("me/new", "v1")["README.md"] == CARD
    (folder / "adapter_config.json").unlink()
    with raises_exactly(
        CheckpointError,
        f"adapter ({folder}) must be a folder or a name on the Hub with an adapter_config.json, but it has none. Give the "
        "folder that training or a conversion wrote.",
    ):
        push_to_hub(folder, "me/other")


def test_peft_s_push_to_hub(published, model):
    """It works, under a card of transformers' that says nothing of the import; the next upload keeps a better one."""
    model.push_to_hub("me/plain")
    loaded = AutoPeftModelForVideoClassification.from_pretrained("me/plain").eval()
    with torch.no_grad():
        assert loaded(clips()).logits.shape == (2, 3)
    assert isinstance(loaded, PeftModel)
    assert b"import apt_peft" not in published.files("me/plain")["README.md"]
    push_to_hub(model, "me/plain")
    model.push_to_hub("me/plain", commit_message="Again")
    assert b"import apt_peft" in published.files("me/plain")["README.md"]
