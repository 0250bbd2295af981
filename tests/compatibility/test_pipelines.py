"""transformers' pipelines with every architecture that has a head: a file, a picture or a sound to labels and scores."""

from functools import partial

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, AVAILABLE, LABELS, build
from clips import write_clip
from peft import get_peft_model
from PIL import Image
from transformers import ASTFeatureExtractor, Siglip2ImageProcessor, ViTImageProcessor, pipeline

from apt_peft import AttentionPromptConfig, ClipProcessor
from apt_peft.training.base import frames_and_size
from apt_peft.training.clips import ClipSettings

# Why a cell is empty; where the bare backbone fails alike, with what its error says
NO_HEAD = "a backbone without a head names nothing"
REASONS = {
    "videoprism_vision_model": (
        "its logits have an axis more than transformers' pipeline takes, without prompts too",
        "unhashable type",
    )
}


def subject(name: str, *, bare: bool):
    """The tiny model, with prompts inside it unless it is to be bare, as a pipeline takes a model in memory."""
    model = build(name)
    if not bare:
        settings = {"num_prompt_tokens": 3, "prompt_dropout": 0.0, "init_weights": False}
        model = get_peft_model(model, AttentionPromptConfig(**settings)).eval().get_base_model()
    return model


def video(name: str, model, folder):
    frames, size = frames_and_size(model.config)
    clips = {"sampling": "even", "frame_stride": 1, "resize": "squash", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    settings = ClipSettings(num_frames=frames, size=size, segments=1, crops=1, **clips)
    processor = ClipProcessor(settings, model.main_input_name)
    clip = str(write_clip(folder / "clip.mp4"))
    classify = pipeline("video-classification", model=model, video_processor=processor)
    # V-JEPA 2's config has another name for the number of frames than the pipeline asks for
    return partial(classify, num_frames=frames), clip, processor([clip])


def image(name: str, model, folder):
    # of 16 x 16 pixels: SigLIP 2 makes 2 x 2 patches of them
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    if name.startswith("siglip2"):
        processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=4)
    else:
        processor = ViTImageProcessor(size={"height": 16, "width": 16})
    classify = pipeline("image-classification", model=model, image_processor=processor)
    return classify, picture, processor(picture, return_tensors="pt")


def sound(name: str, model, folder):
    wave = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    config = model.config
    processor = ASTFeatureExtractor(num_mel_bins=config.num_mel_bins, max_length=config.max_length)
    classify = pipeline("audio-classification", model=model, feature_extractor=processor)
    return classify, wave, processor(wave, sampling_rate=16_000, return_tensors="pt")


def roads(name: str):
    if ARCHITECTURES[name].video:
        return video
    return sound if name == "audio-spectrogram-transformer" else image


def check(name: str, folder, *, bare: bool = False) -> None:
    model = subject(name, bare=bare)
    classify, given, inputs = roads(name)(name, model, folder)
    found = {entry["label"]: entry["score"] for entry in classify(given, top_k=LABELS)}
    with torch.no_grad():
        scores = model(**inputs).logits.softmax(-1)[0]
    wanted = {model.config.id2label[index]: score for index, score in enumerate(scores.tolist())}
    assert found == pytest.approx(wanted, abs=1e-5)


@pytest.mark.filterwarnings("ignore")  # what processors say of their defaults
@pytest.mark.parametrize("name", AVAILABLE)
def test_pipeline(name, tmp_path, record_property):
    if not ARCHITECTURES[name].labels:
        record_property("reason", NO_HEAD)
        assert not hasattr(subject(name, bare=False), "classifier")
    elif name in REASONS:
        reason, error = REASONS[name]
        record_property("reason", reason)
        with pytest.raises(TypeError, match=error):
            check(name, tmp_path, bare=True)
    else:
        check(name, tmp_path)
