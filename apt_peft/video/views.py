"""The test views of one video, cut out of its frames when they are asked for: 30 views in floats are 290 MB."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .transforms import ClipTransform


@dataclass(frozen=True)
class VideoViews:
    """All test views of one video: its segments in time, each in its crops.

    Args:
        segments: prepared frames of each segment, uint8 (T, C, height, width).
        transform: what prepared them.
        crops: of each segment.
        label: of the video, None where it is not known.
    """

    segments: Sequence[torch.Tensor]
    transform: ClipTransform
    crops: int
    label: int | None

    def __len__(self) -> int:
        return len(self.segments) * self.crops

    def cut(self, start: int, stop: int) -> torch.Tensor:
        """Some views as they are in memory, for `finish`.

        Args:
            start: the first, from 0.
            stop: the one after the last.

        Returns:
            uint8 (stop - start, T, C, size, size).
        """
        places = (divmod(view, self.crops) for view in range(start, stop))
        return torch.stack(
            [self.transform.cut_view(self.segments[segment], crop, self.crops) for segment, crop in places]
        )

    def finish(self, views: torch.Tensor) -> torch.Tensor:
        """What a model takes, on the device of the views.

        Args:
            views: of `cut`, of this video or others of the same data set.

        Returns:
            float32 of the same shape.
        """
        return self.transform.normalize(views)
