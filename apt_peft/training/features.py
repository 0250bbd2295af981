"""A run of the linear probe from stored features: what the frozen backbone makes of each clip is computed once."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from apt_peft.training import processes
from apt_peft.training.checkpoints import CACHE
from apt_peft.training.feature_store import FeatureStore
from apt_peft.training.options import FEATURES, random_changes
from apt_peft.training.seam import find_seam, take_features
from apt_peft.video import Clip
from apt_peft.video.epochs import EpochDataset

logger = logging.getLogger(__name__)


class FeatureDataset(EpochDataset):
    """Stored features of clips, as items of the form that the clips themselves have: see `VideoDataset`.

    Args:
        clips: the clips, of which labels, and the order of an epoch in shards, are taken.
        views: for each fixed draw of the clips, their features (n, ...) in pieces of as many clips each.
        training: draw one of the views by the epoch; else the features are of all test views of a clip.
        repeats: how often a training clip was augmented in each draw.
        segments: test views in time.
        crops: test views in space.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        views: Sequence[Sequence[Tensor]],
        *,
        training: bool = False,
        repeats: int = 1,
        segments: int = 1,
        crops: int = 1,
    ) -> None:
        super().__init__(clips)
        self.views, self.training, self.repeats = views, training, repeats
        self.segments, self.crops = segments, crops

    def draw(self, index: int, occurrence: int = 0) -> dict[str, Any]:
        """The features of one clip; the next view of it each time that it comes in an epoch.

        Args:
            index: of the clip.
            occurrence: how often it came before in this epoch.
        """
        index = range(len(self))[index]
        view = self.views[(self.epoch + occurrence) % len(self.views)]
        size = len(view[0])
        features, label = view[index // size][index % size], self.clips[index].label
        item: dict[str, Any] = {"pixel_values": features}
        if label is not None:
            item["labels"] = label if self.repeats == 1 else torch.full((self.repeats,), label)
        return item if self.training else item | {"index": index}


def use_features(model: Any, settings: Any, data: Any) -> None:
    """Store the features of a run's clips, unless they are, and make the run train and score from them.

    Args:
        model: a `PeftModel` that trains its head alone; from now on it takes features.
        settings: the run's flags.
        data: the run's clips; its data sets become those of the features.

    Raises:
        ConfigError: the model has no seam.
        DataError: a clip cannot be read.
    """
    device = torch.device("cpu") if processes.on_cpu(settings.device) else PartialState().device
    model.to(device)
    shape = (2, data.clips.num_frames, 3, data.clips.size, data.clips.size)
    seam = find_seam(model, torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device))
    own = settings.feature_cache == "auto"
    store = FeatureStore(
        Path(settings.out) / CACHE / FEATURES if own else Path(settings.feature_cache),
        model,
        seam,
        batch_size=settings.batch_size,
        workers=settings.workers,
        precision="bfloat16" if settings.bf16 else "float16" if settings.fp16 else "float32",
        progress=settings.progress,
    )
    changes = bool(random_changes(settings))
    training = data.training()
    views = store.load(training, views=settings.feature_views or 1, seeded=changes)
    data.stored = {"train": _items(training, views)}
    for split in ("val", "test"):
        if data.splits[split]:
            testing = data.testing(split)
            data.stored[split] = _items(testing, store.load(testing))
    logger.info("%s", store.told())
    take_features(model, seam)


def _items(dataset: Any, views: Sequence[Sequence[Tensor]]) -> FeatureDataset:
    return FeatureDataset(
        dataset.clips,
        views,
        training=dataset.training,
        repeats=dataset.repeats,
        segments=dataset.segments,
        crops=dataset.crops,
    )
