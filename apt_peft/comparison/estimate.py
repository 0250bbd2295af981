"""What a comparison will do and how long that may take, from one timed step of each contender."""

import time

from apt_peft.comparison.contenders import Contender
from apt_peft.comparison.plan import Plan
from apt_peft.comparison.runs import Runs, parts_of
from apt_peft.comparison.search import first_points
from apt_peft.comparison.sides import side_of
from apt_peft.training.base import threads


def estimate(plan: Plan, times: dict[str, tuple[float, float]] | None = None) -> list[str]:
    """The plan of a comparison and its hours; nothing is written.

    Args:
        plan: the comparison.
        times: seconds by contender, as `timed` gives them, of those that were timed before; those that were not are added.

    Returns:
        Lines.
    """
    settings, shared, clips = plan.settings, plan.shared, plan.clips
    times = {} if times is None else times
    held, test = parts_of(plan)[1], len(clips.test)
    trial_epochs, run_epochs = plan.trial_length()["epochs"], plan.run_length()["epochs"]
    learned, train = plan.counts()
    lines = [
        f"{train} training clips in {len(clips.labels)} classes, {held} of validation for each of {plan.parts} "
        f"part{'s' if plan.parts > 1 else ''}, {test} test clips",
        f"{settings.budget_trials} trials of {trial_epochs} epochs, then {settings.seeds} seeds of {run_epochs}, for each of "
        f"{len(plan.contenders)} contenders; compared to {plan.reference.name}",
    ]
    total = 0.0
    for contender in plan.contenders:
        if contender.name not in times:
            times[contender.name] = timed(plan, contender)
        step, forward = times[contender.name]
        views = shared.segments * shared.crops
        trial = trial_epochs * plan.steps_of_epoch(learned) * step + views * held * forward
        run = run_epochs * plan.steps_of_epoch(train) * step + views * test * forward
        seconds = settings.budget_trials * plan.parts * trial + settings.seeds * run
        total += seconds
        points = first_points(plan.start(contender))
        lines.append(
            f"  {contender.name}: {contender.described(shared)}; {plan.parameters(contender):,} parameters beside the head; "
            f"{plan.axes(contender)[0]} first {', '.join(f'{point[0]:g}' for point in points)}; a step {step:.3g} s, "
            f"{seconds / 3600:.2f} h"
        )
    return [*lines, hours(plan, total)]


def hours(plan: Runs, seconds: float) -> str:
    """What is said of the time of many runs.

    Args:
        plan: the runs.
        seconds: of all of them.
    """
    return (
        f"about {seconds / 3600:.2f} hours one run after another, from one timed step each; decoding, which the cache of frames "
        f"does once, and start-up come on top. With --jobs {plan.settings.jobs}, divide by what your cores give."
    )


def timed(plan: Runs, contender: Contender) -> tuple[float, float]:
    """Seconds of a training step, and of the forward of one clip.

    Args:
        plan: the runs.
        contender: whose.
    """
    with threads(plan.shared.threads):
        side = side_of(plan, contender)
        found = []
        for work in (side.step, side.forward):
            work()  # warms up
            side.wait()
            begun = time.perf_counter()
            work()
            side.wait()
            found.append(time.perf_counter() - begun)
    return found[0], found[1] / len(side.inputs["labels"])


__all__ = ["estimate", "hours", "parts_of", "timed"]
