"""Clips for transformers' pipeline: a video file to what a model takes, as the adapter's own evaluation makes it."""

import os
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForVideoClassification, BatchFeature

from .errors import DataError

if TYPE_CHECKING:
    from apt_peft.training.clips import ClipSettings
    from apt_peft.video.source import Source


class ClipProcessor:
    """Stands in for a video processor in `pipeline("video-classification", ..., video_processor=...)`.

    Videos are decoded by PyAV, upright and of any length, and the frames are those of `apt-peft predict`. transformers'
    own processors decode by torchcodec alone, from its own choice of frames.

    Args:
        clips: how videos become clips; the middle view is taken where there are several.
        input_name: the model's name for them.
    """

    def __init__(self, clips: "ClipSettings", input_name: str = "pixel_values") -> None:
        self.clips = clips
        self.input_name = input_name

    @classmethod
    def from_pretrained(
        cls, adapter: str | os.PathLike, *, model: str | None = None, revision: str | None = None
    ) -> "ClipProcessor":
        """Make clips as an adapter was trained on: by its run.json, else its own or its backbone's preprocessor.

        Args:
            adapter: folder or name on the Hub.
            model: its backbone; None is the one that it names.
            revision: branch, tag or commit of an adapter on the Hub.

        Returns:
            The processor.

        Raises:
            CheckpointError: adapter or backbone cannot be read.
            ConfigError: a preprocessor file is damaged.
        """
        from apt_peft.opening import read_adapter_files
        from apt_peft.training.base import frames_and_size, read_config
        from apt_peft.training.clips import PROCESSOR_FILES, ClipSettings, clip_settings, read_processor
        from apt_peft.training.record import RUN_FILE

        wanted = SimpleNamespace(adapter=str(adapter), model=model, revision=revision)
        files, run, backbone = read_adapter_files(wanted, companions=(RUN_FILE, *PROCESSOR_FILES))
        own = str(files.folder)
        config = read_config(backbone)
        frames, size = frames_and_size(config)
        clips = clip_settings(
            SimpleNamespace(**{field.name: None for field in fields(ClipSettings)}),  # no flags
            model=own if read_processor(own) else backbone,
            frames=frames,
            size=size,
            trained=run.clips if run else None,
        )
        return cls(clips, AutoModelForVideoClassification._model_mapping[type(config)].main_input_name)

    def __call__(
        self, videos: "Source | list[Source]", *, num_frames: int | None = None, return_tensors: str = "pt", **_: Any
    ) -> BatchFeature:
        """Read one clip of each video.

        Args:
            videos: paths or bytes, one or a list.
            num_frames: T, in place of the adapter's.
            return_tensors: must be `"pt"`, as pipelines ask for.

        Returns:
            float32 (videos, T, C, height, width), under the model's name for them.

        Raises:
            DataError: frames were given in place of a file.
            UnreadableVideoError: a video cannot be read.
            MissingExtraError: PyAV or torchvision is not installed.
        """
        from apt_peft.training.datasets import video_dataset
        from apt_peft.video import Clip
        from apt_peft.video.source import Source

        sources = videos if isinstance(videos, list) else [videos]
        frames = next((source for source in sources if not isinstance(source, Source)), None)
        if frames is not None:
            raise DataError(
                f"videos ({type(frames).__name__}) must be files, by path or as bytes, but these are frames already. "
                "Leave the processor out of the pipeline's arguments to have them prepared by transformers' own."
            )
        clips = replace(self.clips, segments=1, crops=1, num_frames=num_frames or self.clips.num_frames)
        dataset = video_dataset([Clip(source) for source in sources], clips)
        return BatchFeature(
            {self.input_name: torch.cat([dataset[index]["pixel_values"] for index in range(len(sources))])}
        )
