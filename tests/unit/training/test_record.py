"""run.json's facts and the model card."""

import platform

import pytest

from apt_peft.training.clips import IMAGENET_MEAN, IMAGENET_STD, ClipSettings
from apt_peft.training.record import model_card, percent, versions

CLIPS = ClipSettings(16, "dense", 4, 224, "crop", IMAGENET_MEAN, IMAGENET_STD, 5, 3)
VALUES = {
    "result": {"validation": None, "test": {"clips": 42, "top1": 61.9, "top5": None}},
    "trained_parameters": 156000,
    "data": {"clips": {"training": 55, "validation": 0, "test": 42}, "fingerprint": "0123"},
    "backbone": {"fingerprint": "4567"},
}


def card(base: str, **given) -> str:
    values = {"method": "apt", "mean_pooling": False} | given
    return model_card(base=base, labels=["a", "b"], values=VALUES, clips=CLIPS, **values)


def test_the_card_says_what_a_reader_needs():
    shown = card("MCG-NJU/videomae-base")
    assert shown.startswith("---\nbase_model: MCG-NJU/videomae-base\nlibrary_name: peft\n")
    for text in (
        "# Attention prompts for 2 classes of videos",
        "import apt_peft\nfrom peft import PeftModel",
        'from_pretrained("MCG-NJU/videomae-base")',
        'pipeline("video-classification", model=adapter, video_processor=processor)\n',
        "156,000 parameters",
        "16 frames of 224 x 224 pixels, dense sampling with stride 4, resized by crop, 5 x 3 views",
        "| test | 42 | 61.9 % | - |",
        "Trained on 55 training clips, 42 test clips; data fingerprint `0123`, backbone fingerprint `4567`.",
    ):
        assert text in shown


def test_a_local_backbone_is_no_metadata_for_the_hub(tmp_path):
    shown = card(str(tmp_path), method="linear")
    assert "base_model:" not in shown
    assert f"An adapter for `{tmp_path.name}`" in shown
    assert "# Linear probe for 2 classes of videos" in shown


def test_the_python_of_the_card_is_python():
    for pooling in (False, True):
        blocks = card("a/b", mean_pooling=pooling).split("```python\n")[1:]
        assert len(blocks) == 2
        for block in blocks:
            compile(block.split("```")[0], "card", "exec")


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0.0 %"), (66.666, "66.7 %")])
def test_shares_in_per_cent(value, text):
    assert percent(value) == text


def test_versions_are_those_of_this_process():
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["apt-peft"]
    assert all(found[name] for name in ("torch", "transformers", "peft"))
