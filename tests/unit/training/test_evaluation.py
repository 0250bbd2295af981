"""Scores against a plain reference, what follows from them, and the files that they are written to."""

import csv
import json

import pytest
import torch
from architectures import build, inputs_for
from helpers import raises_exactly
from models import clips, tiny_videomae

from apt_peft import CheckpointError, DataError
from apt_peft.evaluation import EvaluationResult, clip_logits, evaluate, score, score_all, unreadable_by_name

LABELS = ("a", "b", "c", "d", "e", "f")


def result(labels=LABELS) -> EvaluationResult:
    """Four clips: right; second best; worst; a class that is never predicted otherwise."""
    best = [0, 1, 0, 2]
    scores = torch.full((4, len(labels)), 0.01)
    scores[range(4), best] = 0.9
    scores[1, 2] = 0.05
    scores[2, 1] = 0.0
    return EvaluationResult(tuple(labels), ("w", "x", "y", "z"), torch.tensor([0, 2, 1, 2]), scores)


def test_what_follows_from_scores():
    found = result()
    assert found.predictions.tolist() == [0, 1, 0, 2]
    assert (found.top1, found.top5) == (50.0, 75.0)
    assert found.confusion.tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        *([[0] * 6] * 3),
    ]
    assert found.per_class()[:4] == [
        {"label": "a", "clips": 1, "correct": 1, "recall": 100.0, "precision": 50.0},
        {"label": "b", "clips": 1, "correct": 0, "recall": 0.0, "precision": 0.0},
        {"label": "c", "clips": 2, "correct": 1, "recall": 50.0, "precision": 100.0},
        {"label": "d", "clips": 0, "correct": 0, "recall": None, "precision": None},
    ]
    assert found.mistakes() == [
        {"clip": "x", "label": "c", "predicted": "b", "score_of_label": 0.05, "score_of_predicted": 0.9},
        {"clip": "y", "label": "b", "predicted": "a", "score_of_label": 0.0, "score_of_predicted": 0.9},
    ]
    wanted = -(torch.tensor([0.9, 0.05, 1e-12, 0.9]).log().mean())
    assert found.loss == pytest.approx(wanted.item(), rel=1e-5)
    assert result("abc").top5 is None


def test_tables_and_picture_are_written(tmp_path):
    found = result([*LABELS[:-1], "$x_{1}$, it's"])
    found.save(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"

    def read(name: str) -> list[list[str]]:
        with (folder / name).open(newline="") as file:
            return list(csv.reader(file))

    saved = json.loads((folder / "result.json").read_text())
    assert (saved["top1"], saved["clips"], saved["correct"], saved["skipped"]) == (50.0, 4, 2, 0)
    rows = read("confusion.csv")
    assert rows[0] == ["", *found.labels]
    assert rows[3] == ["c", "0", "1", "1", "0", "0", "0"]
    assert [row[0] for row in read("per_class.csv")] == ["label", *found.labels]
    assert [row[0] for row in read("mistakes.csv")] == ["clip", "x", "y"]
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("classes", [2, 30])
def test_long_names_of_classes_leave_room_for_the_table(tmp_path, classes):
    labels = tuple(f"Putting something, something and something on the table, {label}" for label in range(classes))
    scores = torch.eye(classes)
    found = EvaluationResult(labels, labels, torch.arange(classes), scores)
    found.save(tmp_path)  # a warning of matplotlib's would be an error here
    assert labels[-1] in (tmp_path / "confusion.csv").read_text()


class Views(torch.utils.data.Dataset):
    """Seven clips of four random views."""

    segments, crops = 2, 2

    def __init__(self) -> None:
        self.views = clips(28).unflatten(0, (7, 4))

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": self.views[index], "labels": index % 3, "index": index}


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (6, 0), (64, 2)])
def test_views_are_softmaxed_and_averaged_and_nothing_else_changes(batch_size, workers):
    model, dataset = tiny_videomae().train(), Views()
    state = torch.random.get_rng_state()
    found = evaluate(
        model, dataset, labels="abc", names=list("1234567"), batch_size=batch_size, workers=workers, progress=False
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    model.eval()
    with torch.no_grad():
        plain = [model(views).logits.softmax(-1).mean(0) for views in dataset.views]
    torch.testing.assert_close(found.scores, torch.stack(plain))
    assert found.targets.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert not found.scores.requires_grad


def test_clips_without_labels_are_scored():
    class Bare(Views):
        def __getitem__(self, index: int) -> dict:
            return {"pixel_values": self.views[index]}

    scores, targets = score_all(tiny_videomae(), Bare(), batch_size=8)
    assert scores.shape == (7, 3)
    assert targets.tolist() == [-1] * 7


def test_lower_precision_is_close():
    exact, rough = (
        evaluate(tiny_videomae(), Views(), labels="abc", names="1234567", precision=precision).scores
        for precision in ("float32", "bfloat16")
    )
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, atol=0.05, rtol=0)


def test_a_workers_report_of_an_unreadable_video_becomes_the_error_again():
    report = (
        "Caught UnreadableVideoError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1\napt_peft.video.source.UnreadableVideoError: video (a.mp4) must be a readable video file, but no.'
    )
    with (
        raises_exactly(DataError, "video (a.mp4) must be a readable video file, but no."),
        unreadable_by_name(),
    ):
        raise RuntimeError(report)
    with pytest.raises(RuntimeError, match=r"^other$"), unreadable_by_name():
        raise RuntimeError("other")


def test_scores_that_are_nan_are_no_result():
    model = tiny_videomae(num_labels=3).eval()
    with torch.no_grad():
        model.classifier.bias[1] = torch.inf
    items = [{"pixel_values": clips(1)} for _ in range(2)]
    with raises_exactly(
        CheckpointError,
        "scores (2 of 2 clips) must be finite, but the model's are NaN: its weights are damaged, or its training has "
        "diverged. Train again with a lower --lr, or copy the weights again.",
    ):
        score_all(model, items, batch_size=2)


def test_logits_of_each_clip():
    two = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    assert clip_logits(two, 2) is two
    assert torch.equal(clip_logits(two[:, None], 2), two)  # VideoPrism
    of_frames = torch.cat([two[:1], two[:1] + 2, two[1:], two[1:] + 4])  # two frames of each clip beside each other
    assert torch.equal(clip_logits(of_frames, 2), two + torch.tensor([[1.0], [2]]))


def test_a_timesformer_that_sees_each_frame_by_itself():
    """Against the classifier on the mean of the frames' first tokens."""
    model = build("timesformer", attention_type="space_only")
    video = inputs_for("timesformer", 2)["pixel_values"]
    with torch.no_grad():
        tokens = model.timesformer(video).last_hidden_state[:, 0]
        want = model.classifier(tokens.reshape(2, 3, -1).mean(1)).softmax(-1)
        assert torch.allclose(score(model, video[:, None], batch_size=2), want, atol=1e-6)
