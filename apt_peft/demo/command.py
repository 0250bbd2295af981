"""`apt-peft demo`: clips, a linear probe, prompts, one table and a picture, all through `apt-peft train`'s own code."""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apt_peft import settings as flags
from apt_peft.demo.settings import BACKBONE, RECIPES, SHARED, DemoSettings
from apt_peft.errors import ConfigError, require

EXAMPLE = """examples:
  apt-peft demo
  apt-peft demo --seed 1 --out runs/demo-1
"""
LABELS = {"linear": "linear probe", "apt": "attention prompts"}
TASK = (
    "Task: two shapes move, name the direction of the red one. The frozen backbone was trained on another question,\n"
    "the direction of the larger shape, so it looks at the wrong shape in half of the clips."
)


@dataclass(frozen=True)
class MethodResult:
    """One line of the table.

    Args:
        name: of the run and of its folder.
        label: what the table calls it.
        trained_parameters: numbers that were trained, head included.
        top1: per cent of the test clips.
        top1_red_larger: per cent of those in which the red shape is the larger.
        top1_red_smaller: per cent of the others.
        seconds: training and test, from files to score.
        training_seconds: of these, the training.
        settings: what the run was told besides its defaults.
    """

    name: str
    label: str
    trained_parameters: int
    top1: float
    top1_red_larger: float
    top1_red_smaller: float
    seconds: float
    training_seconds: float
    settings: dict[str, Any]


@dataclass(frozen=True)
class DemoResult:
    """What a demo found.

    Args:
        out: its folder.
        seed: its seed.
        train_clips: clips trained on.
        test_clips: clips tested on, once for each method, after its last epoch.
        generation_seconds: time taken to draw and write the clips.
        methods: one result a method.
    """

    out: str
    seed: int
    train_clips: int
    test_clips: int
    generation_seconds: float
    methods: tuple[MethodResult, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting.

    Args:
        parser: of the command.
    """
    parser.epilog = EXAMPLE
    flags.add_arguments(parser, DemoSettings)


def run(args: argparse.Namespace) -> int:
    """Run the demo, and print its table.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        AptError: a setting breaks its rule, the folder is in use, or an optional package is missing.
    """
    start = time.perf_counter()
    settings = flags.from_arguments(DemoSettings, vars(args))
    print(TASK, flush=True)
    result = demo(settings)
    print(table(result))
    print(f"{time.perf_counter() - start:.0f} s in all. Picture: {Path(settings.out) / 'demo.png'}")
    return 0


def demo(settings: DemoSettings, recipes: dict[str, dict[str, Any]] = RECIPES) -> DemoResult:
    """Generate clips, train and test each method on them, and write OUT/results.json and OUT/demo.png.

    Args:
        settings: the demo's flags.
        recipes: settings of `apt-peft train` by the name of each run, whose adapter goes to OUT/NAME.

    Returns:
        The scores.

    Raises:
        AptError: the folder is in use, or an optional package is missing.
    """
    for module in ("av", "torchvision", "matplotlib"):
        require(module, "train")
    from apt_peft.demo.picture import draw

    out = Path(settings.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"out ({out}) must be a new or empty folder, but there is something in it. Delete it, or choose another --out."
        )
    start = time.perf_counter()
    red_is_larger = _write_clips(settings, out / "clips")
    generation_seconds = time.perf_counter() - start
    methods = tuple(_train(settings, out, name, recipe, red_is_larger) for name, recipe in recipes.items())
    result = DemoResult(
        settings.out, settings.seed, settings.train_clips, settings.test_clips, round(generation_seconds, 2), methods
    )
    (out / "results.json").write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    draw(result, red_is_larger, out / "demo.png")
    return result


def table(result: DemoResult) -> str:
    """The scores as text, one method a line.

    Args:
        result: of a demo.

    Returns:
        Lines of aligned columns.
    """
    rows = [("method", "trained parameters", "top-1", "seconds")]
    for found in result.methods:
        rows.append((found.label, f"{found.trained_parameters:,}", f"{found.top1:.1f} %", f"{found.seconds:.0f}"))
    first, *rest = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        "  ".join([name.ljust(first), *(text.rjust(width) for text, width in zip(numbers, rest, strict=True))])
        for name, *numbers in rows
    )


def _write_clips(settings: DemoSettings, folder: Path) -> dict[str, bool]:
    """Write both splits; for each test clip's name, whether the red shape is the larger."""
    from tqdm.auto import tqdm

    from apt_peft.demo.clips import write_split

    with tqdm(
        total=settings.train_clips + settings.test_clips, desc="clips", unit="clip", disable=not settings.progress
    ) as bar:
        write_split(folder, "train", settings.train_clips, seed=settings.seed, on_clip=bar.update)
        return write_split(folder, "test", settings.test_clips, seed=settings.seed, on_clip=bar.update)


def _train(
    settings: DemoSettings, out: Path, name: str, recipe: dict[str, Any], red_is_larger: dict[str, bool]
) -> MethodResult:
    """One run of `apt-peft train`, tested once after its last epoch."""
    from apt_peft.training.settings import TrainSettings
    from apt_peft.training.train import train

    start = time.perf_counter()
    told = {**SHARED, **recipe} | ({} if settings.epochs is None else {"epochs": settings.epochs})
    result = train(
        TrainSettings(
            model=str(BACKBONE),
            data=str(out / "clips"),
            out=str(out / name),
            seed=settings.seed,
            threads=settings.threads,
            progress=settings.progress,
            device="cpu",
            **told,
        )
    )
    test = result.test
    assert test is not None, "a run with test clips has their scores"
    right = {clip: bool(hit) for clip, hit in zip(test.names, test.predictions == test.targets, strict=True)}

    def top1(larger: bool) -> float:
        hits = [right[clip] for clip, is_larger in red_is_larger.items() if is_larger is larger]
        return round(100 * sum(hits) / max(1, len(hits)), 2)

    return MethodResult(
        name=name,
        label=LABELS.get(name, name),
        trained_parameters=result.trained_parameters,
        top1=round(test.top1, 2),
        top1_red_larger=top1(True),
        top1_red_smaller=top1(False),
        seconds=round(time.perf_counter() - start, 2),
        training_seconds=round(result.seconds, 2),
        settings=told,
    )
