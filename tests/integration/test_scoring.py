"""Adapters and clips that cannot be scored, each with its message; labels that come in another order."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from clips import write_classes
from helpers import raises_exactly
from huggingface_hub import constants
from models import tiny_videomae
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from apt_peft import AttentionPromptConfig, CheckpointError, ConfigError, DataError
from apt_peft.scoring import EvaluateSettings, PredictSettings, evaluate_adapter, open_adapter, predict
from apt_peft.training.base import open_base, weights_fingerprint
from apt_peft.training.record import read_run
from apt_peft.training.settings import TrainSettings
from apt_peft.training.train import train
from apt_peft.video.clip import VIDEO_SUFFIXES


@pytest.fixture(scope="module")
def trained(backbone, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "apt"
    return train(
        TrainSettings(
            model=str(backbone), data=str(data), out=str(out), epochs=1, batch_size=4, num_prompt_tokens=3, threads=1,
            progress=False,
        )
    )  # fmt: skip


@pytest.fixture
def adapter(trained, tmp_path) -> Path:
    """A copy of the adapter that a test may damage."""
    copy = tmp_path / "adapter"
    copy.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "run.json"):
        shutil.copy(trained.out / name, copy)
    return copy


def settings(adapter: Path, data: Path | str = "d", **given) -> EvaluateSettings:
    return EvaluateSettings(adapter=str(adapter), data=str(data), progress=False, **given)


def test_no_adapter(tmp_path):
    with raises_exactly(
        CheckpointError,
        f"adapter ({tmp_path}) must be a folder or a name on the Hub with an adapter_config.json, but it has none. Give the "
        "folder that training or a conversion wrote.",
    ):
        open_adapter(settings(tmp_path))


def test_an_adapter_that_names_no_backbone(adapter):
    change(adapter, base_model_name_or_path=None)
    with raises_exactly(
        CheckpointError, f"adapter ({adapter}) must name its backbone, but it names none. Add --model."
    ):
        open_adapter(settings(adapter))


def test_a_backbone_that_went_away(adapter):
    change(adapter, base_model_name_or_path="/no/such/place")
    with raises_exactly(
        CheckpointError,
        f"adapter ({adapter}) must find the backbone that it names, but there is no folder /no/such/place. "
        "Give its place by --model.",
    ):
        open_adapter(settings(adapter))
    with raises_exactly(
        CheckpointError,
        "model (/nor/here) must be a folder or a name on the Hub, but there is no such folder. Check the path.",
    ):
        open_adapter(settings(adapter, model="/nor/here"))


def test_a_backbone_named_from_another_folder(backbone, quick, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copytree(backbone, "bases/tiny")
    adapter = train(quick(model="bases/tiny", epochs=1, test=False)).out
    open_adapter(settings(adapter))
    monkeypatch.chdir(tmp_path)
    with raises_exactly(
        CheckpointError,
        f"adapter ({adapter}) must find the backbone that it names, but there is no folder bases/tiny in {tmp_path}. "
        "Give its place by --model.",
    ):
        open_adapter(settings(adapter))
    open_adapter(settings(adapter, model="here/bases/tiny"))


def test_a_backbone_that_may_be_on_the_hub_and_cannot_be_had(adapter):
    change(adapter, base_model_name_or_path="no-such")
    (adapter / "run.json").unlink()
    with raises_exactly(
        CheckpointError,
        "model (no-such) must be a folder or a name on the Hub with a transformers config.json, but there is no such "
        f"folder, and of the Hub: it is not in the cache ({constants.HF_HUB_CACHE}), and the Hub must not be asked "
        "(HF_HUB_OFFLINE is set). Load it once online. The adapter names this backbone; give another place of it by --model.",
    ):
        open_adapter(settings(adapter))


def test_an_adapter_for_another_backbone(adapter, tmp_path):
    tiny_videomae(hidden_size=48, num_attention_heads=3).save_pretrained(tmp_path / "other")
    with raises_exactly(
        CheckpointError,
        f"adapter ({adapter}) must be whole and fit its backbone ({tmp_path / 'other'}), but it has other shapes: "
        "base_model.model.classifier.weight [3, 32], not [3, 48], base_model.model.fc_norm.bias [32], not [48], "
        "base_model.model.fc_norm.weight [32], not [48]. Copy the adapter again, or give the backbone it was trained on.",
    ):
        open_adapter(settings(adapter, model=str(tmp_path / "other")))


def test_a_backbone_of_other_weights(adapter, backbone, tmp_path, caplog):
    other = tmp_path / "other"
    tiny_videomae(num_labels=2, seed=1).save_pretrained(other)
    found, known = (weights_fingerprint(open_base(str(place), labels=["a", "b"])) for place in (other, backbone))
    differ = f"its weights have the fingerprint {found}, those of training had {known}"
    open_adapter(settings(adapter, model=str(other)))
    assert caplog.messages == [f"{other} is not the backbone that the adapter was trained on: {differ}."]
    change(adapter, base_model_name_or_path=str(other))
    with raises_exactly(
        CheckpointError,
        f"backbone ({other}) must be the one that adapter ({adapter}) was trained on, but {differ}. "
        "Give the place of the right one by --model.",
    ):
        open_adapter(settings(adapter))


@pytest.mark.parametrize("lost", ["attention_prompt_key", "classifier"])
def test_an_adapter_that_lacks_tensors_is_not_scored(adapter, backbone, data, lost):
    weights = load_file(adapter / "adapter_model.safetensors")
    gone = sorted(name for name in weights if lost in name)
    save_file({name: weights[name] for name in weights.keys() - gone}, adapter / "adapter_model.safetensors")
    with raises_exactly(
        CheckpointError,
        f"adapter ({adapter}) must be whole and fit its backbone ({backbone}), but it lacks "
        f"{', '.join(gone)}. "
        "Copy the adapter again, or give the backbone it was trained on.",
    ):
        evaluate_adapter(settings(adapter, data))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("{}", "KeyError: 'clips'"),
        ("[]", "TypeError: list indices must be integers or slices, not str"),
        (
            "[" * 100_000,
            "RecursionError: maximum recursion depth exceeded while decoding a JSON array from a unicode string",
        ),
    ],
)
def test_a_damaged_run_file(adapter, content, reason):
    (adapter / "run.json").write_text(content)
    with raises_exactly(
        CheckpointError,
        f"adapter ({adapter}) must have a run.json as apt-peft train wrote it, but reading it fails: {reason}. "
        "Restore the file, or delete it and give the clip settings by flags.",
    ):
        read_run(adapter)


def test_an_adapter_of_another_origin_follows_its_backbone_and_the_flags(backbone, data, tmp_path):
    labels = dict(enumerate(["down", "left", "up"]))
    base = tiny_videomae(id2label=labels, label2id={name: index for index, name in labels.items()})
    base.save_pretrained(tmp_path / "base")
    base = type(base).from_pretrained(tmp_path / "base")
    get_peft_model(base, AttentionPromptConfig(num_prompt_tokens=2)).save_pretrained(tmp_path / "adapter")
    assert read_run(tmp_path / "adapter") is None
    opened = open_adapter(settings(tmp_path / "adapter", sampling="dense", frame_stride=1, batch_size=3))
    assert (opened.clips.sampling, opened.clips.frame_stride, opened.batch_size) == ("dense", 1, 3)
    assert opened.labels == ("down", "left", "up")
    result, _, _ = evaluate_adapter(settings(tmp_path / "adapter", data))
    assert len(result.names) == 6


def test_labels_in_another_order_are_told_by_their_names(trained, data, tmp_path):
    wanted = evaluate_adapter(settings(trained.out, data, out=str(tmp_path / "one")))[0]
    lines = {
        f"{label}/{label}_{number}.mp4": place
        for place, label in enumerate(["up", "left", "down"])
        for number in (0, 1)
    }
    (tmp_path / "test.csv").write_text("".join(f"{path} {place}\n" for path, place in sorted(lines.items())))
    (tmp_path / "labels.txt").write_text("up\nleft\ndown\n")
    given = {"test_list": str(tmp_path / "test.csv"), "out": str(tmp_path / "two")}
    found = evaluate_adapter(settings(trained.out, data / "test", labels=str(tmp_path / "labels.txt"), **given))[0]
    assert torch.equal(found.targets, wanted.targets)
    assert torch.equal(found.scores, wanted.scores)


def test_labels_that_the_adapter_does_not_know(trained, tmp_path):
    place = write_classes(tmp_path / "data", ["left", "sideways"], clips=1, num_frames=4, width=32, height=24)
    (place / "labels.txt").write_text("left\nsideways\n")
    with raises_exactly(
        DataError,
        f"data ({place}) must have the adapter's labels, but it has ['sideways']. "
        "The adapter knows ['down', 'left', 'up'].",
    ):
        evaluate_adapter(settings(trained.out, place))


def test_a_split_that_is_not_there(trained, data):
    with raises_exactly(DataError, f"split (val) must have clips, but {data} has only train, test."):
        evaluate_adapter(settings(trained.out, data, split="val"))


def test_data_without_splits_are_scored_whole(trained, data, tmp_path):
    _, split, _ = evaluate_adapter(settings(trained.out, data / "test", out=str(tmp_path / "x")))
    assert split == "train"


def test_the_tables_of_the_test_split_stay(adapter, data):
    def tables(**given) -> tuple[str, str]:
        _, split, out = evaluate_adapter(settings(adapter, data, **given))
        return split, str(Path(out).relative_to(adapter))

    assert tables() == ("test", "evaluation")
    before = (adapter / "evaluation" / "result.json").read_text()
    assert tables(split="train") == ("train", "evaluation-train")
    assert (adapter / "evaluation" / "result.json").read_text() == before
    assert json.loads((adapter / "evaluation-train" / "result.json").read_text())["clips"] == 12


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_split_can_come_from_a_list(adapter, data, tmp_path, split):
    (tmp_path / "list.txt").write_text("test/up/up_0.mp4 up\ntest/left/left_1.mp4 left\n")
    given = {f"{split}_list": str(tmp_path / "list.txt")}
    for asked in (None, split):
        result, found, out = evaluate_adapter(settings(adapter, data, split=asked, **given))
        assert (found, Path(out).name) == (split, "evaluation" if split == "test" else f"evaluation-{split}")
        assert result.names == ("test/up/up_0.mp4", "test/left/left_1.mp4")
        assert [result.labels[target] for target in result.targets] == ["up", "left"]


def test_nothing_to_predict(trained, tmp_path):
    with raises_exactly(
        ConfigError,
        f"clips ({tmp_path / 'no'}) must be a video or a folder of videos, but there is nothing of that name.",
    ):
        predict(PredictSettings(adapter=str(trained.out), clips=str(tmp_path / "no")))
    (tmp_path / "notes.txt").write_text("")
    with raises_exactly(
        ConfigError,
        f"clips ({tmp_path}) must be a video or a folder of videos, but it holds no file with a suffix of one "
        f"({' '.join(sorted(VIDEO_SUFFIXES))}).",
    ):
        predict(PredictSettings(adapter=str(trained.out), clips=str(tmp_path)))


def test_one_video_is_predicted_whatever_its_suffix(trained, data, tmp_path):
    shutil.copy(data / "test" / "up" / "up_0.mp4", tmp_path / "clip.data")
    (row,) = predict(PredictSettings(adapter=str(trained.out), clips=str(tmp_path / "clip.data"), top_k=2))
    assert row["clip"] == str(tmp_path / "clip.data")
    assert len(row["scores"]) == 2


def test_an_adapter_without_run_file_is_not_resumed(adapter, quick):
    (adapter / "run.json").unlink()
    with raises_exactly(
        ConfigError,
        f"out ({adapter}) must hold a run of apt-peft train to resume, but it holds an adapter without run.json. "
        "Choose another --out.",
    ):
        train(quick(out=str(adapter), resume=True))


def change(adapter: Path, **values) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | values))
