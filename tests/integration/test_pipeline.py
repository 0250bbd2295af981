"""transformers' own pipeline, given the adapter's folder: on frames, as the docs have it, and on an mp4."""

import warnings

import pytest

pytest.importorskip("av")

import torch
from clips import write_clip
from models import prompted, videomae_config
from transformers import (
    AutoImageProcessor,
    AutoModelForVideoClassification,
    VideoMAEImageProcessor,
    VideoMAEModel,
    pipeline,
)

from apt_peft.video import read_frames, sample_segments

NAMES = {0: "jump", 1: "sit", 2: "stand", 3: "turn", 4: "walk", 5: "wave"}


@pytest.fixture
def model(tmp_path):
    """A model whose `base` and `adapter` lie in the test's folder, each with a preprocessor of its own."""
    torch.manual_seed(0)
    VideoMAEModel(videomae_config(num_labels=2)).save_pretrained(tmp_path / "base")
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    VideoMAEImageProcessor(**size, image_mean=[0.9] * 3, image_std=[0.2] * 3).save_pretrained(tmp_path / "base")
    base = AutoModelForVideoClassification.from_pretrained(tmp_path / "base", num_labels=6, id2label=NAMES)
    model = prompted(model=base)
    model.save_pretrained(tmp_path / "adapter")
    VideoMAEImageProcessor(**size, image_mean=[0.1] * 3, image_std=[0.4] * 3).save_pretrained(tmp_path / "adapter")
    return model


def assert_scores_of(model, found: list[dict], pixel_values: torch.Tensor) -> None:
    with torch.no_grad():
        want = model(pixel_values).logits.softmax(-1)[0]
    order = want.argsort(descending=True).tolist()
    assert [entry["label"] for entry in found] == [NAMES[i] for i in order]
    assert [entry["score"] for entry in found] == pytest.approx(want[order].tolist(), abs=1e-5)


def test_frames_are_prepared_as_the_adapter_says_and_get_its_names(model, tmp_path):
    pytest.importorskip("torchvision")
    adapter = str(tmp_path / "adapter")
    classify = pipeline("video-classification", model=adapter, video_processor=adapter)
    clip = write_clip(tmp_path / "clip.mp4", width=16, height=16)
    frames = read_frames(clip, lambda count: sample_segments("even", count, 4)[0])
    # The frames have the model's size, so nothing but the normalisation is left to be told apart.
    pixel_values = (frames.permute(0, 3, 1, 2)[None] / 255 - 0.1) / 0.4
    assert_scores_of(model, classify(frames.numpy(), top_k=6), pixel_values)


def test_a_file_gets_the_adapter_s_names(model, tmp_path):
    classify = pipeline("video-classification", model=str(tmp_path / "adapter"))
    # Where torchvision is installed, transformers picks the video processor, which decodes with torchcodec alone;
    # without it the pipeline decodes with PyAV, as it does where torchvision is absent.
    classify.video_processor = None
    classify.image_processor = classify.image_processor or AutoImageProcessor.from_pretrained(tmp_path / "adapter")
    clip = str(write_clip(tmp_path / "clip.mp4"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the pipeline's own making
        found = classify(clip, num_frames=4, top_k=6)
    assert classify.model.config.num_labels == 6
    assert_scores_of(model, found, classify.preprocess(clip, num_frames=4)["pixel_values"])
