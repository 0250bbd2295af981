"""Tasks of moving shapes in memory: what is to be looked at is another thing than what the backbone looks at by itself.

Both are drawn by the demo's generator; the backbones here were trained to follow the *larger* of two shapes.

    red      two shapes, one red, the other green or blue; the label is the red one's direction
    faster   two shapes of any colours, one fast, one slow; the label is the fast one's direction
"""

import torch
from torch import Tensor

from apt_peft.demo import clips
from apt_peft.demo.build_backbone import MEAN, STD

CLASSES = len(clips.DIRECTIONS)
TEST_CLIPS = 800
POOL_CLIPS = 1024  # of the draw on which choices are made: two folds of as many clips as a final run trains on
TRAIN_CLIPS = 512
SLOW, FAST = (0.8, 1.3), (2.2, 3.0)  # pixels a frame
CHUNK = 64


def red(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw clips of the demo's own task.

    Args:
        n: number of clips.
        generator: source of every random number.

    Returns:
        uint8 clips (n, T, height, width, C); labels (n,).
    """
    frames, labels, _ = clips.red(n, generator)
    return frames, labels


def faster(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw clips of two shapes, sizes and colours at random, and ask for the direction of the faster.

    Args:
        n: number of clips.
        generator: source of every random number.

    Returns:
        uint8 clips (n, T, height, width, C); labels (n,).
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, generator=generator)

    is_larger, is_fast = (torch.randint(0, 2, (n, 1), generator=generator) for _ in range(2))
    shapes = clips.Shapes(
        kinds=torch.randint(0, len(clips.KINDS), (n, 2), generator=generator),
        radii=torch.where(torch.arange(2) == is_larger, uniform(6, 8.5), uniform(4, 5.5)),
        directions=torch.randint(0, CLASSES, (n, 2), generator=generator),
        speeds=torch.where(torch.arange(2) == is_fast, uniform(*FAST), uniform(*SLOW)),
        hues=torch.randint(0, len(clips.HUES), (n, 2), generator=generator),
    )
    return clips.render(shapes, generator), shapes.directions.gather(1, is_fast)[:, 0]


TASKS = {"red": red, "faster": faster}


def draw(task: str, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clips of a task as a model wants them.

    Args:
        task: key of `TASKS`.
        n: number of clips.
        seed: they are a function of it.

    Returns:
        float32 clips (n, T, C, height, width), of mean 0 and deviation 1 or so; labels (n,).
    """
    generator = torch.Generator().manual_seed(seed)
    parts = [TASKS[task](min(CHUNK, n - at), generator) for at in range(0, n, CHUNK)]
    frames, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return (frames.permute(0, 1, 4, 2, 3).float() / 255 - MEAN) / STD, labels


def split(task: str, *, part: str, seed: int, fold: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What one run trains on, and what it is scored on.

    Args:
        task: key of `TASKS`.
        part: `validation`: one half of a pool of training clips against the other; `test`: a draw of training clips against
            the test clips, which are the same for all seeds and take no part in any choice.
        seed: which draw of training clips; pools and final draws are different ones.
        fold: 0 or 1, the half that validates.

    Returns:
        Training clips and labels; clips and labels to score on.
    """
    if part == "test":
        return draw(task, TRAIN_CLIPS, 2 * seed), draw(task, TEST_CLIPS, 1_000_001)
    frames, labels = draw(task, POOL_CLIPS, 2 * seed + 1_000)
    halves = [(frames[at::2], labels[at::2]) for at in range(2)]
    return halves[1 - fold], halves[fold]
