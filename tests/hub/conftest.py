"""A Hub of the test's own, an empty cache, and no waiting between attempts."""

import json
import time
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub import constants, file_download
from loading import scores
from models import prompted, tiny_videomae
from peft import PeftModel
from runs import backbone, data, quick  # noqa: F401
from server import Hub
from transformers import AutoModelForVideoClassification

from apt_peft.hub import bounds


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Seconds that were to be waited between attempts; nobody waits."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def server(monkeypatch, tmp_path, waits):
    """A running Hub to which huggingface_hub, PEFT and transformers turn; `me` is logged in."""
    hub = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.address)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()
    hub.close()


LIMITS = [
    (constants, "HF_HUB_ETAG_TIMEOUT"),
    (constants, "HF_HUB_DOWNLOAD_TIMEOUT"),
    (file_download, "_ETAG_RETRY_TIMEOUT"),
    (bounds, "SILENCE"),
]


@pytest.fixture
def impatient(monkeypatch):
    """`with impatient():` gives a silent server up after a fifth of a second instead of ten to sixty."""

    @contextmanager
    def limits():
        with monkeypatch.context() as patch:
            for place, name in LIMITS:
                patch.setattr(place, name, 0.2)
            yield

    return limits


@pytest.fixture
def offline(monkeypatch):
    """Cut the network off, as HF_HUB_OFFLINE=1 does."""

    def cut() -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    return cut


def files_of(folder: Path, **changes) -> dict[str, bytes]:
    """The files of a folder; of an adapter's config, some values changed."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    if changes:
        files["adapter_config.json"] = json.dumps(json.loads(files["adapter_config.json"]) | changes).encode()
    return files


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """A base and two adapters of it, which give other logits, as the files of repositories."""
    root = tmp_path_factory.mktemp("made")
    tiny_videomae(num_labels=2).save_pretrained(root / "base")
    files = {"base": files_of(root / "base")}
    for seed, name in enumerate(("first", "second")):
        labels = {index: f"{name} {index}" for index in range(3)}
        model = prompted(seed=seed, model=tiny_videomae(num_labels=2), num_prompt_tokens=3 + seed, id2label=labels)
        model.save_pretrained(root / name)
        files[name] = files_of(root / name, base_model_name_or_path="me/base")
    return files


@pytest.fixture
def published(server, made) -> Hub:
    """The Hub with `me/base`, and `me/adapter` in two versions: `v1`, and another on main."""
    server.add("me/base", made["base"])
    repository = server.add("me/adapter", made["first"])
    repository.refs["v1"] = repository.refs["main"]
    repository.commit(made["second"])
    return server


@pytest.fixture
def logits(made, tmp_path) -> dict[str, torch.Tensor]:
    """Of the two versions, loaded from folders by PEFT."""
    found = {}
    for name in ("base", "first", "second"):
        folder = tmp_path / "folders" / name
        folder.mkdir(parents=True)
        for file, content in made[name].items():
            (folder / file).write_bytes(content)
    for name in ("first", "second"):
        base = AutoModelForVideoClassification.from_pretrained(tmp_path / "folders" / "base")
        found[name] = scores(PeftModel.from_pretrained(base, tmp_path / "folders" / name).eval())
    assert not torch.equal(found["first"], found["second"])
    return found
