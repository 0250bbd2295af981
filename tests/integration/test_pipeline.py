"""transformers' own pipeline, given the adapter's folder: on an mp4 as the docs have it, and on frames.

Where torchvision is installed, transformers 5.23 gives VideoMAE a video processor, whose `fetch_videos` knows torchcodec,
the long gone decoder of torchvision, and nothing else; no argument leads to PyAV. `ClipProcessor` takes its place.
"""

import pickle
import shutil
import warnings

import pytest

pytest.importorskip("av")

import torch
from architectures import ARCHITECTURES, AVAILABLE, build
from clips import write_clip
from helpers import raises_exactly
from models import prompted, tiny_videomae, videomae_config
from transformers import (
    AutoImageProcessor,
    AutoModelForVideoClassification,
    VideoMAEImageProcessor,
    VideoMAEModel,
    pipeline,
)

from apt_peft import ClipProcessor, DataError
from apt_peft.scoring import PredictSettings, predict
from apt_peft.training.train import train
from apt_peft.video import UnreadableVideoError, read_frames, sample_segments

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


def test_a_file_gets_the_adapter_s_names_where_torchvision_is_absent(model, tmp_path):
    classify = pipeline("video-classification", model=str(tmp_path / "adapter"))
    # As where torchvision is absent: without a video processor the pipeline decodes with PyAV, its own first frames.
    classify.video_processor = None
    classify.image_processor = classify.image_processor or AutoImageProcessor.from_pretrained(tmp_path / "adapter")
    clip = str(write_clip(tmp_path / "clip.mp4"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the pipeline's own making
        found = classify(clip, num_frames=4, top_k=6)
    assert classify.model.config.num_labels == 6
    assert_scores_of(model, found, classify.preprocess(clip, num_frames=4)["pixel_values"])


def by_labels(scores: list[dict]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in scores}


def test_a_pipeline_on_files_scores_as_predict_does(quick, tmp_path):
    run = quick(epochs=1, sampling="dense", frame_stride=2, mean=(0.2, 0.3, 0.4), std=(0.3, 0.2, 0.1))
    train(run)
    clips = [
        write_clip(tmp_path / "clips" / "long.mp4", num_frames=30, width=40, height=24),
        write_clip(tmp_path / "clips" / "short.mkv", num_frames=2, rotation=90),  # fewer frames than the model takes
    ]
    expected = {
        entry["clip"]: entry["scores"]
        for entry in predict(PredictSettings(adapter=run.out, clips=str(clips[0].parent)))
    }
    processor = pickle.loads(pickle.dumps(ClipProcessor.from_pretrained(run.out)))  # as workers get it
    assert (processor.clips.sampling, processor.clips.frame_stride) == ("dense", 2)
    classify = pipeline("video-classification", model=run.out, video_processor=processor)
    for clip, scores in zip(clips, classify([str(clip) for clip in clips]), strict=True):
        assert by_labels(scores) == pytest.approx(by_labels(expected[str(clip)]), abs=1e-5)
    assert by_labels(classify(str(clips[0]))) == pytest.approx(by_labels(expected[str(clips[0])]), abs=1e-5)


def test_without_a_run_file_the_adapter_s_own_preprocessor_counts_then_the_backbone_s(model, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", width=16, height=16)
    frames = read_frames(clip, lambda count: sample_segments("even", count, 4)[0]).permute(0, 3, 1, 2)[None] / 255
    adapter = tmp_path / "adapter"
    classify = pipeline(
        "video-classification", model=str(adapter), video_processor=ClipProcessor.from_pretrained(adapter)
    )
    assert_scores_of(model, classify(str(clip), top_k=6), (frames - 0.1) / 0.4)
    (adapter / "preprocessor_config.json").unlink()
    pixel_values = ClipProcessor.from_pretrained(adapter)(clip.read_bytes())["pixel_values"]
    torch.testing.assert_close(pixel_values, (frames - 0.9) / 0.2)
    (tmp_path / "base" / "preprocessor_config.json").unlink()
    imagenet = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    torch.testing.assert_close(
        ClipProcessor.from_pretrained(adapter)([clip])["pixel_values"], (frames - imagenet[0]) / imagenet[1]
    )
    shutil.move(tmp_path / "base", tmp_path / "moved")
    moved = ClipProcessor.from_pretrained(adapter, model=str(tmp_path / "moved"))
    assert moved(clip, num_frames=2)["pixel_values"].shape == (1, 2, 3, 16, 16)


@pytest.mark.parametrize("name", [name for name in AVAILABLE if ARCHITECTURES[name].video])
def test_clips_get_the_name_that_the_model_knows(name, tmp_path):
    base, inputs = build(name), ARCHITECTURES[name].inputs()
    base.save_pretrained(tmp_path / "base")
    prompted(model=AutoModelForVideoClassification.from_pretrained(tmp_path / "base")).save_pretrained(
        tmp_path / "adapter"
    )
    clip = write_clip(tmp_path / "clip.mp4")
    made = ClipProcessor.from_pretrained(tmp_path / "adapter")(clip)
    assert {key: value.shape[1:] for key, value in made.items()} == {
        key: value.shape[1:] for key, value in inputs.items()
    }
    if name.startswith("videoprism"):
        return  # its logits have an axis more than transformers' pipeline takes, with an adapter and without
    processor = ClipProcessor.from_pretrained(tmp_path / "adapter")
    classify = pipeline("video-classification", model=str(tmp_path / "adapter"), video_processor=processor)
    assert len(classify(str(clip), num_frames=processor.clips.num_frames)) == base.config.num_labels


def test_a_backbone_that_pools_the_first_token_and_a_model_in_memory(tmp_path):
    tiny_videomae(use_mean_pooling=False).save_pretrained(tmp_path / "base")
    base = AutoModelForVideoClassification.from_pretrained(tmp_path / "base", use_mean_pooling=True)
    model = prompted(model=base)
    model.save_pretrained(tmp_path / "adapter")
    clip = str(write_clip(tmp_path / "clip.mp4"))
    processor = ClipProcessor.from_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        want = model(**processor(clip)).logits.softmax(-1)[0].tolist()
    told = pipeline(
        "video-classification",
        model=str(tmp_path / "adapter"),
        video_processor=processor,
        model_kwargs={"use_mean_pooling": True},
    )
    in_memory = pipeline("video-classification", model=model.get_base_model(), video_processor=processor)
    for classify in (told, in_memory):
        assert by_labels(classify(clip)) == pytest.approx(
            {f"LABEL_{i}": value for i, value in enumerate(want)}, abs=1e-5
        )


def test_what_is_no_readable_file_is_told(model, tmp_path):
    processor = ClipProcessor.from_pretrained(tmp_path / "adapter")
    frames = torch.zeros(4, 16, 16, 3, dtype=torch.uint8)
    with raises_exactly(
        DataError,
        "videos (ndarray) must be files, by path or as bytes, but these are frames already. "
        "Leave the processor out of the pipeline's arguments to have them prepared by transformers' own.",
    ):
        processor(frames.numpy())
    (tmp_path / "text.mp4").write_text("no video")
    classify = pipeline("video-classification", model=str(tmp_path / "adapter"), video_processor=processor)
    with pytest.raises(UnreadableVideoError, match=r"video \(.*text\.mp4\) must be a readable video file, but"):
        classify(str(tmp_path / "text.mp4"))
