"""A data set in which an epoch has as many clips of each class; Trainer shuffles and shares it out like any other."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from apt_peft.video.sampling import clip_generator

# The view of no clip, and (-1 - process) of no batch that is mixed: their draws stay apart.
NO_VIEW = -(2**31)


class BalancedDataset(Dataset):
    """The clips of a data set, those of rare classes several times an epoch and those of common ones not in each.

    With n clips in k classes, an epoch takes n / k of each class, rounded up. A class's clips come in random order, all of
    them before any comes again, from epoch to epoch, too. What is taken depends on seed and epoch only.

    Args:
        dataset: training clips, with `draw(index, occurrence)`, `epoch`, `set_epoch` and `clips`.
        labels: class of each of its clips.
        seed: of the order.
    """

    def __init__(self, dataset: Any, labels: Sequence[Any], *, seed: int = 0) -> None:
        self.dataset, self.seed = dataset, seed
        self._places = {label: [i for i, of in enumerate(labels) if of == label] for label in sorted(set(labels))}
        self._each = -(-len(labels) // len(self._places))
        self._order: tuple[int, list[tuple[int, int]]] = (-1, [])
        self._clips: tuple[int, list[Any]] = (-1, [])

    def __len__(self) -> int:
        return self._each * len(self._places)

    @property
    def epoch(self) -> int:
        """The epoch that clips are drawn for."""
        return self.dataset.epoch

    def set_epoch(self, epoch: int) -> None:
        """Take other clips from now on, in running workers too.

        Args:
            epoch: counted from 0.
        """
        self.dataset.set_epoch(epoch)

    @property
    def clips(self) -> list[Any]:
        """This epoch's clips, one at each position: what the order of clips in shards goes by."""
        epoch = self.epoch
        if self._clips[0] != epoch:
            self._clips = epoch, [self.dataset.clips[index] for index, _ in self.order()]
        return self._clips[1]

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Read a clip of this epoch; one that comes again is drawn anew."""
        return self.dataset.draw(*self.order()[position])

    def order(self) -> list[tuple[int, int]]:
        """This epoch's clips: (index, how often it came before in this epoch), by class."""
        epoch = self.epoch
        if self._order[0] != epoch:
            taken = [index for label in self._places for index in self._take(label, epoch)]
            before: Counter[int] = Counter()
            order = []
            for index in taken:
                order.append((index, before[index]))
                before[index] += 1
            self._order = (epoch, order)
        return self._order[1]

    def _take(self, label: int, epoch: int) -> list[int]:
        """A class's part of an epoch: a piece of an endless row of its clips, shuffled anew in each round."""
        places = self._places[label]
        first, last = epoch * self._each, (epoch + 1) * self._each
        rounds = range(first // len(places), -(-last // len(places)))
        row = [index for number in rounds for index in self._round(places, label, number)]
        start = first - rounds[0] * len(places)
        return row[start : start + self._each]

    def _round(self, places: list[int], label: int, number: int) -> list[int]:
        generator = clip_generator(self.seed, number, label, NO_VIEW)
        return [places[i] for i in torch.randperm(len(places), generator=generator).tolist()]
