"""Views in full batches, whatever their number; what is in memory; files that cannot be read."""

import weakref

import pytest
import torch
from clips import write_clip
from helpers import raises_exactly
from models import clips, tiny_videomae

from apt_peft.evaluation import score_all
from apt_peft.scores.stream import score_each
from apt_peft.video import Clip, ClipTransform, UnreadableVideoError, VideoDataset


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Five videos of different lengths; the third is no video."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(5):
        write_clip(folder / f"{number}.mp4", seed=number, num_frames=5 + 3 * number, width=40, height=24)
    (folder / "2.mp4").write_bytes(b"no video")
    return [Clip(folder / f"{number}.mp4", number % 3) for number in range(5)]


def dataset(videos, segments: int, crops: int) -> VideoDataset:
    transform = ClipTransform(16, mean=(0.4,) * 3, std=(0.2,) * 3)
    return VideoDataset(
        videos, num_frames=4, transform=transform, sampling="dense", frame_stride=2, segments=segments, crops=crops
    )


def batches(model) -> list[int]:
    """The sizes of the model's batches, as they come."""
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    return sizes


@pytest.mark.parametrize(
    ("segments", "crops", "batch_size", "wanted"),
    [
        (10, 3, 8, [8] * 15),
        (1, 3, 8, [8, 4]),
        (10, 3, 50, [50, 50, 20]),
        (2, 1, 1, [1] * 8),
        (1, 1, 3, [3, 1]),
        (1, 1, 64, [4]),
    ],
)
def test_batches_are_full_and_scores_are_those_of_each_video_alone(videos, segments, crops, batch_size, wanted):
    readable = [clip for clip in videos if clip.source.name != "2.mp4"]
    data, model = dataset(readable, segments, crops), tiny_videomae()
    sizes = batches(model)
    scores, targets = score_all(model, data, batch_size=batch_size)
    assert sizes == wanted
    model.eval()
    with torch.no_grad():
        alone = torch.stack([model(item["pixel_values"]).logits.softmax(-1).mean(0) for item in data])
    torch.testing.assert_close(scores, alone, rtol=0, atol=1e-6)
    assert targets.tolist() == [0, 1, 0, 1]


def test_numbers_of_views_may_differ_and_clips_be_chosen():
    model = tiny_videomae().eval()
    counts = [3, 1, 9, 2, 5]
    items = [{"pixel_values": clips(count, seed=count), "labels": torch.tensor(count)} for count in counts]
    sizes = batches(model)
    found = list(score_each(model, items, batch_size=4, indices=[4, 0, 2]))
    assert sizes == [4, 4, 4, 4, 1]
    assert [(clip.index, clip.label, len(clip.logits)) for clip in found] == [(4, 5, 5), (0, 3, 3), (2, 9, 9)]
    for clip in found:
        with torch.no_grad():
            wanted = model(items[clip.index]["pixel_values"]).logits
        torch.testing.assert_close(clip.logits, wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(clip.scores, wanted.softmax(-1).mean(0), rtol=0, atol=1e-6)
    assert list(score_each(model, items, batch_size=4, indices=[])) == []


def test_clips_come_as_soon_as_they_are_scored_and_few_are_in_memory(videos):
    data, model = dataset([videos[4]] * 12, 10, 3), tiny_videomae().train()
    alive: list[weakref.ref] = []
    read = data.test_views

    def remember(index):
        views = read(index)
        alive.append(weakref.ref(views))
        return views

    data.test_views = remember
    seen = []
    for clip in score_each(model, data, batch_size=8):
        seen.append((clip.index, len(alive), sum(view() is not None for view in alive)))
    assert [index for index, _, _ in seen] == list(range(12))
    assert all(read <= index + 2 for index, read, _ in seen), seen
    assert max(kept for _, _, kept in seen) <= 2, seen
    assert model.training


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_read_is_handed_over_or_ends_it(videos, workers):
    data, model = dataset(videos, 1, 2), tiny_videomae()
    sizes = batches(model)
    found = list(score_each(model, data, batch_size=4, workers=workers, on_error="skip"))
    assert sizes == [4, 4]
    assert [clip.index for clip in found] == [0, 1, 2, 3, 4]
    assert [str(clip.error) for clip in found if clip.error] == [str(error_of(videos[2]))]
    whole, _ = score_all(model, dataset([clip for clip in videos if clip is not videos[2]], 1, 2), batch_size=64)
    torch.testing.assert_close(torch.stack([clip.scores for clip in found if not clip.error]), whole, rtol=0, atol=1e-6)
    model.train()
    with raises_exactly(UnreadableVideoError, str(error_of(videos[2]))):
        list(score_each(model, data, batch_size=4, workers=workers))
    assert model.training


def error_of(clip: Clip) -> UnreadableVideoError:
    with pytest.raises(UnreadableVideoError) as raised:
        dataset([clip], 1, 1)[0]
    return raised.value
