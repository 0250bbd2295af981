"""Video files -> clips for a model: sampling, decoding, transforms, data sets and a check of the files."""

from .audit import AuditReport, audit
from .augment import RandAugment
from .cache import FrameCache
from .clip import Clip, DataSplits
from .data import hold_out, read_data, stratified_split
from .dataset import VideoDataset
from .decode import VideoReader, probe, read_frames
from .library import RemoteVideo, list_videos, video_source
from .readable import keep_readable
from .sampling import clip_generator, sample_frames, sample_segments
from .source import UnreadableVideoError, VideoInfo
from .transforms import IMAGENET_MEAN, IMAGENET_STD, ClipTransform

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "AuditReport",
    "Clip",
    "ClipTransform",
    "DataSplits",
    "FrameCache",
    "RandAugment",
    "RemoteVideo",
    "UnreadableVideoError",
    "VideoDataset",
    "VideoInfo",
    "VideoReader",
    "audit",
    "clip_generator",
    "hold_out",
    "keep_readable",
    "list_videos",
    "probe",
    "read_data",
    "read_frames",
    "sample_frames",
    "sample_segments",
    "stratified_split",
    "video_source",
]
