"""transformers' own pipeline on an mp4, given nothing but the adapter's folder."""

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

NAMES = {0: "jump", 1: "sit", 2: "stand", 3: "turn", 4: "walk", 5: "wave"}


def test_pipeline_predicts_the_adapter_s_names(tmp_path):
    torch.manual_seed(0)
    VideoMAEModel(videomae_config(num_labels=2)).save_pretrained(tmp_path / "base")
    processor = VideoMAEImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path / "base")
    base = AutoModelForVideoClassification.from_pretrained(tmp_path / "base", num_labels=6, id2label=NAMES)
    model = prompted(model=base)
    model.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")

    classify = pipeline("video-classification", model=str(tmp_path / "adapter"))
    # Where torchvision is installed, transformers picks the video processor, which decodes with torchcodec alone;
    # without it the pipeline decodes with PyAV, as it does where torchvision is absent.
    classify.video_processor = None
    classify.image_processor = classify.image_processor or AutoImageProcessor.from_pretrained(tmp_path / "adapter")
    clip = write_clip(tmp_path / "clip.mp4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the pipeline's own making
        found = classify(str(clip), num_frames=4, top_k=6)
    assert {entry["label"] for entry in found} == set(NAMES.values())
    assert sum(entry["score"] for entry in found) == pytest.approx(1, abs=1e-5)
    assert classify.model.config.num_labels == 6
    inputs = classify.preprocess(str(clip), num_frames=4)
    with torch.no_grad():
        want = model(inputs["pixel_values"]).logits.softmax(-1)[0]
    assert [entry["label"] for entry in found] == [NAMES[i] for i in want.argsort(descending=True).tolist()]
