"""What a caller may say of a weight file."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CheckpointOptions:
    """What a weight file may leave untold; each overrides what the file's settings say.

    Args:
        image_size: pixels along each side of a frame.
        num_frames: frames of a clip.
        tubelet_size: frames of one patch token; must agree with the file's patch kernel.
        num_attention_heads: of the encoder; must agree with the prompts' width where there are prompts.
        decoder_num_attention_heads: of a pre-training file's decoder.
        keep_decoder: whether a pre-training file's decoder is converted too.
        prompt_start: index of the first layer with prompts; how many there are stands in the file.
        labels: names of the classes in the order of the head's rows.
        allow_leftover: convert even if the file holds tensors that have no place in the model.
    """

    image_size: int | None = None
    num_frames: int | None = None
    tubelet_size: int | None = None
    num_attention_heads: int | None = None
    decoder_num_attention_heads: int | None = None
    keep_decoder: bool = True
    prompt_start: int | None = None
    labels: Sequence[str] | None = None
    allow_leftover: bool = False


AS_THE_FILE_SAYS = CheckpointOptions()
