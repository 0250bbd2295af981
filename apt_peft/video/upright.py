"""Decoded frames -> upright RGB, gathered into one tensor."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np


def upright(frame: Any, size: tuple[int, int]) -> tuple["np.ndarray", int]:
    """Turn a frame to RGB as the display matrix turns and mirrors it.

    Args:
        frame: of PyAV.
        size: width and height of stored frames in pixels; one that differs is scaled.

    Returns:
        uint8 (height, width, C), which may be a view of the frame, and the rotation in degrees counter-clockwise.
    """
    scale = {} if (frame.width, frame.height) == size else {"width": size[0], "height": size[1]}
    # One thread: threads kept in a frame would hang a worker that is forked later and clears the frame away.
    array = frame.to_ndarray(format="rgb24", threads=1, **scale)
    matrix = _matrix(frame)
    if matrix is None:
        return array, 0
    a, b, c, d = matrix
    # The matrix sends the pixel (x, y) to (a x + c y, b x + d y).
    if abs(b) > abs(a):
        array, a, d = array.transpose(1, 0, 2), c, b
    return array[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1], frame.rotation


def is_plain(frame: Any) -> bool:
    """Whether every way of making RGB of a frame is known to give the same: 8 bits, progressive, of even sides, not mirrored.

    Args:
        frame: of PyAV.
    """
    a, b, c, d = _matrix(frame) or (1, 0, 0, 1)
    return (
        all(component.bits <= 8 for component in frame.format.components)
        and not frame.interlaced_frame
        and frame.width % 2 == frame.height % 2 == 0
        and a * d > b * c
    )


def _matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """The part of a frame's display matrix that turns and mirrors."""
    import numpy as np

    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    return a, b, c, d


class Gathered:
    """Frames in one tensor, each at every place where it is wanted; written there straight from the decoder.

    Args:
        indices: frame numbers by place, repeats allowed.
        each: what is done to every frame as it comes, uint8 (1, height, width, C) -> (1, ...); None keeps it as it is.
    """

    def __init__(
        self,
        indices: Sequence[int],
        each: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self._count, self._each = len(indices), each
        self._places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            self._places.setdefault(index, []).append(place)
        self._frames: torch.Tensor | None = None

    def take(self, index: int, picture: "np.ndarray") -> None:
        """Put a frame where it belongs.

        Args:
            index: its number.
            picture: uint8 (height, width, C), upright.
        """
        import numpy as np

        if self._each is not None:
            picture = self._each(torch.from_numpy(np.ascontiguousarray(picture))[None])[0].numpy()
        if self._frames is None:
            self._frames = torch.empty((self._count, *picture.shape), dtype=torch.uint8)
        pictures = self._frames.numpy()
        first, *more = self._places[index]
        pictures[first] = picture
        for place in more:
            pictures[place] = pictures[first]

    def frames(self) -> torch.Tensor:
        """uint8 (T, height, width, C), or what `each` made of that; complete."""
        assert self._frames is not None
        return self._frames
