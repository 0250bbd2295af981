"""An epoch's order: each clip once, whatever the processes, workers and sizes; the same for (seed, epoch); near in place."""

import random
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from helpers import raises_exactly
from torch.utils.data import BatchSampler, DataLoader, Dataset

from apt_peft.errors import ConfigError
from apt_peft.video import Clip, ClipTransform, VideoDataset, read_data
from apt_peft.video.shards.order import ShardSampler, epoch_order, shard_blocks
from apt_peft.video.shards.source import ShardVideo


class Indices(Dataset):
    """A data set whose items are their indices."""

    def __init__(self, sizes: list[int]) -> None:
        shards = [(shard, place) for shard, size in enumerate(sizes) for place in range(size)]
        self.clips = [Clip(ShardVideo(f"{shard}.tar", str(place), 512, 1), 0) for shard, place in shards]
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> int:
        return index


def sizes_of(draw: random.Random) -> list[int]:
    return [draw.randint(1, 9) for _ in range(draw.randint(1, 12))]


@pytest.mark.parametrize("seed", range(60))
def test_every_clip_once_whatever_the_processes(seed):
    draw = random.Random(seed)
    data, world, window = Indices(sizes_of(draw)), draw.randint(1, 7), draw.randint(1, 5)
    data.set_epoch(draw.randint(0, 3))
    shares = [list(ShardSampler(data, seed=seed, window=window, rank=r, world_size=world)) for r in range(world)]
    assert sorted(index for share in shares for index in share) == list(range(len(data)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [len(ShardSampler(data, rank=r, world_size=world)) for r in range(world)] == list(map(len, shares))


@pytest.mark.parametrize("seed", range(40))
def test_an_epoch_that_goes_on_in_its_middle_with_any_number_of_processes(seed):
    draw = random.Random(seed)
    data, before, after = Indices(sizes_of(draw)), draw.randint(1, 4), draw.randint(1, 4)
    data.set_epoch(2)
    whole = list(ShardSampler(data, seed=seed))
    steps = draw.randint(0, len(data) // before)  # of each process, a clip a step
    done = [
        list(ShardSampler(data, seed=seed, rank=r, world_size=before))[:steps] for r in range(before)
    ]  # fmt: skip
    state = ShardSampler(data, seed=seed).state_dict(used=steps * before)
    later = Indices([1])
    later.clips = data.clips
    samplers = [ShardSampler(later, seed=seed, rank=r, world_size=after) for r in range(after)]
    for sampler in samplers:
        sampler.load_state_dict(state)
    assert later.epoch == 2
    rest = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(share) for share in rest]
    assert Counter(i for share in done + rest for i in share) == Counter(range(len(data)))
    if before == after:
        once = [list(ShardSampler(data, seed=seed, rank=r, world_size=before)) for r in range(before)]
        assert [first + second for first, second in zip(done, rest, strict=True)] == once
    in_order = [rest[place % after][place // after] for place in range(len(data) - steps * before)]
    assert in_order == whole[steps * before :], "together they go through the one order"
    later.set_epoch(3)
    assert sum(map(len, samplers)) == len(data), "the next epoch is a whole one"


@pytest.mark.parametrize(("world", "batch", "drop_last"), [(2, 4, False), (3, 5, False), (3, 5, True), (4, 1, False)])
@pytest.mark.parametrize("clips", [24, 31, 7])
def test_accelerate_shares_its_batches_out(world, batch, drop_last, clips):
    """As Trainer does: whole batches in turns, the last ones filled up from the start, which the loss leaves out."""
    data = Indices([5] * (clips // 5) + ([clips % 5] if clips % 5 else []))
    sampler = ShardSampler(data, seed=1, window=2)
    whole = list(sampler)

    def share(rank: int) -> list[list[int]]:
        batches = BatchSampler(sampler, batch, drop_last)
        return list(BatchSamplerShard(batches, world, rank))

    shares = [share(rank) for rank in range(world)]
    in_turns = [index for step in zip(*shares, strict=True) for part in step for index in part]
    if drop_last:
        assert in_turns == whole[: len(in_turns)]
        assert len(whole) - len(in_turns) < world * batch
    else:
        assert in_turns[:clips] == whole
    if shares[0]:
        batches = [BatchSamplerShard(BatchSampler(sampler, batch, drop_last), world, rank) for rank in range(world)]
        assert [list(SkipBatchSampler(part, 1)) for part in batches] == [part[1:] for part in shares]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_of_a_loader_lose_nothing_and_keep_the_order(workers):
    data = Indices([4, 3, 6])
    loader = DataLoader(data, batch_size=4, sampler=ShardSampler(data, window=2), num_workers=workers)
    for epoch in range(2):
        data.set_epoch(epoch)
        expected = list(ShardSampler(data, window=2))
        assert torch.cat(list(loader)).tolist() == expected
        assert sorted(expected) == list(range(13))


def test_the_order_depends_on_seed_and_epoch_alone():
    blocks = [torch.arange(first, first + 10) for first in range(0, 100, 10)]
    orders = {(s, e): tuple(epoch_order(blocks, seed=s, epoch=e, window=3)) for s in range(3) for e in range(3)}
    assert len(set(orders.values())) == 9
    assert all(tuple(epoch_order(blocks, seed=s, epoch=e, window=3)) == order for (s, e), order in orders.items())
    # A promise to runs that go on with a later version.
    assert epoch_order(blocks[:3], seed=0, epoch=0, window=2) == [
        15, 27, 19, 13, 18, 20, 11, 12, 22, 21, 29, 17, 23, 26, 14, 10, 28, 24, 25, 16, 7, 1, 3, 0, 8, 6, 5, 4, 9, 2
    ]  # fmt: skip


def test_clips_of_a_window_stay_together_and_windows_change():
    blocks = [torch.arange(first, first + 10) for first in range(0, 120, 10)]
    met = set()
    for epoch in range(40):
        order = epoch_order(blocks, seed=0, epoch=epoch, window=3)
        parts = [order[first : first + 30] for first in range(0, 120, 30)]
        for part in parts:
            shards = {index // 10 for index in part}
            assert len(shards) == 3, "no more shards than a window are open at a time"
            met |= {(a, b) for a in shards for b in shards if a != b}
        assert any(abs(a - b) != 1 for a, b in pairwise(order))
    assert len(met) == 12 * 11, "every two shards meet in some epoch"


def test_each_place_of_an_epoch_is_as_likely_for_each_clip():
    """Chi-squared over 4,000 epochs: uneven blocks and a last window that is not full."""
    blocks = [torch.arange(0, 3), torch.arange(3, 4), torch.arange(4, 6)]
    counts = torch.zeros(6, 6)
    for epoch in range(4000):
        for place, index in enumerate(epoch_order(blocks, seed=7, epoch=epoch, window=3)):
            counts[index, place] += 1
    expected = 4000 / 6
    assert float(((counts - expected) ** 2 / expected).sum()) < 52.6, "25 degrees of freedom, p = 0.001"


def test_clips_that_lie_in_no_shard_are_mixed_as_ever():
    clips = [Clip(f"{number}.mp4", 0) for number in range(20)]
    assert [len(block) for block in shard_blocks(clips)] == [20]
    assert [block.tolist() for block in shard_blocks([*Indices([2, 1]).clips, clips[0], Indices([1]).clips[0]])] == [
        [0, 1, 4], [2], [3],
    ]  # fmt: skip


def test_a_million_clips_are_put_in_order_in_a_moment():
    blocks = [torch.arange(first, first + 1000) for first in range(0, 1_000_000, 1000)]
    order = epoch_order(blocks, seed=0, epoch=0)
    assert torch.equal(torch.tensor(order).sort().values, torch.arange(1_000_000))


def test_real_clips_come_as_an_uninterrupted_epoch_gives_them(shards):
    """Pixels and labels of an epoch that goes on in its middle, by other workers, with random augmentation."""

    def data():
        clips = read_data(shards).train
        return VideoDataset(
            clips, num_frames=2, transform=ClipTransform(16, augment="crop"), sampling="uniform", training=True, seed=5
        )

    def batches(dataset, sampler, workers=0):
        loader = DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers)
        return [(batch["pixel_values"], batch["labels"]) for batch in loader]

    whole = data()
    whole.set_epoch(1)
    sampler = ShardSampler(whole, window=2)
    expected = batches(whole, sampler)
    state = sampler.state_dict(used=6)
    again = data()
    later = ShardSampler(again, window=2)
    later.load_state_dict(state)
    found = batches(again, later, workers=2)
    assert len(found) == 3
    for (frames, labels), (frames_before, labels_before) in zip(found, expected[3:], strict=True):
        assert torch.equal(frames, frames_before)
        assert torch.equal(labels, labels_before)


def test_wrong_use():
    data = Indices([3, 3])
    with raises_exactly(ConfigError, "window (0) must be at least 1 shard."):
        ShardSampler(data, window=0)
    with raises_exactly(ConfigError, "rank (2) must be one of the 2 processes, counted from 0."):
        ShardSampler(data, rank=2, world_size=2)
    state = ShardSampler(data, seed=1).state_dict(3)
    with raises_exactly(
        ConfigError,
        "state must be of the same clips and order, but seed was 1 and is 0, clips was 6 and is 4. Begin an epoch anew.",
    ):
        ShardSampler(Indices([4]), seed=0).load_state_dict(state)


def test_a_data_set_needs_no_more_than_clips_and_an_epoch():
    plain = SimpleNamespace(clips=Indices([2, 2]).clips, epoch=0, set_epoch=lambda epoch: None)
    assert sorted(ShardSampler(plain)) == [0, 1, 2, 3]
