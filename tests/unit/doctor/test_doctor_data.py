"""Clips for a backbone, each fault alone; the probe against one that is fitted anew for each clip; adapters and bases."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import write_clip
from damages import LABELS, both, config, good, head, redrawn, scale
from helpers import raises_exactly
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForVideoClassification

from apt_peft import AttentionPromptConfig, CheckpointError
from apt_peft.cli import main
from apt_peft.demo import clips as shapes
from apt_peft.demo.settings import BACKBONE
from apt_peft.doctor import DoctorSettings, diagnose
from apt_peft.doctor.data import check_probe, leave_one_out, sample_clips
from apt_peft.doctor.features import spread_and_rank, synthetic_clips
from apt_peft.video import Clip, DataSplits

CLASSES = {"east": 0, "west": 4}  # directions of the demo's larger shape


@pytest.fixture(scope="session")
def moving(tmp_path_factory) -> Path:
    """Twelve clips of each of two directions, which the demo's backbone was trained to tell."""
    root = tmp_path_factory.mktemp("moving")
    drawn, (directions, _, _) = shapes.larger(256, torch.Generator().manual_seed(3))
    for name, direction in CLASSES.items():
        (root / name).mkdir()
        for number, index in enumerate((directions == direction).nonzero().flatten()[:12].tolist()):
            shapes.write_clip(root / name / f"{number:02}.mp4", drawn[index])
    return root


@pytest.fixture
def data(moving, tmp_path) -> Path:
    return Path(shutil.copytree(moving, tmp_path / "data"))


def examined(data: Path, model: Path = BACKBONE, **settings):
    return diagnose(DoctorSettings(model=str(model), data=str(data), **settings))


def replace(data: Path, count: int, **settings) -> None:
    """Put other clips in the place of some of each class."""
    for name in CLASSES:
        for path in sorted((data / name).iterdir())[:count]:
            write_clip(path, **({"num_frames": 8, "width": 64, "height": 48, "fps": 8} | settings))


def test_nothing_is_wrong_with_clips_that_fit(data):
    report = examined(data)
    assert report.codes == []
    assert report.facts["data"] == "24 clips, 2 classes"
    seen = report.facts["videos looked at"]
    assert seen == {"videos": 24, "frames": [8, 8, 8], "short_side": [48, 48], "fps": [8, 8]}
    probe = report.facts["probe (rough)"]
    assert probe["clips"] == 24
    assert probe["accuracy"] >= 0.75 > probe["chance"] + 2 * probe["error"]


@pytest.mark.parametrize(
    ("spoil", "code", "evidence"),
    [
        (lambda data: (data / "east" / "00.mp4").write_bytes(b"no video"), "videos-unreadable", "1 of 24 looked at: "),
        (
            lambda data: replace(data, 2, num_frames=5), "videos-short",
            "4 of 24 looked at have 5 to 5 frames, a clip has 8",
        ),
        (lambda data: replace(data, 2, fps=20, num_frames=20), "frame-rates-mixed", "from 8 to 20 frames a second"),
        (lambda data: replace(data, 2, width=64, height=32), "videos-small", "4 of 24 looked at, down to 32 pixels"),
    ],
    ids=["unreadable", "short", "rates", "small"],
)  # fmt: skip
def test_each_fault_of_clips_is_found_alone(data, spoil, code, evidence):
    spoil(data)
    report = examined(data)
    assert report.codes == [code]
    assert report.findings[0].evidence.startswith(evidence)


def test_frames_far_apart(data):
    for path in sorted(data.glob("*/*.mp4")):
        write_clip(path, num_frames=24, fps=1, width=64, height=48)
    report = examined(data, features=False)
    assert report.codes == ["frames-far-apart"]
    assert report.findings[0].evidence == "8 frames over a median of 24.0 s are 3.0 s apart"


def test_labels_that_say_nothing(data):
    """Names dealt out anew at random: what the backbone sees has nothing to do with them."""
    paths = sorted(data.glob("*/*.mp4"))
    held = [path.read_bytes() for path in paths]
    for path, place in zip(paths, np.random.default_rng(0).permutation(len(held)), strict=True):
        path.write_bytes(held[place])
    report = examined(data)
    assert report.codes == ["probe-at-chance"]
    assert "of 24 clips of 2 classes right, chance 50 % (standard error 10)" in report.findings[0].evidence


def test_a_head_that_knows_the_labels(data, tmp_path):
    folder = good(tmp_path / "base")
    names = {"id2label": {"0": "West", "1": "east", "2": "up"}, "label2id": {"West": 0, "east": 1, "up": 2}}
    both(head(3), config(**names))(folder)
    report = examined(data, folder)
    assert report.codes == ["head-knows-labels", "head-present"]
    assert report.findings[0].evidence == "all 2 classes are among its 3 labels, 'east' for one"
    both(head(5), config(**LABELS))(folder)
    assert examined(data, folder).codes == ["head-present"]


def test_an_untrained_backbone_is_not_asked(data, tmp_path):
    folder = good(tmp_path / "base")
    redrawn(*range(6))(folder)
    report = examined(data, folder)
    assert report.codes == ["untrained"]
    assert "probe (rough)" not in report.facts


def test_the_command_takes_data(data, capsys):
    assert main(["doctor", str(BACKBONE), str(data), "--clips", "8", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert facts["probe (rough)"]["clips"] == 8
    lines = "".join(f"{name}/00.mp4 {name}\n{name}/01.mp4 {name}\n" for name in CLASSES)
    (data / "some.txt").write_text(lines)
    assert main(["doctor", str(BACKBONE), str(data), "--train-list", str(data / "some.txt")]) in (0, 1)
    shown = capsys.readouterr().out
    assert "  data: 4 clips, 2 classes\n" in shown
    assert "  videos looked at: videos 4, frames 8 to 8, short_side 48 to 48, fps 8 to 8\n" in shown


def test_clips_are_taken_from_every_class_in_turn():
    many = [Clip(f"a{i}", 0) for i in range(100)] + [Clip(f"b{i}", 1) for i in range(2)] + [Clip("c", 2)]
    chosen = sample_clips(DataSplits(train=many, test=[Clip("t", 0)]), 9)
    assert [clip.source for clip in chosen] == ["a0", "b0", "c", "a33", "b1", "a66"]
    assert [clip.source for clip in sample_clips(DataSplits(test=[Clip("t", 0)]), 9)] == ["t"]
    assert sample_clips(DataSplits(), 9) == []
    assert [clip.source for clip in sample_clips(DataSplits(train=many), 4, classes=2)] == ["a0", "b0", "a50", "b1"]


def test_few_clips_say_nothing_against_a_backbone():
    features, labels = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2
    found, numbers = check_probe(features, labels)
    assert found == []
    assert numbers["accuracy"] < numbers["chance"] + 2 * numbers["error"]
    assert check_probe(features, torch.zeros(12)) == ([], {})
    assert check_probe(features.fill_(float("nan")), labels) == ([], {})


@pytest.mark.parametrize("seed", range(3))
def test_leave_one_out_is_what_fitting_anew_gives(seed):
    """Against ridge regression with a free intercept, by numpy, on all clips but one, for each clip."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (20,), generator=generator)
    features = torch.randn(20, 7, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, 7)
    normal = torch.nn.functional.layer_norm(features.double(), (7,)).numpy()
    normal = (normal - normal.mean(0)) / normal.std(0, ddof=1)
    strength = 0.1 * float((normal**2).sum(1).mean())
    right = 0
    for out in range(20):
        keep = np.arange(20) != out
        x, y = normal[keep], np.eye(3)[labels.numpy()[keep]]
        inputs, wanted = x - x.mean(0), y - y.mean(0)
        weight = np.linalg.solve(inputs.T @ inputs + strength * np.eye(7), inputs.T @ wanted)
        scores = (normal[out] - x.mean(0)) @ weight + y.mean(0)
        right += scores.argmax() == int(labels[out])
    assert leave_one_out(features, labels) == pytest.approx(right / 20)
    assert right > 5


def test_spread_and_rank_of_what_is_known():
    generator = torch.Generator().manual_seed(0)
    free = torch.randn(16, 400, generator=generator)
    spread, rank = spread_and_rank(free)
    assert spread > 0.9
    assert 13 < rank <= 15
    base, direction = torch.randn(2, 400, generator=generator)
    line = base + torch.randn(16, 1, generator=generator) * 0.01 * direction
    assert spread_and_rank(line)[1] == pytest.approx(1, abs=0.05)
    assert spread_and_rank(base.repeat(16, 1)) == (pytest.approx(0, abs=1e-9), pytest.approx(1, abs=1e-6))


def test_made_up_clips_move_and_differ():
    clips = synthetic_clips(8, 4, 20)
    assert clips.shape == (8, 4, 3, 20, 20)
    assert clips.min() >= 0
    assert clips.max() <= 1
    assert all(float((clip[0] - clip[-1]).abs().mean()) > 0.001 for clip in clips)
    assert torch.equal(clips, synthetic_clips(8, 4, 20))
    flat = clips.flatten(1)
    assert (torch.cdist(flat, flat) + torch.eye(8) * 100).min() > 1


@pytest.fixture
def adapter(tmp_path) -> Path:
    base = AutoModelForVideoClassification.from_pretrained(BACKBONE, id2label={0: "east", 1: "west", 2: "up"})
    model = get_peft_model(base, AttentionPromptConfig(num_prompt_tokens=3))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_with_its_base(adapter):
    report = diagnose(DoctorSettings(model=str(adapter)))
    assert report.codes == []
    assert report.model == str(adapter)
    assert report.facts["backbone"] == str(BACKBONE)


def test_an_adapter_on_a_base_of_another_depth(adapter, tmp_path):
    folder = good(tmp_path / "base")
    state = load_file(folder / "model.safetensors")
    save_file(
        {n: v for n, v in state.items() if "layer.5." not in n}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    config(num_hidden_layers=5)(folder)
    report = diagnose(DoctorSettings(model=str(adapter), base=str(folder)))
    assert report.codes == ["adapter-unfit"]
    assert "has no place for" in report.findings[0].evidence


def test_an_adapter_whose_base_is_gone(adapter, tmp_path):
    settings = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "/no/such/place"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with raises_exactly(
        CheckpointError,
        f"adapter ({adapter}) must find the backbone that it names, but there is no folder /no/such/place. Give its place by "
        "--base.",
    ):
        diagnose(DoctorSettings(model=str(adapter)))
    assert diagnose(DoctorSettings(model=str(adapter), base=str(BACKBONE))).codes == []


def test_an_adapter_cannot_be_mended(adapter, tmp_path, capsys):
    folder = good(tmp_path / "base")
    config(use_mean_pooling=False)(folder)
    code = main(["doctor", str(adapter), "--base", str(folder), "--fix", str(tmp_path / "out")])
    assert code == 2
    assert capsys.readouterr().err == (
        f"error: fix ({tmp_path / 'out'}) must go with a backbone, but {adapter} is an adapter. Mend {folder}, and train "
        "anew.\n"
    )


def test_an_adapter_trained_on_other_weights(moving, tmp_path, capsys):
    folder = good(tmp_path / "other")
    scale("layer.3.output.dense.weight", 1.1)(folder)
    words = ["--data", str(moving), "--out", str(tmp_path / "run"), "--epochs", "1", "--num-prompt-tokens", "2"]
    assert (
        main(["train", "--model", str(BACKBONE), *words, "--augment", "none", "--no-progress", "--threads", "1"]) == 0
    )
    assert diagnose(DoctorSettings(model=str(tmp_path / "run"))).codes == []
    report = diagnose(DoctorSettings(model=str(tmp_path / "run"), base=str(folder)))
    assert report.codes == ["adapter-other-base"]
    assert report.findings[0].evidence.startswith(f"{folder} has the fingerprint ")
