"""Checkpoints within an epoch, for epochs that take hours."""

from typing import Any

from transformers import TrainerCallback, TrainingArguments


class SaveMidway(TrainerCallback):
    """Saves every so many optimizer steps; the end of an epoch is saved in any case.

    The loss is logged there, too: Trainer's sum of it is not in a checkpoint, so a run that goes on would else log
    another mean than one that was never stopped.

    Args:
        steps: optimizer steps between two checkpoints, counted from the start of the run.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @classmethod
    def of(cls, settings: Any) -> "list[SaveMidway]":
        """The callback that a run's flags ask for, or none.

        Args:
            settings: of the run.
        """
        return [] if settings.save_steps is None else [cls(settings.save_steps)]

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ask for a checkpoint where one is due."""
        if state.global_step % self.steps == 0 and not float(state.epoch).is_integer():
            control.should_save = control.should_log = True
        return control
