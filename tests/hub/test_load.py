"""Adapters from the Hub: by each road, at a revision, offline, and every way in which one cannot be had."""

import hashlib
import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers import raises_exactly
from huggingface_hub import constants, scan_cache_dir
from models import clips
from peft import AutoPeftModel, PeftModel
from server import Fault, git_hash
from transformers import AutoModelForVideoClassification

from apt_peft import AutoPeftModelForVideoClassification, CheckpointError
from apt_peft.checkpoints.source import find_adapter
from apt_peft.cli import main
from apt_peft.scoring import PredictSettings, open_adapter

ADAPTER, CONFIG, WEIGHTS = "me/adapter", "adapter_config.json", "adapter_model.safetensors"


def by_auto(name: str = ADAPTER, **options) -> PeftModel:
    return AutoPeftModelForVideoClassification.from_pretrained(name, **options).eval()


def by_peft(name: str = ADAPTER, **options) -> PeftModel:
    base = AutoModelForVideoClassification.from_pretrained("me/base")
    return PeftModel.from_pretrained(base, name, **options).eval()


def by_peft_auto(name: str = ADAPTER, **options) -> PeftModel:
    return AutoPeftModel.from_pretrained(name, **options).eval()


def by_command(name: str = ADAPTER, **options) -> PeftModel:
    return open_adapter(PredictSettings(adapter=name, clips="c", **options)).model


ROADS = [by_auto, by_peft, by_peft_auto, by_command]
OURS = [by_auto, by_command]


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


def scores(model: PeftModel) -> torch.Tensor:
    with torch.no_grad():
        return model(clips()).logits


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


def refused(reason: str, file: str = CONFIG, name: str = ADAPTER):
    return raises_exactly(CheckpointError, f"{file} of {name} must be on the Hub, but {reason}")


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


# ----------------------------------------------------------------------------------------------------------- faults


def whole_or_nothing() -> None:
    """No file of the cache is a part of one."""
    if not Path(constants.HF_HUB_CACHE).exists():
        return
    for repository in scan_cache_dir(constants.HF_HUB_CACHE).repos:
        for revision in repository.revisions:
            for file in revision.files:
                assert file.size_on_disk == file.file_path.stat().st_size > 0
    assert list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete")) == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("HEAD", ".*/resolve/.*", times=3, status=500),
        Fault("HEAD", ".*/resolve/.*", times=3, status=503),
        Fault("HEAD", ".*/resolve/.*", times=3, status=429, headers={"Retry-After": "7"}),
        Fault("HEAD", ".*/resolve/.*", times=2, stall=True),
        Fault("GET", "/objects/.*", times=2, status=429, headers={"Retry-After": "7"}),
        Fault("GET", "/objects/.*", times=3, cut=0.5),
        Fault("GET", "/objects/.*", times=1, stall=True),
        Fault("GET", f"/me/adapter/resolve/.*/{CONFIG}", times=2, cut=0.5),
    ],
    ids=lambda fault: f"{fault.method} {fault.status or ('cut' if fault.cut else 'stalled')}",
)
def test_what_passes_is_waited_for(published, logits, waits, impatient, fault):
    published.faults.append(fault)
    with impatient() if fault.stall else nullcontext():
        assert torch.equal(scores(by_auto()), logits["second"])
    assert fault.times == 0
    assert 0 < len(waits) <= 6
    assert max(waits) <= 9
    if fault.headers:
        assert 8.0 in waits  # what it asked for, and a second
    whole_or_nothing()


@pytest.mark.parametrize(
    ("fault", "file", "told"),
    [
        (Fault("HEAD", ".*", status=500), CONFIG, "answers 500. Try again later."),
        (Fault("HEAD", ".*", status=429, headers={"Retry-After": "3"}), CONFIG, "answers 429. Try again later."),
        (
            Fault("HEAD", ".*", status=429, headers={"Retry-After": "86400"}),
            CONFIG,
            "answers 429 and asks to wait 86,400 seconds. Try again then.",
        ),
        (
            Fault("HEAD", ".*", status=429, headers={"ratelimit": '"api";r=0;t=86400'}),
            CONFIG,
            "answers 429 and asks to wait 86,400 seconds. Try again then.",
        ),
        (Fault("HEAD", ".*", stall=True), CONFIG, "cannot be reached: timed out. Check the network."),
        (Fault("GET", "/objects/.*", status=500), WEIGHTS, "answers 500 (Something is wrong). Try again later."),
        (Fault("GET", "/objects/.*", stall=True), WEIGHTS, "cannot be reached: timed out. Check the network."),
        (
            Fault("GET", "/objects/.*", cut=0.5),
            WEIGHTS,
            "cannot be reached: peer closed connection without sending complete message body (received {half} bytes, "
            "expected {whole}). Check the network.",
        ),
    ],
    ids=["500", "429", "429 for a day", "rate limit for a day", "stalled", "file 500", "file stalled", "file cut"],
)
def test_what_does_not_pass_ends_soon_and_leaves_nothing_half(published, waits, logits, impatient, fault, file, told):
    fault.times = 1000
    published.faults[:] = [fault]
    half = len(published.files(ADAPTER)[WEIGHTS]) // 2
    told = told.format(half=half, whole=len(published.files(ADAPTER)[WEIGHTS]))
    limits = impatient() if fault.stall else nullcontext()
    with refused(f"the Hub ({published.address}) {told}", file=file), limits:
        by_auto()
    assert len(waits) <= 12
    assert sum(waits) < 120
    assert 1000 - fault.times <= 12
    whole_or_nothing()
    published.faults.clear()
    assert torch.equal(scores(by_auto()), logits["second"])


def test_the_command_line_says_the_same(published, waits, capsys, tmp_path):
    (tmp_path / "clip.mp4").touch()
    published.faults.append(Fault("HEAD", ".*", status=500, times=100))
    assert main(["predict", "--adapter", ADAPTER, str(tmp_path / "clip.mp4")]) == 2
    told = capsys.readouterr().err
    where = f"{CONFIG} of {ADAPTER} must be on the Hub, but the Hub ({published.address})"
    assert told == f"error: {where} answers 500. Try again later.\n"


def test_a_cut_download_goes_on_where_it_was(published, logits, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 256)
    published.faults.append(Fault("GET", "/objects/.*", cut=0.5))
    find_adapter(ADAPTER)
    ranges = [headers.get("range") for _, _, headers in published.requests("GET", "/objects/")]
    assert ranges[0] is None
    assert re.fullmatch(r"bytes=[1-9]\d+-", ranges[1])
    assert torch.equal(scores(by_auto()), logits["second"])


@pytest.mark.parametrize("road", OURS)
@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kind", ["changed", "wrong etag"])
def test_content_that_is_not_what_the_hub_says(published, logits, road, file, kind):
    method, place = ("GET", "/objects/.*") if file == WEIGHTS else ("GET", f"/me/adapter/resolve/.*/{CONFIG}")
    wrong = "0" * (64 if file == WEIGHTS else 40)
    if kind == "changed":
        flipped = Fault(method, place, change=lambda content: content[:-1] + bytes([content[-1] ^ 1]), times=100)
        published.faults.append(flipped)
        known = find_hash(published, file)
    else:
        published.faults.append(Fault("HEAD", f"/me/adapter/resolve/.*/{file}", etag=wrong, times=100))
        known = wrong[:16]
    for _ in range(2):
        with raises_exactly(
            CheckpointError,
            f"{file} of {ADAPTER} must have the content that the Hub names by {known}, but has another: it was damaged on its "
            "way or in the cache. It was deleted; load it again.",
        ):
            road()
    published.faults.clear()
    assert torch.equal(scores(road()), logits["second"])
    whole_or_nothing()


def find_hash(published, file: str) -> str:
    content = published.files(ADAPTER)[file]
    return (hashlib.sha256(content).hexdigest() if file == WEIGHTS else git_hash(content))[:16]


def test_a_cache_that_was_damaged_later(published, logits, offline):
    files = find_adapter(ADAPTER)
    blob = files.weights.resolve()
    blob.write_bytes(blob.read_bytes()[:-4] + b"\0\0\0\1")
    offline()
    with pytest.raises(CheckpointError, match="It was deleted; load it again"):
        by_auto()


def test_a_file_that_is_too_large_is_not_downloaded(published):
    published.faults.append(Fault("HEAD", f".*/{CONFIG}", times=9))
    published.add(ADAPTER, {CONFIG: b"[" * ((8 << 20) + 1)})
    with raises_exactly(
        CheckpointError,
        "adapter_config.json of me/adapter must have at most 8,388,608 bytes, but has 8,388,609. It was not read.",
    ):
        by_auto()
    assert published.requests("GET", "/me/adapter/") == []


def test_a_cached_copy_serves_where_the_hub_asks_to_wait_for_a_day(published, logits):
    by_auto()
    published.faults.append(Fault("HEAD", ".*", status=429, headers={"Retry-After": "86400"}, times=100))
    assert torch.equal(scores(by_auto()), logits["second"])


def test_an_adapter_that_names_a_place_on_another_machine(published, made):
    first = json.loads(made["first"][CONFIG])
    for place in ("/home/somebody/base", "../../etc", "file:///etc/passwd", "me/../../etc", "C:\\base"):
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
