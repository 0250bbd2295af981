"""Draws of few clips: nested, of different videos, the same for the same seed; and how long runs on them are."""

import json
from collections import Counter

import pytest
from clips import write_classes
from helpers import raises_exactly
from models import tiny_videomae

from apt_peft.comparison import CompareSettings
from apt_peft.comparison.settings import from_arguments
from apt_peft.comparison.shots import begin_shots, in_drawn_order, make_shots
from apt_peft.errors import ConfigError, DataError
from apt_peft.training.settings import TrainSettings

# Three videos of a class, with 5, 2 and 1 clips.
NAMES = [f"wave/{video}_{clip}.mp4" for video, count in (("a", 5), ("b", 2), ("c", 1)) for clip in range(count)]
GROUPS = {name: name.split("_")[0] for name in NAMES}


def test_a_draw_is_of_as_many_videos_as_there_are():
    for seed in range(50):
        order = in_drawn_order(NAMES, GROUPS, seed)
        assert sorted(order) == sorted(NAMES)
        assert len({GROUPS[name] for name in order[:3]}) == 3
        assert Counter(GROUPS[name] for name in order[:5]) == {"wave/a": 2, "wave/b": 2, "wave/c": 1}
        assert all(GROUPS[name] == "wave/a" for name in order[5:])


def test_a_draw_depends_on_the_seed_and_not_on_the_order_of_the_clips():
    assert in_drawn_order(NAMES[::-1], GROUPS, 3) == in_drawn_order(NAMES, GROUPS, 3)
    first = Counter(in_drawn_order(NAMES, {}, seed)[0] for seed in range(400))
    assert set(first) == set(NAMES), "each clip may come first"
    # 400 draws of 8 clips: 50 each, and 25 is nearly four standard deviations away.
    assert min(first.values()) > 25
    videos = Counter(GROUPS[in_drawn_order(NAMES, GROUPS, seed)[0]] for seed in range(400))
    assert min(videos.values()) > 95, "a video with many clips is not drawn first more often"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shots")
    tiny_videomae(num_labels=2).save_pretrained(root / "model")
    size = {"num_frames": 2, "width": 32, "height": 24}
    write_classes(root / "data" / "train", ["7", "up"], clips=5, **size)
    write_classes(root / "data" / "test", ["7", "up"], clips=1, **size)
    return root


def plans(folder, out, shots, **changes):
    own = {"model": str(folder / "model"), "data": str(folder / "data"), "out": str(out)}
    shared = TrainSettings(**own, **({"batch_size": 4, "val_fraction": 0.2, "threads": 1} | changes))
    return make_shots(CompareSettings(**own, methods="linear", seeds=2, shots=shots, shot_steps=10), shared)


def test_lists_of_draws(folder, tmp_path):
    drawn = {}
    for plan in plans(folder, tmp_path / "out", (1, 2, 4)):
        plan.begin()
        for file in (plan.out / "draws").iterdir():
            drawn[plan.shots, file.stem] = file.read_text().splitlines()
        trial, run = plan.trial(plan.contenders[0], (0.1,), 1), plan.run(plan.contenders[0], (0.1,), 1)
        assert trial.settings["train_list"] == str(plan.out / "draws" / "trial-1.csv")
        assert trial.settings["val_list"] == str(plan.out / "lists" / "val.csv")
        assert run.settings["train_list"] == str(plan.out / "draws" / "seed-1.csv")
        # 2, 4 and 8 clips in batches of 4: an epoch of one step, one step, two steps.
        assert trial.settings["epochs"] == run.settings["epochs"] == {1: 10, 2: 10, 4: 5}[plan.shots]
        assert run.settings["cache"] == str(tmp_path / "out" / "frames")
    for name in ("seed-0", "seed-1", "trial-1"):
        sets = [set(drawn[shots, name]) for shots in (1, 2, 4)]
        assert sets[0] < sets[1] < sets[2]
        for shots, lines in zip((1, 2, 4), sets, strict=True):
            assert Counter(line.split("/")[1] for line in lines) == {"7": shots, "up": shots}
    assert drawn[2, "seed-0"] != drawn[2, "seed-1"]
    held = set((tmp_path / "out" / "shots-1" / "lists" / "val.csv").read_text().splitlines())
    assert not held & set(drawn[4, "trial-1"])


def test_too_few_clips(folder, tmp_path):
    (plan,) = plans(folder, tmp_path / "out", (5,))
    message = (
        f"shots (5) must be there in each class of the clips that a run is trained on, but of "
        f"{tmp_path / 'out' / 'shots-5' / 'lists' / 'train.csv'} 7 has 4, up has 4. Take fewer shots, or hold fewer clips out."
    )
    with raises_exactly(DataError, message):
        plan.begin()


@pytest.mark.parametrize("text", ["4,2", "0,1", "1,1", "1,x", ""])
def test_shots_that_are_none(text):
    given = {"model": "m", "data": "d", "out": "o", "shots": text}
    shown = {"4,2": (4, 2), "0,1": (0, 1), "1,1": (1, 1)}.get(text, text)
    with raises_exactly(ConfigError, f"shots ({shown!r}) must be rising whole numbers from 1 on, with commas."):
        from_arguments(given)
    assert from_arguments(given | {"shots": "1,2,16"})[0].shots == (1, 2, 16)


def test_a_folder_of_another_comparison(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"settings": {"command": "compare"}}))
    message = (
        f"out ({tmp_path}) must be gone on with by the same settings, but command was 'compare' and is 'compare --shots'. Repeat "
        "them, or choose another --out."
    )
    with raises_exactly(ConfigError, message):
        begin_shots(tmp_path)
