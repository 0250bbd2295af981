"""Videos -> the logits of their test views: each video is read once, and every forward pass is full."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from apt_peft.video.crumbs import unreadable_by_name
from apt_peft.video.guard import TIME_LIMIT
from apt_peft.video.source import UnreadableVideoError

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class ClipScores:
    """What a model says of one clip.

    Args:
        index: of the clip in its dataset.
        label: the true one; -1 where it is not known.
        logits: (views, labels), float32 on the CPU.
        error: why there are none, where the clip could not be read.
    """

    index: int
    label: int
    logits: Tensor
    error: UnreadableVideoError | None = None

    @property
    def scores(self) -> Tensor:
        """(labels,): softmax of each view, mean over the views."""
        return self.logits.softmax(dim=-1).mean(dim=0)


@torch.no_grad()
def score_each(
    model: nn.Module,
    dataset: Any,
    *,
    batch_size: int,
    workers: int = 0,
    precision: str = "float32",
    progress: bool = False,
    indices: Sequence[int] | None = None,
    on_error: str = "stop",
    time_limit: float | None = TIME_LIMIT,
) -> Iterator[ClipScores]:
    """Score clips one after another, as `score_all` does, and hand each one over as soon as all its views are scored.

    Every forward pass but the last has `batch_size` views, whatever the number of views of a clip. In memory are the frames
    of one clip, and of two for each worker.

    Args:
        model: as for `evaluate`.
        dataset: as for `evaluate`.
        batch_size: views of one forward pass.
        workers: processes that decode.
        precision: as for `evaluate`.
        progress: show a bar.
        indices: the clips to score, in this order; None is all.
        on_error: `stop` at a clip that cannot be read, or `skip` and hand over its error.
        time_limit: seconds that a worker may read one file; None is no limit.

    Returns:
        The clips in order.

    Raises:
        DataError: a video cannot be read, with `stop`; or it ended or blocked a worker.
    """
    wanted = range(len(dataset)) if indices is None else indices
    # A generator of its own: a loader otherwise draws its seed from torch's state, which training goes on with.
    loader = DataLoader(
        _Videos(dataset, wanted),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        generator=torch.Generator().manual_seed(0),
    )
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    open_clips: deque[_Open] = deque()
    # One pass is under way while the views of the next are cut: a GPU then need not wait for them.
    under_way: tuple[Tensor, list[_Open]] | None = None
    try:
        read = iter(loader)  # forks, which is better done before there is a thread that looks at the clock
        with unreadable_by_name(time_limit if workers else None):
            videos = tqdm(read, total=len(wanted), desc="evaluating", unit="clip", disable=not progress, leave=False)
            for views, owners in _full_batches(_opened(videos, wanted, open_clips, on_error), batch_size):
                begun = view_logits(model, owners[-1].video.finish(views.to(device)), precision), owners
                _hand_out(under_way)
                under_way = begun
                yield from _done(open_clips)
            _hand_out(under_way)
            yield from _done(open_clips)
    finally:
        model.train(was_training)


class _Videos(Dataset):
    """The test views of the wanted videos, or the error of one that cannot be read."""

    def __init__(self, dataset: Any, wanted: Sequence[int]) -> None:
        self.dataset, self.wanted = dataset, wanted

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, place: int) -> Any:
        index = self.wanted[place]
        try:
            if hasattr(self.dataset, "test_views"):
                return self.dataset.test_views(index)
            item = self.dataset[index]
        except UnreadableVideoError as error:
            return error
        return _InMemory(item["pixel_values"], item.get("labels"))


@dataclass(frozen=True)
class _InMemory:
    """Views (views, T, C, height, width) of a dataset that has all of them ready."""

    views: Tensor
    label: int | None

    def __len__(self) -> int:
        return len(self.views)

    def cut(self, start: int, stop: int) -> Tensor:
        return self.views[start:stop]

    def finish(self, views: Tensor) -> Tensor:
        return views


@dataclass(eq=False)
class _Open:
    """A clip whose views are being scored."""

    index: int
    video: Any
    logits: list[Tensor]
    error: UnreadableVideoError | None = None

    @property
    def views(self) -> int:
        return 0 if self.error else len(self.video)


def _as_it_is(item: Any) -> Any:
    return item


def _opened(videos: Iterable[Any], wanted: Sequence[int], open_clips: deque, on_error: str) -> Iterator[_Open]:
    for index, video in zip(wanted, videos, strict=True):
        error = video if isinstance(video, UnreadableVideoError) else None
        if error is not None and on_error == "stop":
            raise error
        open_clips.append(_Open(index, video, [], error))
        yield open_clips[-1]


def _full_batches(clips: Iterable[_Open], batch_size: int) -> Iterator[tuple[Tensor, list[_Open]]]:
    """Views (batch_size, T, C, height, width; fewer in the last batch) and the clip of each."""
    parts: list[Tensor] = []
    owners: list[_Open] = []
    for clip in clips:
        start = 0
        while start < clip.views:
            stop = min(start + batch_size - len(owners), clip.views)
            parts.append(clip.video.cut(start, stop))
            owners += [clip] * (stop - start)
            start = stop
            if len(owners) == batch_size:
                yield torch.cat(parts), owners
                parts, owners = [], []
    if owners:
        yield torch.cat(parts), owners


def _hand_out(batch: tuple[Tensor, list[_Open]] | None) -> None:
    """Give each clip the logits of its views."""
    if batch is not None:
        for row, clip in zip(batch[0].cpu(), batch[1], strict=True):
            clip.logits.append(row)


def _done(open_clips: deque) -> Iterator[ClipScores]:
    while open_clips and len(open_clips[0].logits) == open_clips[0].views:
        clip = open_clips.popleft()
        logits = torch.stack(clip.logits) if clip.logits else torch.empty(0, 0)
        label = getattr(clip.video, "label", None)
        yield ClipScores(clip.index, -1 if label is None else int(label), logits, clip.error)


def view_logits(model: nn.Module, views: Tensor, precision: str) -> Tensor:
    """The logits of some views.

    Args:
        model: video classifier.
        views: (n, T, C, height, width) on the model's device.
        precision: `float32`, or `bfloat16` or `float16` for autocast.

    Returns:
        (n, labels) float32, on that device.
    """
    dtype = PRECISIONS[precision]
    with torch.autocast(views.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        return clip_logits(model(views).logits, len(views)).float()


def clip_logits(logits: Tensor, clips: int) -> Tensor:
    """One row of logits for each clip, whatever shape a model gives them.

    Args:
        logits: (clips, labels), as most models give them; (clips, 1, labels) of VideoPrism; (clips x frames, labels) of a
            TimeSformer with `space_only` attention, whose classifier sees each frame by itself.
        clips: how many.

    Returns:
        (clips, labels), the mean over the frames.
    """
    return logits if logits.shape[:-1] == (clips,) else logits.reshape(clips, -1, logits.shape[-1]).mean(dim=1)
