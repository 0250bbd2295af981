"""The order of clips in an epoch, by index: a function of (seed, epoch), which keeps clips of a shard near each other."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from ...errors import ConfigError
from ..clip import Clip
from ..sampling import clip_generator
from .source import LostVideo, ShardVideo

# Shards whose clips are mixed with each other.
WINDOW = 16
# The view of no clip, so that nothing else is drawn alike.
_ORDER = 2**31


def in_shards(dataset: Any) -> bool:
    """Whether the clips of a data set lie in shards.

    Args:
        dataset: a `VideoDataset`, or another one, whose clips are not known to.
    """
    return any(isinstance(clip.source, ShardVideo) for clip in getattr(dataset, "clips", ()))


def shard_blocks(clips: Sequence[Clip]) -> list[torch.Tensor]:
    """The clips of each shard.

    Args:
        clips: of a data set, in any order.

    Returns:
        For each shard, in the order in which they occur, the indices of its clips; clips in no shard are one block.
    """
    places: dict[str | None, list[int]] = {}
    for index, clip in enumerate(clips):
        shard = clip.source.shard if isinstance(clip.source, (ShardVideo, LostVideo)) else None
        places.setdefault(shard, []).append(index)
    return [torch.tensor(indices) for indices in places.values()]


def epoch_order(blocks: Sequence[torch.Tensor], *, seed: int, epoch: int, window: int = WINDOW) -> list[int]:
    """The order of clips in an epoch: shards in random order, and clips in random order within a window of shards.

    So the shards of one window are read, then those of the next. The clips of a shard are seen together with those of
    `window - 1` others, which are different ones in each epoch.

    Args:
        blocks: indices of the clips of each shard.
        seed: of the order.
        epoch: counted from 0.
        window: shards whose clips are mixed; with as many as there are, every order is as likely.

    Returns:
        Each index once.
    """
    order = torch.randperm(len(blocks), generator=clip_generator(seed, epoch, -1, _ORDER)).tolist()
    found: list[int] = []
    for first in range(0, len(order), window):
        near = torch.cat([blocks[block] for block in order[first : first + window]])
        generator = clip_generator(seed, epoch, first, _ORDER)
        found += near[torch.randperm(len(near), generator=generator)].tolist()
    return found


class ShardSampler(Sampler[int]):
    """Clips of a data set in the order of its epoch, for a `DataLoader`; an epoch can be begun anywhere.

    Which clips come and in which order depends on seed, epoch, position and window alone, so a run that goes on in the middle of
    an epoch sees what it would have seen, and no workers have to be wound forward. Several processes take turns: process
    r of n has every n-th clip from r on, each clip in one of them. Their numbers differ by one where the clips are no multiple; a
    loop that wants equal numbers leaves `world_size` at 1 and lets Accelerate share the batches out.

    Args:
        dataset: a `VideoDataset`, or anything with `clips`, which may be others in each epoch, `epoch` and `set_epoch`.
        seed: of the order.
        window: shards whose clips are mixed.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        ConfigError: a window below 1, or a process that there is not.
    """

    def __init__(
        self, dataset: Any, *, seed: int = 0, window: int = WINDOW, rank: int = 0, world_size: int = 1
    ) -> None:
        if window < 1:
            raise ConfigError(f"window ({window}) must be at least 1 shard.")
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank ({rank}) must be one of the {world_size} processes, counted from 0.")
        self.dataset, self.seed, self.window, self.rank, self.world_size = dataset, seed, window, rank, world_size
        # The epoch that was begun in its middle, and where.
        self._begun = (-1, 0)

    def __len__(self) -> int:
        return len(range(self._start() + self.rank, len(self.dataset.clips), self.world_size))

    def __iter__(self) -> Iterator[int]:
        epoch, start = self.dataset.epoch, self._start()
        order = epoch_order(shard_blocks(self.dataset.clips), seed=self.seed, epoch=epoch, window=self.window)
        return iter(order[start + self.rank :: self.world_size])

    def state_dict(self, used: int) -> dict[str, int]:
        """Where an epoch is, to go on from there.

        Args:
            used: clips of this epoch that all processes together have trained on; loaders fetch more than that ahead.

        Returns:
            What `load_state_dict` takes, and JSON holds.
        """
        settings = {"seed": self.seed, "window": self.window, "clips": len(self.dataset.clips)}
        return {**settings, "epoch": self.dataset.epoch, "used": used}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on in the middle of an epoch, which the data set is told, with as many processes as before or another number.

        Args:
            state: of `state_dict`.

        Raises:
            ConfigError: it is of another seed, window or number of clips.
        """
        now = self.state_dict(0)
        if changed := [name for name in ("seed", "window", "clips") if state[name] != now[name]]:
            told = ", ".join(f"{name} was {state[name]} and is {now[name]}" for name in changed)
            raise ConfigError(f"state must be of the same clips and order, but {told}. Begin an epoch anew.")
        self.dataset.set_epoch(state["epoch"])
        self._begun = (state["epoch"], state["used"])

    def _start(self) -> int:
        return self._begun[1] if self._begun[0] == self.dataset.epoch else 0
