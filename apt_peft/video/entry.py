"""One file of prepared frames: each frame with its own checksum, so that a few are read without the rest.

Layout, little-endian: `HEAD`, then a row of `TABLE` for each frame by rising number, then the frames. The first checksum
covers all before the frames but itself.
"""

import io
import os
import struct
import zlib
from collections.abc import Sequence
from io import FileIO
from typing import IO, TYPE_CHECKING

import torch

from ..errors import require

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("raw", "jpeg")
JPEG_QUALITY = 95
MAGIC = b"APTFRAME"
# Mark, checksum, format, frames in the video, frames stored, height, width.
HEAD = struct.Struct("<8sIIIIII")
TABLE = [("index", "<u4"), ("checksum", "<u4"), ("start", "<u8"), ("length", "<u4")]
CHANNELS = 3


class DamagedEntryError(Exception):
    """An entry that is not what was written."""


class Entry:
    """An entry opened for reading.

    Args:
        path: of the file.

    Raises:
        DamagedEntryError: it is absent, or its beginning is not what was written.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        import numpy as np

        try:
            self._file: FileIO = open(path, "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            raise DamagedEntryError from None
        try:
            head = self._file.read(HEAD.size)
            if len(head) < HEAD.size:
                raise DamagedEntryError
            magic, checksum, kind, self.num_video_frames, count, self._height, self._width = HEAD.unpack(head)
            size = count * np.dtype(TABLE).itemsize
            if magic != MAGIC or kind >= len(FORMATS) or HEAD.size + size > os.fstat(self._file.fileno()).st_size:
                raise DamagedEntryError
            self._format = FORMATS[kind]
            table = self._file.read(size)
            if _head_checksum(head, table) != checksum:
                raise DamagedEntryError
        except BaseException:
            self._file.close()
            raise
        self._table = np.frombuffer(table, TABLE)

    def __enter__(self) -> "Entry":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def frames(self, indices: Sequence[int]) -> torch.Tensor:
        """Read some frames.

        Args:
            indices: numbers in the video, repeats allowed.

        Returns:
            uint8 (T, C, height, width).

        Raises:
            DamagedEntryError: one is not stored, or is not what was written.
        """
        import numpy as np

        unique, places = np.unique(np.asarray(indices), return_inverse=True)
        rows = np.searchsorted(self._table["index"], unique)
        if rows[-1] >= len(self._table) or (self._table["index"][rows] != unique).any():
            raise DamagedEntryError
        frames = torch.empty((len(unique), CHANNELS, self._height, self._width), dtype=torch.uint8)
        arrays = frames.numpy()
        for place, (_, checksum, start, length) in enumerate(self._table[rows].tolist()):
            target = arrays[place].reshape(-1) if self._format == "raw" else np.empty(length, np.uint8)
            self._file.seek(start)
            if (
                len(target) != length
                or self._file.readinto(target.data) != length
                or zlib.crc32(target.data) != checksum
            ):
                raise DamagedEntryError
            if self._format == "jpeg":
                frames[place] = decode_jpeg(target, self._height, self._width)
        return frames if len(unique) == len(places) else frames[torch.from_numpy(places)]


class EntryWriter:
    """Writes an entry into an open file; what it gives back is what will be read.

    Args:
        file: empty, open for writing bytes.
        format: of `FORMATS`.
    """

    def __init__(self, file: IO[bytes], format: str) -> None:
        self._file, self._format = file, format

    def begin(self, num_video_frames: int, count: int) -> None:
        """Start, or start anew.

        Args:
            num_video_frames: frames of the video.
            count: frames that will be added.
        """
        import numpy as np

        self._num_video_frames, self._count, self._shape = num_video_frames, count, (0, 0)
        self._rows: list[tuple[int, int, int, int]] = []
        self._file.seek(HEAD.size + count * np.dtype(TABLE).itemsize)

    def size(self, frame: torch.Tensor) -> int:
        """Bytes of the whole entry, from one of its frames; of JPEG the most that it may plausibly take."""
        import numpy as np

        frame_bytes = frame.numel() if self._format == "raw" else frame.numel() // 4
        return HEAD.size + self._count * (np.dtype(TABLE).itemsize + frame_bytes)

    def add(self, index: int, frame: torch.Tensor) -> torch.Tensor:
        """Write a frame.

        Args:
            index: its number in the video.
            frame: uint8 (C, height, width).

        Returns:
            What will be read: itself, or what JPEG makes of it.
        """
        self._shape = (frame.shape[1], frame.shape[2])
        if self._format == "raw":
            content = frame.contiguous().numpy().reshape(-1)
        else:
            content = encode_jpeg(frame)
            frame = decode_jpeg(content, *self._shape)
        self._rows.append((index, zlib.crc32(content.data), self._file.tell(), len(content)))
        self._file.write(content.data)
        return frame

    def finish(self) -> int:
        """Write the beginning; the entry is whole now, but for what may follow its end.

        Returns:
            Its size in bytes.
        """
        import numpy as np

        end = self._file.tell()
        table = np.array(sorted(self._rows), TABLE).tobytes()
        fields = (FORMATS.index(self._format), self._num_video_frames, self._count, *self._shape)
        head = HEAD.pack(MAGIC, 0, *fields)
        self._file.seek(0)
        self._file.write(HEAD.pack(MAGIC, _head_checksum(head, table), *fields) + table)
        self._file.flush()
        return end


def encode_jpeg(frame: torch.Tensor) -> "np.ndarray":
    """JPEG of quality `JPEG_QUALITY`, colours at half the resolution.

    Args:
        frame: uint8 (C, height, width).

    Returns:
        uint8 (bytes,).
    """
    import numpy as np

    content = io.BytesIO()
    image = require("PIL.Image", "video").fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    image.save(content, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return np.frombuffer(content.getvalue(), np.uint8)


def decode_jpeg(content: "np.ndarray", height: int, width: int) -> torch.Tensor:
    """What a JPEG of colours shows.

    Args:
        content: uint8 (bytes,).
        height: of the picture, in pixels.
        width: of the picture, in pixels.

    Returns:
        uint8 (C, height, width).
    """
    import numpy as np

    # Pillow's decoder itself: `Image.open` looks through the header first, which takes a tenth of the time again.
    image = require("PIL.Image", "video").frombytes("RGB", (width, height), content.data, "jpeg", "RGB", "")
    frame = torch.empty((CHANNELS, height, width), dtype=torch.uint8)
    # Channel by channel: the picture as one array would be copied twice more.
    for channel, plane in zip(frame.numpy(), image.split(), strict=True):
        channel.reshape(-1)[:] = np.frombuffer(plane.tobytes(), np.uint8)
    return frame


def _head_checksum(head: bytes, table: bytes) -> int:
    return zlib.crc32(table, zlib.crc32(head[12:]))
