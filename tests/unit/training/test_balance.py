"""As many clips of each class in every epoch; every clip of a class as often as any other; the same everywhere."""

import pickle
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

from apt_peft.training.balance import BalancedDataset
from apt_peft.video import Clip
from apt_peft.video.shards.order import ShardSampler, in_shards
from apt_peft.video.shards.source import ShardVideo

LABELS = [0] * 40 + [3] * 7 + [1] * 2  # no clips of class 2


class Draws(torch.utils.data.Dataset):
    """In place of videos: what would be drawn."""

    def __init__(self) -> None:
        self.shared = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self.shared)

    def set_epoch(self, epoch: int) -> None:
        self.shared.fill_(epoch)

    def draw(self, index: int, occurrence: int) -> tuple[int, int, int]:
        return self.epoch, index, occurrence


def epochs(count: int, seed: int = 0) -> list[list[tuple[int, int]]]:
    dataset = BalancedDataset(Draws(), LABELS, seed=seed)
    found = []
    for epoch in range(count):
        dataset.set_epoch(epoch)
        items = [dataset[i] for i in range(len(dataset))]
        assert {item[0] for item in items} == {epoch}
        found.append([item[1:] for item in items])
    return found


def test_each_class_is_as_often_as_any_other_and_so_is_each_clip_of_a_class():
    used: Counter[int] = Counter()
    for epoch in epochs(10):
        assert Counter(LABELS[index] for index, _ in epoch) == {0: 17, 3: 17, 1: 17}
        assert len(set(epoch)) == len(epoch), "a clip that comes again is another draw of it"
        times = Counter(index for index, _ in epoch)
        for label, most in ((0, 2), (3, 4), (1, 9)):  # where rounds meet, a clip may come once more
            counts = [times[index] for index in range(len(LABELS)) if LABELS[index] == label]
            assert max(counts) <= most
        used.update(times)
    for label in (0, 1, 3):
        counts = [used[index] for index in range(len(LABELS)) if LABELS[index] == label]
        assert max(counts) - min(counts) <= 1, "over the whole run"


def test_what_is_taken_depends_on_seed_and_epoch_alone():
    whole = epochs(4)
    later = BalancedDataset(Draws(), LABELS)
    later.set_epoch(3)
    assert later.order() == whole[3], "without the epochs before, as after a resume"
    assert whole[2] != whole[3]
    assert epochs(4, seed=1)[3] != whole[3]


def test_running_workers_and_copies_see_a_new_epoch():
    dataset = BalancedDataset(Draws(), LABELS)
    loader = DataLoader(dataset, batch_size=4, num_workers=1, persistent_workers=True)
    assert {int(e) for epoch, _, _ in loader for e in epoch} == {0}
    dataset.set_epoch(5)
    assert {int(e) for epoch, _, _ in loader for e in epoch} == {5}
    assert dataset.epoch == 5
    loader._iterator._shutdown_workers()


@pytest.mark.parametrize("labels", [[0], [0, 1], [1, 1, 0]])
def test_few_clips(labels):
    dataset = BalancedDataset(Draws(), labels)
    counts = Counter(labels[index] for index, _ in dataset.order())
    assert len(set(counts.values())) == 1
    assert len(dataset) >= len(labels)


class InShards(Draws):
    """The same clips, seven in a shard."""

    def __init__(self) -> None:
        super().__init__()
        self.clips = [Clip(ShardVideo(f"{n // 7}.tar", str(n), 512, 1), label) for n, label in enumerate(LABELS)]


@pytest.mark.parametrize("window", [1, 2])
def test_clips_in_shards_come_shard_after_shard(window):
    """As they do without balance; what an epoch has of each class stays."""
    dataset = BalancedDataset(InShards(), LABELS, seed=3)
    assert in_shards(dataset)
    assert not in_shards(BalancedDataset(Draws(), LABELS))
    sampler, seen = ShardSampler(dataset, seed=3, window=window), []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        positions = list(sampler)
        assert sorted(positions) == list(range(len(dataset)))
        assert len(sampler) == len(positions)
        indices = [dataset[position][1] for position in positions]
        assert Counter(LABELS[index] for index in indices) == {0: 17, 3: 17, 1: 17}
        shards = [index // 7 for index in indices]
        # Once left, a window of shards does not come again.
        windows = [set(shards[start : start + 1]) for start in (0,)]
        for shard in shards[1:]:
            if shard not in windows[-1]:
                if len(windows[-1]) < window:
                    windows[-1].add(shard)
                else:
                    windows.append({shard})
        assert sum(map(len, windows)) == len(set(shards))
        seen.append(indices)
    assert seen[0] != seen[1] != seen[2]
    # A run that goes on in the middle of an epoch has the rest of it.
    later = ShardSampler(BalancedDataset(InShards(), LABELS, seed=3), seed=3, window=window)
    later.load_state_dict(sampler.state_dict(used=20))
    assert [later.dataset[position][1] for position in later] == seen[2][20:]


def test_it_can_be_pickled():
    dataset = BalancedDataset(Draws(), LABELS, seed=4)
    assert pickle.loads(pickle.dumps(dataset)).order() == dataset.order()
