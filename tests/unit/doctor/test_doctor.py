"""A good backbone is spoiled in each way: that finding and no other; and mended where it can be."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
import transformers
from architectures import ARCHITECTURES, AVAILABLE
from damages import DAMAGES, HARMLESS, Unsafe, config, good, in_parts, pickled, tensors
from helpers import raises_exactly
from huggingface_hub import constants
from safetensors.torch import load_file

from apt_peft import CheckpointError, ConfigError
from apt_peft.cli import main
from apt_peft.demo.settings import BACKBONE
from apt_peft.doctor import KINDS, DoctorSettings, diagnose
from apt_peft.doctor.diagnosis import examine
from apt_peft.doctor.fix import mend
from apt_peft.doctor.patient import open_patient


def codes(folder: Path | str, **settings) -> list[str]:
    return diagnose(DoctorSettings(model=str(folder), **settings)).codes


def content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_nothing_is_wrong_with_the_embedded_backbone():
    report = diagnose(DoctorSettings(model=str(BACKBONE)))
    assert report.codes == []
    assert not report.has_errors
    assert report.facts["clips"] == "8 frames of 48 x 48 pixels, patches of 4 x 8 x 8"
    assert report.facts["weights"] == "1.3 M numbers in float16"
    assert str(report).endswith("\n\nNothing was found.")


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_fine_is_not_found(tmp_path, name):
    folder = good(tmp_path / "base")
    HARMLESS[name](folder)
    assert codes(folder) == []


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_found_alone_and_mended_where_it_can_be(tmp_path, name):
    damage, code, mended = DAMAGES[name]
    folder, out = good(tmp_path / "base"), tmp_path / "mended"
    damage(folder)
    before = content(folder)
    settings = DoctorSettings(model=str(folder))
    patient = open_patient(str(folder))
    report = examine(patient, settings)
    assert report.codes == [code]
    finding = report.findings[0]
    assert finding.evidence
    assert (finding.mend is not None) == mended
    assert not mended or KINDS[code].mended
    if mended:
        assert mend(patient, report, out) == [code]
        assert codes(out) == []
    else:
        with raises_exactly(
            ConfigError, f"fix ({out}) must have something to mend, but nothing that was found can be. Leave it out."
        ):
            mend(patient, report, out)
        assert not out.exists()
    assert content(folder) == before


def test_every_code_of_a_model_has_a_damage():
    """Those of clips and of adapters are in test_doctor_data.py."""
    elsewhere = {"position-table", "adapter-unfit", "adapter-other-base", "head-knows-labels", "probe-at-chance"}
    elsewhere |= {code for code in KINDS if code.startswith(("videos-", "frame-rates", "frames-far"))}
    assert {code for _, code, _ in DAMAGES.values()} == set(KINDS) - elsewhere
    assert {code for _, code, mended in DAMAGES.values() if mended} == {c for c, kind in KINDS.items() if kind.mended}


def test_several_at_once_stand_worst_first_and_are_mended_together(tmp_path):
    folder, out = good(tmp_path / "base"), tmp_path / "mended"
    for name in (
        "transformers' eps",
        "no card",
        "pooling of the first token",
        "biases switched off",
        "key biases",
        "a pickle",
    ):
        DAMAGES[name][0](folder)
    patient = open_patient(str(folder))
    report = examine(patient, DoctorSettings(model=str(folder)))
    severities = [finding.kind.severity for finding in report.findings]
    assert severities == sorted(severities, key=("error", "warning", "note").index)
    gone = {"norm-eps", "first-token-pooling", "qv-bias-off", "key-bias", "pickle-only"}
    assert set(report.codes) == gone | {"licence-unknown"}
    assert set(mend(patient, report, out)) == gone
    assert codes(out) == ["licence-unknown"]
    assert not (out / "pytorch_model.bin").exists()
    ours, theirs = load_file(BACKBONE / "model.safetensors"), load_file(out / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_mended_copy_of_parts_keeps_them_and_other_files(tmp_path):
    folder, out = good(tmp_path / "base"), tmp_path / "mended"
    in_parts()(folder)
    config(use_mean_pooling=False)(folder)
    (folder / "labels.txt").write_text("a\n")
    patient = open_patient(str(folder))
    mend(patient, examine(patient, DoctorSettings(model=str(folder))), out)
    assert {path.name for path in out.iterdir()} == {path.name for path in folder.iterdir()}
    changed = {name for name, digest in content(folder).items() if content(out)[name] != digest}
    assert changed == {"config.json"} | ({"preprocessor_config.json"} & changed)


def test_nothing_is_written_over_what_is_there(tmp_path):
    folder, out = good(tmp_path / "base"), tmp_path / "mended"
    config(use_mean_pooling=False)(folder)
    out.mkdir()
    (out / "mine").touch()
    patient = open_patient(str(folder))
    report = examine(patient, DoctorSettings(model=str(folder)))
    with raises_exactly(
        CheckpointError,
        f"out ({out}) must be new or an empty folder, but it is a folder that is not empty. Choose another place.",
    ):
        mend(patient, report, out)
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_a_copy_that_fails_leaves_nothing(tmp_path, monkeypatch):
    from apt_peft.doctor import fix

    folder, out = good(tmp_path / "base"), tmp_path / "mended"
    config(use_mean_pooling=False)(folder)
    patient = open_patient(str(folder))
    report = examine(patient, DoctorSettings(model=str(folder)))
    monkeypatch.setattr(fix, "_write", lambda path, values: path.write_text((folder / path.name).read_text()))
    with raises_exactly(
        CheckpointError,
        f"fix ({out}) must leave a folder without first-token-pooling, but the copy still has it. Nothing was written; "
        "please report it.",
    ):
        mend(patient, report, out)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def drawn(name: str, folder: Path, **changes) -> Path:
    """A tiny model as transformers draws it, with a card and, for videos, a preprocessor."""
    row = ARCHITECTURES[name]
    torch.manual_seed(0)
    settings = transformers.AutoConfig.for_model(name, **(row.settings | changes))
    getattr(transformers, row.model)(settings).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    sizes = {"size": {"height": 16, "width": 16}, "do_center_crop": False}
    pixels = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(sizes | pixels))
    if name == "videomae":
        config(layer_norm_eps=1e-6)(folder)
    return folder


@pytest.mark.parametrize("name", AVAILABLE)
def test_of_other_architectures_only_what_applies_is_said(tmp_path, name):
    found = codes(drawn(name, tmp_path / "base"))
    head = ["head-present"] if ARCHITECTURES[name].video else []
    assert found == ["untrained", *head]


def test_a_position_table_of_another_length(tmp_path):
    folder = drawn("vivit", tmp_path / "base")
    config(num_frames=8)(folder)
    report = diagnose(DoctorSettings(model=str(folder)))
    assert report.codes == ["position-table", "untrained", "head-present"]
    assert "stored as [1, 9, 32], the config gives [1, 17, 32]" in report.findings[0].evidence


def test_only_files_are_read_without_features(tmp_path, monkeypatch):
    folder = good(tmp_path / "base")
    tensors(lambda state: None)(folder)
    monkeypatch.setattr("apt_peft.doctor.features.open_base", lambda *_, **__: pytest.fail("the backbone was loaded"))
    assert codes(folder, features=False) == []


def test_no_code_of_a_pickle_is_run(tmp_path, monkeypatch):
    folder = good(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    pickled(Unsafe())(folder)
    report = diagnose(DoctorSettings(model=str(folder)))
    assert report.findings[0].evidence == "pytorch_model.bin would import getattr"
    assert not Path("never").exists()


def run(capsys, *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_the_command_prints_and_ends_with_1_for_errors_alone(tmp_path, capsys):
    folder = good(tmp_path / "base")
    assert run(capsys, "doctor", folder)[0] == 0
    config("layer_norm_eps")(folder)
    code, out, _ = run(capsys, "doctor", folder)
    assert code == 0
    assert "note: norm-eps: " in out
    assert "  found:  layer_norm_eps is 1e-12, which is transformers' default: config.json says nothing\n" in out
    assert out.endswith("Found: 1 note.\n--fix OUT writes a copy without: norm-eps.\n")
    config(qv_bias=False)(folder)
    assert run(capsys, "doctor", folder, "--no-features")[0] == 1
    code, out, _ = run(capsys, "doctor", folder, "--fix", tmp_path / "mended")
    assert code == 1
    assert out.endswith(f"Wrote {tmp_path / 'mended'} without: qv-bias-off, norm-eps.\n")
    assert run(capsys, "doctor", tmp_path / "mended")[0] == 0


def test_json_holds_everything(tmp_path, capsys):
    folder = good(tmp_path / "base")
    config(use_mean_pooling=False)(folder)
    code, out, _ = run(capsys, "doctor", folder, "--json", "--fix", tmp_path / "mended")
    report = json.loads(out)
    assert code == 0
    assert report["model"] == str(folder)
    assert report["mended"] == ["first-token-pooling"]
    assert report["out"] == str(tmp_path / "mended")
    assert not report["has_errors"]
    kind = KINDS["first-token-pooling"]
    assert report["findings"] == [
        {
            "code": "first-token-pooling",
            "severity": "warning",
            "what": kind.what,
            "evidence": "use_mean_pooling is false",
            "effect": kind.effect,
            "remedy": kind.remedy,
            "fixable": True,
        }
    ]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            lambda folder: (folder / "config.json").unlink(),
            "model ({0}) must be a folder or a name on the Hub with a transformers config.json, but it has none. Give the "
            "folder that holds it.",
        ),
        (
            lambda folder: (folder / "config.json").write_text("[]"),
            "model ({0}) must be a folder or a name on the Hub with a transformers config.json, but it is not a table. Copy "
            "the file again.",
        ),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            "model ({0}) must be a folder or a name on the Hub with a transformers config.json, but it cannot be read: "
            "Expecting property name enclosed in double quotes: line 1 column 2 (char 1). Copy the file again.",
        ),
        (
            config(model_type="bert"),
            "model ({0}) must be of an architecture that prompts are known to go into, but its type is bert. Take a "
            "VideoMAE, for example.",
        ),
    ],
)
def test_what_cannot_be_examined(tmp_path, capsys, prepare, message):
    folder = good(tmp_path / "base")
    prepare(folder)
    with raises_exactly(CheckpointError, message.format(folder)):
        diagnose(DoctorSettings(model=str(folder)))
    code, _, err = run(capsys, "doctor", folder)
    assert (code, err) == (2, f"error: {message.format(folder)}\n")


def test_a_folder_that_is_not_there(tmp_path):
    with raises_exactly(
        CheckpointError,
        f"model ({tmp_path / 'no'}) must be a folder or a name on the Hub, but there is no such folder. Check the path.",
    ):
        diagnose(DoctorSettings(model=str(tmp_path / "no")))


def test_a_name_that_is_neither_a_folder_nor_on_the_hub():
    with raises_exactly(
        CheckpointError,
        "model (typo) must be a folder or a name on the Hub, but there is no such folder, and of the Hub: adapter_config.json of "
        f"typo must be on the Hub, but it is not in the cache ({constants.HF_HUB_CACHE}), and the Hub must not be asked "
        "(HF_HUB_OFFLINE is set). Load it once online.",
    ):
        diagnose(DoctorSettings(model="typo"))


def test_a_base_without_an_adapter():
    with raises_exactly(
        CheckpointError,
        f"base (x) must go with an adapter, but {BACKBONE} has no adapter_config.json. Leave --base out.",
    ):
        diagnose(DoctorSettings(model=str(BACKBONE), base="x"))
