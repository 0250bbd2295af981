"""What data sets have in common whose items are others in each epoch: the clips, and the epoch's number."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from .clip import Clip


class EpochDataset(Dataset, ABC):
    """Clips of which an item is drawn by the epoch; how is said by `draw`.

    Args:
        clips: the videos.
    """

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.clips = clips
        # In shared memory, so that workers which already run see a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def epoch(self) -> int:
        """The epoch that items are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw other items from now on, in running workers too.

        Args:
            epoch: counted from 0.
        """
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The item of a clip, at its first time in the epoch.

        Args:
            index: of the clip.
        """
        return self.draw(index)

    @abstractmethod
    def draw(self, index: int, occurrence: int = 0) -> dict[str, Any]:
        """The item of a clip; another draw of it each time that it comes in an epoch.

        Args:
            index: of the clip.
            occurrence: how often it came before in this epoch.
        """
