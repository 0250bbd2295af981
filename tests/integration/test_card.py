"""The model card: of a run, of an adapter saved by PEFT, and what the Hub's own parser reads of each."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import raises_exactly
from huggingface_hub import ModelCard, metadata_eval_result
from models import clips, prompted, tiny_videomae
from peft import PeftModel
from transformers import AutoModelForVideoClassification, ViTConfig, ViTForImageClassification

from apt_peft import CheckpointError, ConfigError, write_model_card
from apt_peft.training.settings import TrainSettings
from apt_peft.training.train import train


@pytest.fixture(scope="module")
def run(backbone, data, tmp_path_factory):
    """A run whose backbone has a licence, and whose classes have names that would break a table."""
    root = tmp_path_factory.mktemp("card")
    shutil.copytree(backbone, root / "base")
    (root / "base" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# A backbone\n")
    shutil.copytree(data, root / "moves")
    return train(
        TrainSettings(
            model=str(root / "base"), data=str(root / "moves"), out=str(root / "first"), epochs=1, batch_size=4,
            num_prompt_tokens=3, threads=1, progress=False, sampling="dense", frame_stride=1,
        )
    )  # fmt: skip


@pytest.fixture
def saved(tmp_path) -> Path:
    """An adapter as PEFT saves it, for a base of the Hub."""
    model = prompted(num_prompt_tokens=3, id2label={0: "a`b", 1: "c|d", 2: "e"})
    model.peft_config["default"].base_model_name_or_path = "me/base"
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def sections(card: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", card, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> dict[str, str]:
    lines = [line.strip("| ").split(" | ", 1) for line in text.splitlines() if line.startswith("| ")]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def test_the_hub_reads_what_was_measured(run):
    card = ModelCard.load(run.out / "README.md")
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("peft", "video-classification", "cc-by-nc-4.0")
    assert data.tags == ["attention-prompt-tuning", "apt-peft"]
    assert data.get("base_model") is None  # a folder is no base on the Hub
    found = {result.dataset_split: result for result in data.eval_results}
    assert found.keys() == {"validation", "test"}
    assert data.model_name == "first"
    assert (found["test"].dataset_name, found["test"].dataset_type) == ("moves", "moves")
    assert (found["test"].task_type, found["test"].metric_type) == ("video-classification", "accuracy")
    assert found["test"].metric_value == pytest.approx(run.top1 / 100, abs=1e-4)
    assert found["validation"].metric_value == pytest.approx(run.validation_top1 / 100, abs=1e-4)
    # The Hub's own way of making the same entry gives the same.
    own = metadata_eval_result(
        model_pretty_name="first", task_pretty_name="Video", task_id="video-classification", metrics_pretty_name="Top-1 accuracy",
        metrics_id="accuracy", metrics_value=found["test"].metric_value, dataset_pretty_name="moves", dataset_id="moves",
        dataset_split="test",
    )  # fmt: skip
    written = data.to_dict()["model-index"]
    of_test = next(part for part in written[0]["results"] if part["dataset"]["split"] == "test")
    assert of_test["metrics"][0] | {"verified": False} == own["model-index"][0]["results"][0]["metrics"][0]
    assert of_test["dataset"] == own["model-index"][0]["results"][0]["dataset"]


def test_a_reader_finds_what_was_trained(run):
    card = (run.out / "README.md").read_text()
    numbers = json.loads((run.out / "run.json").read_text())
    assert "# Attention prompts for 3 classes of videos" in card
    found = rows(card)
    assert found["licence"].startswith("`cc-by-nc-4.0`, the backbone's: **it forbids commercial use**")
    assert found["classes"] == "3: `down`, `left`, `up` |".removesuffix(" |")
    assert found["data"] == "`moves`"
    assert found["backbone"] == "`base`, a folder where this adapter was made"
    trained, prompts = run.trained_parameters, 3 * (3 * 16 * 2 + 2 * 3)
    share = 100 * trained / numbers["total_parameters"]
    assert found["trained parameters"] == (
        f"{trained:,} of {numbers['total_parameters']:,} ({share:.2g} %): {prompts} in prompts, {trained - prompts} in the head"
    )
    size = (run.out / "adapter_model.safetensors").stat().st_size
    assert found["stored"] == f"{size / 1e3:.1f} kB, `adapter_model.safetensors`"
    assert found["prompts"] == "3 in each of 3 attention layers"
    assert found["frames of a clip"] == "4, dense, every 1th"
    assert found["peak learning rates"] == "prompts 0.1, head 0.01"
    assert found["test"] == f"6 | {run.top1:.1f} % | -"
    parts = sections(card)
    assert list(parts) == ["Use", "Results", "Training", "Intended use and limits"]
    assert f"data fingerprint `{numbers['data']['fingerprint']}`" in parts["Training"]
    assert "It sees 4 frames of a clip and nothing in between" in parts["Intended use and limits"]


def test_the_import_is_what_it_takes(run, tmp_path):
    """In a process of its own: the card's code runs, and without its first line it does not."""
    folder = tmp_path / "downloaded"
    shutil.copytree(run.out, folder, ignore=shutil.ignore_patterns("checkpoints"))
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert code.startswith("import apt_peft\n")
    without = code.replace("import apt_peft\n", "")
    script = f"try:\n    exec({without!r})\nexcept KeyError as error:\n    print(error)\nexec({code!r})\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["'ATTENTION_PROMPT'", "{0: 'down', 1: 'left', 2: 'up'}"]


# ---------------------------------------------------------------------------------------------- adapters of other making


def test_peft_s_own_card_gets_the_import(saved, tmp_path):
    card = (saved / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert code.startswith("import apt_peft\nfrom peft import PeftModel\n")
    tiny_videomae().save_pretrained(tmp_path / "base")
    names: dict = {}
    exec(code.replace('"."', repr(str(saved))).replace("me/base", str(tmp_path / "base")), names)
    with torch.no_grad():
        expected = PeftModel.from_pretrained(tiny_videomae(), saved).eval()(clips()).logits
        assert torch.equal(names["model"](clips()).logits, expected)


def test_a_folder_is_taken_out_of_peft_s_metadata(tmp_path):
    """The Hub refuses it there."""
    tiny_videomae().save_pretrained(tmp_path / "base")
    model = prompted(model=AutoModelForVideoClassification.from_pretrained(tmp_path / "base"))
    for _ in range(2):
        model.save_pretrained(tmp_path / "a")
        data = ModelCard.load(tmp_path / "a" / "README.md").data
        assert data.get("base_model") is None
        assert not any(str(tmp_path) in tag for tag in data.tags)
        assert (tmp_path / "a" / "README.md").read_text().count("## How to load it") == 1


def test_a_person_s_readme_is_left_alone(tmp_path):
    text = "# My project\n\nIt has import statements, and uses PEFT.\n"
    (tmp_path / "README.md").write_text(text)
    prompted().peft_config["default"].save_pretrained(tmp_path)
    prompted().peft_config["default"].save_pretrained(tmp_path / "inner")
    assert (tmp_path / "README.md").read_text() == text
    assert not (tmp_path / "inner" / "README.md").exists()


def test_an_adapter_of_another_name(tmp_path):
    model = prompted()
    model.add_adapter("second", model.peft_config["default"])
    model.save_pretrained(tmp_path / "a", selected_adapters=["second"])
    assert (tmp_path / "a" / "README.md").read_text().count("## How to load it") == 1


def test_a_whole_card_for_a_plain_adapter(saved):
    path = write_model_card(saved, dataset="owner/moves", scores={"top1": 61.9, "top5": 88.1}, license="cc-by-nc-4.0")
    card = ModelCard.load(path)
    data = card.data
    assert (data.base_model, data.base_model_relation, data.license) == ("me/base", "adapter", "cc-by-nc-4.0")
    assert data.datasets == ["owner/moves"]
    values = {result.metric_name: (result.metric_value, result.dataset_split) for result in data.eval_results}
    assert values == {"Top-1 accuracy": (0.619, "test"), "Top-5 accuracy": (0.881, "test")}
    found = rows(card.text)
    assert found["classes"] == "3: `a'b`, `c/d`, `e`"
    assert found["test"] == "- | 61.9 % | 88.1 %"
    assert found["backbone"] == "[`me/base`](https://huggingface.co/me/base)"
    assert list(sections(card.text)) == ["Use", "Results", "Settings", "Intended use and limits"]
    assert "use_mean_pooling=True" in sections(card.text)["Use"]


def test_what_is_not_known_is_not_made_up(saved):
    card = ModelCard.load(write_model_card(saved))
    assert card.data.license == "unknown"
    assert card.data.eval_results is None
    assert rows(card.text)["licence"].startswith("not known: the backbone's card names none.")
    assert "Results" not in sections(card.text)


def test_images(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    base = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=2))
    prompted(model=base).save_pretrained(tmp_path / "images")
    card = ModelCard.load(write_model_card(tmp_path / "images"))
    assert card.data.pipeline_tag == "image-classification"
    assert "# Attention prompts for 2 classes of images" in card.text
    assert "from transformers import AutoModelForImageClassification" in card.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scores": {"top-1": 50, "top5": 101}}, "scores ({'top-1': 50, 'top5': 101}) must be"),
        ({"scores": {"top1": float("nan")}}, "scores ({'top1': nan}) must be"),
        ({"license": "CC BY"}, "license ('CC BY') must be"),
    ],
)
def test_what_no_card_can_have(saved, given, message):
    before = (saved / "README.md").read_text()
    rules = {
        "scores": "top1 and top5 in per cent, from 0 to 100.",
        "license": "the Hub's name of a licence, such as cc-by-nc-4.0.",
    }
    with raises_exactly(ConfigError, f"{message} {rules[next(iter(given))]}"):
        write_model_card(saved, **given)
    assert (saved / "README.md").read_text() == before


def test_no_adapter(tmp_path):
    with raises_exactly(
        CheckpointError,
        f"adapter ({tmp_path}) must be a folder or a name on the Hub with an adapter_config.json, but it has none. Give the "
        "folder that training or a conversion wrote.",
    ):
        write_model_card(tmp_path)


def test_a_name_on_the_hub_is_no_folder_to_write_to():
    with raises_exactly(
        CheckpointError,
        "folder (me/adapter) must be an adapter's folder, but there is no such folder. Download it first.",
    ):
        write_model_card("me/adapter")
